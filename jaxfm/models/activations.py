"""Activation functions in forms that compile well everywhere; they save only their input for the backward pass."""

import math

import jax
import jax.numpy as jnp
from jax import lax


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact gelu, x * Phi(x) (Hendrycks and Gimpel 2016): by erf, which XLA vectorises on CPU, unlike erfc.

    Its gradient computes erf again from `x`: autodiff would save three more arrays of that shape, the largest of a
    layer, and writing and reading them takes longer than an erf (profiles/NOTES.md).
    """
    return x * (0.5 * (1.0 + lax.erf(x * (0.5**0.5)))).astype(x.dtype)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), x


def _backward(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    below = 0.5 * (1.0 + lax.erf(wide * (0.5**0.5)))
    density = jnp.exp(-0.5 * wide * wide) * (1.0 / math.sqrt(2.0 * math.pi))
    return ((gradient * (below + wide * density)).astype(x.dtype),)


gelu.defvjp(_forward, _backward)
