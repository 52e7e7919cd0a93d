"""jaxfm: pretrain and fine-tune encoder foundation models in JAX."""

__version__ = "0.1.0"
