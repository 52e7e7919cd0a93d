"""Faults made on purpose, and what a run makes of them: docs/reliability.md."""
