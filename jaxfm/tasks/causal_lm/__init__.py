"""Causal-LM pretraining (Radford et al. 2018): each token is predicted from those before it."""
