"""Replaced-token detection (ELECTRA, Clark et al. 2020)."""
