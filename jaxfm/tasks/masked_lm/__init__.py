"""Masked-LM pretraining (Devlin et al. 2019, section 3.1), from scratch or from any weights."""
