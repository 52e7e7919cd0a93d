"""Scores, calibration, and how sure they are."""
