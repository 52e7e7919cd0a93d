"""The matrix products of a model: narrow inputs, sums in f32, forward and backward."""

import functools
import math
import string
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxfm.parallel import target

WITH_WEIGHTS = "product_with_weights"


def einsum(spec: str, x: jax.Array, y: jax.Array, dtype: Any = None) -> jax.Array:
    """Returns the einsum of two arrays of one dtype, summed in f32 and rounded once to `dtype` (default: theirs).

    So are its gradients, whose inputs are rounded to the dtype of `x` and `y` first: every matrix product of a step has
    narrow inputs and wide sums, which is what matrix units compute. Autodiff alone would multiply an f32 gradient with
    bf16 weights in f32, and for a product with a bf16 result XLA on CPU does not use the matrix units (AMX): both are
    five times as slow there (profiles/NOTES.md).

    Args:
      spec: of jnp.einsum; each index of an operand is one of the other operand or of the result.
      x: first operand.
      y: second operand.
      dtype: of the result.
    """
    assert x.dtype == y.dtype, (x.dtype, y.dtype)
    if "..." in spec:
        more = x.ndim - len(spec.split(",")[0].replace("...", ""))
        spec = spec.replace("...", string.ascii_lowercase[:more])
    return _product(spec, jnp.dtype(dtype or x.dtype), x, y)


def tensordot(x: jax.Array, y: jax.Array, axes: int) -> jax.Array:
    """Returns the `einsum` over the last `axes` axes of `x` and the first of `y`, as jnp.tensordot."""
    return dot_general(x, y, ((tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))), ((), ())))


def dot_general(
    x: jax.Array, y: jax.Array, dimension_numbers: Any, precision: None = None, out_sharding: None = None
) -> jax.Array:
    """Returns the `einsum` that `lax.dot_general`'s dimension numbers name; for flax's linear layers.

    The result is named WITH_WEIGHTS, by which a rematerialisation policy may keep it.
    """
    (x_axes, y_axes), (x_batch, y_batch) = dimension_numbers
    assert not x_batch and not y_batch and precision is None and out_sharding is None
    of_x = string.ascii_uppercase[: x.ndim]
    of_y = list(string.ascii_lowercase[: y.ndim])
    for x_axis, y_axis in zip(x_axes, y_axes, strict=True):
        of_y[y_axis] = of_x[x_axis]
    result = [index for index in of_x if index not in of_y] + [index for index in of_y if index not in of_x]
    return checkpoint_name(einsum(f"{of_x},{''.join(of_y)}->{''.join(result)}", x, y), WITH_WEIGHTS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(spec: str, dtype: jnp.dtype, x: jax.Array, y: jax.Array) -> jax.Array:
    if x.dtype == jnp.bfloat16 and target.platform() == "cpu":
        return _on_matrix_units_of_cpu(spec, x, y, dtype)
    # Matrix units sum in f32 whatever the type of their result. A bf16 result is rounded once, and where gradients are
    # summed over devices it sends half the bytes of an f32 result that is rounded afterwards.
    return jnp.einsum(spec, x, y, preferred_element_type=dtype)


def _forward(spec: str, dtype: jnp.dtype, x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(spec, dtype, x, y), (x, y)


def _backward(
    spec: str, dtype: jnp.dtype, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, y = saved
    operands, result = spec.split("->")
    of_x, of_y = operands.split(",")
    gradient = gradient.astype(x.dtype)
    return (
        _product(f"{result},{of_y}->{of_x}", x.dtype, gradient, y),
        _product(f"{of_x},{result}->{of_y}", y.dtype, x, gradient),
    )


_product.defvjp(_forward, _backward)


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns `y` + `bias`, the last axes of `y` being those of `bias`.

    On CPU the gradient of the bias is a product with ones, as XLA's sums are slow there (13 % of a step:
    profiles/NOTES.md).
    """
    return y + bias.astype(y.dtype)


def _add_bias_forward(y: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
    return add_bias(y, bias), bias


def _add_bias_backward(bias: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    leading = gradient.ndim - bias.ndim
    if target.platform() == "cpu":
        lead, last = string.ascii_uppercase[:leading], string.ascii_lowercase[: bias.ndim]
        ones = jnp.ones(gradient.shape[:leading], gradient.dtype)
        of_bias: jax.Array = _product(f"{lead},{lead}{last}->{last}", jnp.dtype(jnp.float32), ones, gradient)
    else:
        of_bias = gradient.sum(axis=tuple(range(leading)), dtype=jnp.float32)
    return gradient, of_bias.astype(gradient.dtype).astype(bias.dtype)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _on_matrix_units_of_cpu(spec: str, x: jax.Array, y: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the einsum, written as the one form that XLA hands to its library for bf16 on CPU.

    That is rows times columns with the summed index last on the left. XLA multiplies any other form in f32, or compiles
    it and fails when it runs ("Unsupported element type for DotThunk": XLA folds transpositions of operands and of the
    result back into the product, which the barriers prevent). Without matrix units bf16 is no faster, and the library
    takes other forms; there the product is computed in f32, which is the same function.
    """
    if not target.cpu_multiplies_bf16():
        return jnp.einsum(spec, x.astype(jnp.float32), y.astype(jnp.float32)).astype(dtype)
    operands, result = spec.split("->")
    of_x, of_y = operands.split(",")
    unshared = [index for index in result if (index in of_x) != (index in of_y)]
    if unshared and unshared[0] in of_y:  # the first index of the result becomes the rows: no transposition afterwards
        x, y, of_x, of_y = y, x, of_y, of_x
    sizes = dict(zip(of_x, x.shape, strict=True)) | dict(zip(of_y, y.shape, strict=True))
    batch = [index for index in result if index in of_x and index in of_y]
    rows = [index for index in result if index not in of_y]
    columns = [index for index in result if index not in of_x]
    summed = [index for index in of_x if index not in result]

    def turned(array: jax.Array, order: Sequence[int]) -> jax.Array:
        moves = list(order) != sorted(order)
        return lax.optimization_barrier(jnp.transpose(array, order)) if moves else array

    def arranged(array: jax.Array, of: str, *groups: Sequence[str]) -> jax.Array:
        moved = turned(array, [of.index(index) for group in groups for index in group])
        return moved.reshape([math.prod(sizes[index] for index in group) for group in groups])

    left = arranged(x, of_x, batch, rows, summed)
    # On the right both orders are possible: the present one needs no transposition.
    summed_last = of_y[-1] == summed[-1]
    right = arranged(y, of_y, batch, columns, summed) if summed_last else arranged(y, of_y, batch, summed, columns)
    numbers = (((2,), (2 if summed_last else 1,)), ((0,), (0,)))
    product = lax.dot_general(left, right, numbers, preferred_element_type=jnp.float32).astype(dtype)
    order = [*batch, *rows, *columns]
    product = product.reshape([sizes[index] for index in order])
    if order == [*result]:
        return product
    return jnp.transpose(lax.optimization_barrier(product), [order.index(index) for index in result])
