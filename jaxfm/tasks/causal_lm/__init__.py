"""Causal-LM pretraining: each token is predicted from those before it (Radford et al. 2018), from scratch or weights."""
