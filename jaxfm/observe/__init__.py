"""Metrics, writers, progress bars, tables, plots and reports."""
