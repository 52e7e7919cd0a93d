"""Metrics, writers, progress and reports: all that a person sees."""
