"""Activation functions in forms that compile well everywhere; they save only their input for the backward pass."""

import math
from collections.abc import Callable, Mapping

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


def _saving_input(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Returns a function that saves only its input for the backward pass, in which it is computed again."""
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda x: (function(x), x), lambda x, gradient: jax.vjp(function, x)[1](gradient))
    return wrapped


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


# By the names that `EncoderConfig` has for them. Sources: Hendrycks and Gimpel 2016 (gelu; by tanh and by the logistic
# function in section 2), Ramachandran et al. 2017 (silu).
ACTIVATION: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": _saving_input(_gelu_tanh),
    "quick_gelu": _saving_input(_quick_gelu),
    "relu": jax.nn.relu,
    "silu": _saving_input(jax.nn.silu),
    "tanh": jnp.tanh,
}
