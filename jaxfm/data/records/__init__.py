"""Labelled and unlabelled records, a file a format."""
