"""Corpora of plain text: read, prepared once, kept in shards."""
