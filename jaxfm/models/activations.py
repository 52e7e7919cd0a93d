"""Activation functions in the forms that compile well everywhere."""

import jax
from jax import lax


def gelu(x: jax.Array) -> jax.Array:
    """Exact gelu, x * Phi(x) (Hendrycks and Gimpel 2016): by erf, which XLA vectorises on CPU (erfc it does not)."""
    return x * (0.5 * (1.0 + lax.erf(x * (0.5**0.5)))).astype(x.dtype)
