"""Inputs changed on purpose: what people type, scan, photograph and name otherwise, by kind and severity."""
