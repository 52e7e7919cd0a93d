"""Norms that save their input and one or two numbers a token for the backward pass."""

# D model

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.parallel.mesh import with_axes


class LayerNorm(nnx.LayerNorm):
    """flax's layer norm with its parameters, computed by `normalise`, under a name that profiles know."""

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array, *, mask: None = None) -> jax.Array:
        """Returns an array of the shape of `x`."""
        assert mask is None and self.scale is not None
        bias = None if self.bias is None else self.bias[...]
        y: jax.Array = normalise(x, self.scale[...], bias, self.epsilon)
        return y.astype(self.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019): no mean is subtracted, and there is no bias."""

    def __init__(self, config: EncoderConfig, width: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the scale [D]: with `norm_scale_offset` the factor is 1 at first all the same."""
        self.offset, self.epsilon, self.dtype = config.norm_scale_offset, config.norm_eps, dtype
        init = nnx.initializers.constant(1.0 - self.offset)
        self.scale = nnx.Param(with_axes(init, "norm")(rngs.params(), (width,), jnp.float32))

    @jax.named_scope("norm")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns an array of the shape of `x`."""
        y: jax.Array = rms_normalise(x, self.scale[...] + self.offset, self.epsilon)
        return y.astype(self.dtype)


def make_norm(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs, width: int | None = None) -> LayerNorm | RMSNorm:
    """Makes a norm of the encoder's kind, over `width` numbers (default: hidden_size)."""
    width = width or config.hidden_size
    if config.norm == "rms":
        return RMSNorm(config, width, dtype, rngs)
    return LayerNorm(
        width,
        epsilon=config.norm_eps,
        dtype=dtype,
        use_bias=config.norm_bias,
        scale_init=with_axes(nnx.initializers.ones_init(), "norm"),
        bias_init=with_axes(nnx.initializers.zeros_init(), "norm"),
        rngs=rngs,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None, epsilon: float) -> jax.Array:
    """Layer norm over the last axis (Ba et al. 2016, section 3) in the dtype of `x`.

    All is computed in f32, the variance in a second pass (the one-pass form loses digits). The backward pass computes
    again from `x` what autodiff would save, two f32 arrays a norm (profiles/NOTES.md).
    """
    return _forward(x, scale_D, bias_D, epsilon)[0]


def _forward(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None, epsilon: float) -> tuple[jax.Array, Any]:
    wide = _wide(x)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = (wide - mean) * inverse * scale_D
    y = y if bias_D is None else y + bias_D
    return y.astype(x.dtype), (x, mean, inverse, scale_D, bias_D)


def _backward(epsilon: float, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    x, mean, inverse, scale_D, bias_D = saved
    gradient = _wide(gradient)
    normal = (_wide(x) - mean) * inverse
    of_normal = gradient * scale_D
    along = jnp.mean(of_normal * normal, axis=-1, keepdims=True)
    of_x = inverse * (of_normal - jnp.mean(of_normal, axis=-1, keepdims=True) - normal * along)
    leading = tuple(range(x.ndim - 1))
    of_scale = jnp.sum(gradient * normal, axis=leading).astype(scale_D.dtype)
    of_bias = None if bias_D is None else jnp.sum(gradient, axis=leading).astype(bias_D.dtype)
    return of_x.astype(x.dtype), of_scale, of_bias


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


normalise.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_normalise(x: jax.Array, scale_D: jax.Array, epsilon: float) -> jax.Array:
    """Root-mean-square norm over the last axis in the dtype of `x`, computed in f32 (as `normalise`)."""
    return _rms_forward(x, scale_D, epsilon)[0]


def _rms_forward(x: jax.Array, scale_D: jax.Array, epsilon: float) -> tuple[jax.Array, Any]:
    wide = _wide(x)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon)
    return (wide * inverse * scale_D).astype(x.dtype), (x, inverse, scale_D)


def _rms_backward(epsilon: float, saved: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, inverse, scale_D = saved
    gradient, normal = _wide(gradient), _wide(x) * inverse
    of_normal = gradient * scale_D
    along = jnp.mean(of_normal * normal, axis=-1, keepdims=True)
    of_scale = jnp.sum(gradient * normal, axis=tuple(range(x.ndim - 1))).astype(scale_D.dtype)
    return (inverse * (of_normal - normal * along)).astype(x.dtype), of_scale


rms_normalise.defvjp(_rms_forward, _rms_backward)
