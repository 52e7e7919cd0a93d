"""Texts to a vector a token, compared by MaxSim (ColBERT): late interaction."""
