"""Entities that may lie inside each other: every span of words up to a width is scored."""
