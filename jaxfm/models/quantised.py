"""Products with rounded weights and inputs: simulated while training, of integers afterwards; and what inputs measure.

A linear map of a layer (`adapters.Linear`) is the only caller: its product is the one place where weights and inputs
are rounded.
"""

# K inputs and O outputs of a map, each one axis or several; G groups of K

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.core.encoder_config import STORED, TRAINED, Quantisation
from jaxfm.models.products import tensordot

# Of inputs: integers of 8 bits. A range is that of the positive ones.
INPUT_LIMIT = 127
BINS = 2048  # of the histogram of an input's absolute values


def limit_of(bits: int) -> int:
    """Returns the largest integer of weights: symmetric, so that a weight's sign costs nothing."""
    return 2 ** (bits - 1) - 1


def weight_scales(kernel_KO: Any, bits: int, group: int) -> jax.Array:
    """Returns the scales f32 [G, O] by which the largest weight of each column and group becomes `limit_of(bits)`.

    A group of zeros has the scale 1. (By 1 / limit, not divided: XLA divides by constants in that way, numpy does not.)
    """
    largest_GO = jnp.max(jnp.abs(_grouped(kernel_KO, group)), axis=1)
    return jnp.where(largest_GO > 0, largest_GO * (1 / limit_of(bits)), 1.0)


def round_weights(kernel_KO: Any, scale_GO: Any, bits: int, group: int) -> jax.Array:
    """Returns the nearest integers [K, O], as f32, to weights divided by their scales (ties to even)."""
    whole = jnp.round(_grouped(kernel_KO, group) / scale_GO[:, None])
    return _ungrouped(jnp.clip(whole, -limit_of(bits), limit_of(bits)), len(kernel_KO))


def scaled_weights(whole_KO: Any, scale_GO: Any, group: int) -> jax.Array:
    """Returns the weights f32 [K, O] that integers and their scales stand for."""
    return _ungrouped(_grouped(jnp.asarray(whole_KO, jnp.float32), group) * scale_GO[:, None], len(whole_KO))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def simulate_weights(kernel_KO: jax.Array, bits: int, group: int) -> jax.Array:
    """Returns the weights rounded; their gradient is that of the weights (straight-through: Bengio et al. 2013)."""
    scale_GO = weight_scales(kernel_KO, bits, group)
    return scaled_weights(round_weights(kernel_KO, scale_GO, bits, group), scale_GO, group)


def _simulate_weights_backward(bits: int, group: int, saved: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (gradient,)


simulate_weights.defvjp(
    lambda kernel_KO, bits, group: (simulate_weights(kernel_KO, bits, group), None), _simulate_weights_backward
)


def round_inputs(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the nearest integers of 8 bits, in f32, to inputs divided by their scale (ties to even)."""
    return jnp.clip(jnp.round(x.astype(jnp.float32) / scale), -INPUT_LIMIT - 1, INPUT_LIMIT)


@jax.custom_vjp
def simulate_inputs(x: jax.Array, log2_range: jax.Array) -> jax.Array:
    """Returns inputs rounded within a learned range, in their dtype.

    Gradients are those of Jain et al. 2020 ("Trained quantization thresholds", equations 6 and 7): inputs within the
    range have that of the output, others none; the range's is that of rounding errors within and of cuts outside. The
    latter is divided by the root of features times integers (Esser et al. 2020, "Learned step size quantization",
    section 2.2), or the ranges alone would make the gradient norm by which all gradients are clipped.
    """
    scale = jnp.exp2(log2_range) * (1 / INPUT_LIMIT)
    return (round_inputs(x, scale) * scale).astype(x.dtype)


def _simulate_inputs_forward(x: jax.Array, log2_range: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return simulate_inputs(x, log2_range), (x, log2_range)


def _simulate_inputs_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, log2_range = saved
    scale = jnp.exp2(log2_range) * (1 / INPUT_LIMIT)
    steps, whole = x.astype(jnp.float32) / scale, round_inputs(x, scale)
    within = jnp.round(steps) == whole
    of_scale = jnp.sum(gradient.astype(jnp.float32) * jnp.where(within, whole - steps, whole))
    features = math.prod(x.shape[2:] if x.ndim > 2 else x.shape[1:])
    slope = of_scale * scale * (math.log(2) / math.sqrt(features * INPUT_LIMIT))
    return jnp.where(within, gradient, jnp.zeros((), gradient.dtype)), slope


simulate_inputs.defvjp(_simulate_inputs_forward, _simulate_inputs_backward)


def token_scales(x: jax.Array, inputs: int) -> jax.Array:
    """Returns the scale of each token by its largest input, f32 [..., 1]: `x` without its last `inputs` axes."""
    axes = tuple(range(x.ndim - inputs, x.ndim))
    largest = jnp.max(jnp.abs(x.astype(jnp.float32)), axis=axes, keepdims=True)
    return jnp.where(largest > 0, largest * (1 / INPUT_LIMIT), 1.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def integer_product(
    x: jax.Array, whole_KO: jax.Array, kernel_scale_O: jax.Array, input_scale: jax.Array, inputs: int
) -> jax.Array:
    """Returns the product over the last `inputs` axes of `x` and the first of `whole_KO`, computed of integers.

    Integers of 8 bits are multiplied and summed in 32: exactly, for up to 130,000 inputs. The sum is scaled once and
    rounded to the dtype of `x`. The gradient of `x` is that of the product in floats.

    Args:
      x: [..., K].
      whole_KO: int8.
      kernel_scale_O: f32, of each output.
      input_scale: f32, of all inputs or of each token ([..., 1]).
      inputs: number of axes that K is.
    """
    whole = round_inputs(x, input_scale).astype(jnp.int8)
    contracted = (tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs)))
    sums = lax.dot_general(whole, whole_KO, (contracted, ((), ())), preferred_element_type=jnp.int32)
    if input_scale.ndim:  # [..., 1]: as many axes after the tokens as the output has
        input_scale = input_scale.reshape(*x.shape[: x.ndim - inputs], *[1] * kernel_scale_O.ndim)
    return (sums.astype(jnp.float32) * (input_scale * kernel_scale_O)).astype(x.dtype)


def _integer_product_forward(
    x: jax.Array, whole_KO: jax.Array, kernel_scale_O: jax.Array, input_scale: jax.Array, inputs: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    return integer_product(x, whole_KO, kernel_scale_O, input_scale, inputs), (whole_KO, kernel_scale_O, input_scale)


def _integer_product_backward(
    inputs: int, saved: tuple[jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None, None, None]:
    whole_KO, kernel_scale_O, _ = saved
    kernel_KO = (whole_KO.astype(jnp.float32) * kernel_scale_O).astype(gradient.dtype)
    outputs = kernel_scale_O.ndim
    last = tuple(range(gradient.ndim - outputs, gradient.ndim))
    axes = ((last, tuple(range(inputs, inputs + outputs))), ((), ()))
    return lax.dot_general(gradient, kernel_KO, axes).astype(gradient.dtype), None, None, None


integer_product.defvjp(_integer_product_forward, _integer_product_backward)


@jax.custom_vjp
def observe(x: jax.Array, largest: jax.Array, counts: jax.Array) -> jax.Array:
    """Returns `x`; the "gradients" of `largest` and `counts` are what is measured of it.

    That of `largest` is the largest absolute value, that of `counts` a histogram of absolute values: bin i of n counts
    those from i to i + 1 n-ths of `largest`. Loops over layers, meshes and rematerialisation so need no care: a layer's
    own slice of a parameter gets that layer's measurements. What is used several times (shared layers) gets sums.

    Measured are the tokens on which the loss depends, those with any gradient: padding has none at all.
    """
    return x


def _observe_backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, largest, counts = saved
    tokens = tuple(range(2)) if x.ndim > 2 else (0,)  # [B, T, ...] of tokens, [R, ...] of a table of distances
    rest = tuple(axis for axis in range(x.ndim) if axis not in tokens)
    is_read = jnp.any(gradient != 0, axis=rest, keepdims=True)
    values = jnp.where(is_read, jnp.abs(x.astype(jnp.float32)), 0.0)
    bins = jnp.clip((values / largest * len(counts)).astype(jnp.int32), 0, len(counts) - 1)
    weights = jnp.broadcast_to(is_read, x.shape).astype(counts.dtype)
    return gradient, jnp.max(values), jnp.zeros_like(counts).at[bins.reshape(-1)].add(weights.reshape(-1))


observe.defvjp(lambda x, largest, counts: (x, (x, largest, counts)), _observe_backward)


def quantised_product(
    x: jax.Array,
    kernel: jax.Array,
    inputs: int,
    quantisation: Quantisation,
    *,
    log2_range: jax.Array | None = None,
    kernel_scale: jax.Array | None = None,
    input_scale: jax.Array | None = None,
) -> jax.Array:
    """Returns the product of a map's inputs and weights as its quantisation says, in the dtype of `x`.

    Args:
      x: [..., K], in the compute dtype.
      kernel: [K, O], f32, or int8 where `quantisation.has_integers`.
      inputs: number of axes that K is.
      quantisation: that rounds this map.
      log2_range: of inputs; of the form TRAINED with static inputs.
      kernel_scale: f32 [O]; of the form STORED with rounded inputs.
      input_scale: f32 scalar; of that form with static inputs. Infinite: the layer is left in floats.
    """
    static = quantisation.inputs == "static"
    if quantisation.form == TRAINED:
        matrix_KO = kernel.reshape(math.prod(kernel.shape[:inputs]), -1)
        rounded_KO: jax.Array = simulate_weights(matrix_KO, quantisation.weights, quantisation.group)
        kernel = rounded_KO.reshape(kernel.shape)
        if static:
            assert log2_range is not None
            x = simulate_inputs(x, log2_range)
        elif quantisation.rounds_inputs:
            scale = lax.stop_gradient(token_scales(x, inputs))
            x = x + lax.stop_gradient((round_inputs(x, scale) * scale).astype(x.dtype) - x)
    if quantisation.form != STORED or not quantisation.rounds_inputs:
        return tensordot(x, kernel.astype(x.dtype), inputs)
    assert kernel_scale is not None

    def of_integers(x: jax.Array, whole: jax.Array) -> jax.Array:
        assert not static or input_scale is not None
        scale = input_scale if static else token_scales(x, inputs)
        return integer_product(x, whole, kernel_scale, scale, inputs)

    if not quantisation.switched:
        return of_integers(x, kernel)
    assert input_scale is not None
    return lax.cond(
        jnp.isfinite(input_scale),
        lambda x: of_integers(x, jnp.round(kernel / kernel_scale).astype(jnp.int8)),
        lambda x: tensordot(x, kernel.astype(x.dtype), inputs),
        x,
    )


def _grouped(array_KO: Any, group: int) -> jax.Array:
    """Returns [G, K of a group, O]; the last group is filled up with zeros."""
    count, size = len(array_KO), group or len(array_KO)
    more = -count % size
    return jnp.pad(jnp.asarray(array_KO), ((0, more), (0, 0))).reshape(-1, size, array_KO.shape[1])


def _ungrouped(array: jax.Array, count: int) -> jax.Array:
    return array.reshape(-1, array.shape[-1])[:count]
