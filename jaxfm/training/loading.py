"""From arrays on the host, or in files, to arrays on the devices that keep them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.initial import HostArray, StoredArray

# Of a parameter that is read in blocks. Smaller ones are read whole: a block costs a compiled program.
_BLOCK_BYTES = 16 * 2**20


def put(value: HostArray, shape: jax.ShapeDtypeStruct) -> jax.Array:
    """Puts each device's part of an array on that device.

    A large one that is read from files is filled in blocks of rows: the host holds one block beside the devices' parts.
    Where its first axis is cut over devices, the host holds this process's parts of it at once; where its rows cannot
    be read apart, the whole.

    Args:
      value: the whole array.
      shape: abstract, with a sharding.
    """
    assert value.shape == shape.shape, f"{value.shape} != {shape.shape}"
    if not isinstance(value, StoredArray) or not value.rows_apart or shape.size * shape.dtype.itemsize <= _BLOCK_BYTES:
        return _part(np.asarray(value, shape.dtype), shape)
    if shape.sharding.shard_shape(shape.shape)[0] == len(value):
        return _in_blocks(value, shape, max(_BLOCK_BYTES * len(value) // (shape.size * shape.dtype.itemsize), 1))
    return _part(value, shape)


def put_first(fresh: jax.Array, value: HostArray) -> jax.Array:
    """Returns `fresh` with the numbers of a smaller array in its first places along each axis, laid out alike."""
    write = jax.jit(
        lambda whole, part: jax.lax.dynamic_update_slice(whole, part, (0,) * whole.ndim),
        donate_argnums=0,
        out_shardings=fresh.sharding,
    )
    return write(fresh, np.asarray(value, fresh.dtype))


def _part(value: HostArray, shape: jax.ShapeDtypeStruct) -> jax.Array:
    read: dict[tuple[tuple[int, int], ...], np.ndarray] = {}  # devices may hold the same part

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None, "a part of the array"
        key = tuple(each.indices(size)[:2] for each, size in zip(index, value.shape, strict=True))
        if key not in read:
            read[key] = value[index]
        return read[key]

    return jax.make_array_from_callback(value.shape, shape.sharding, part)


def _in_blocks(value: HostArray, shape: jax.ShapeDtypeStruct, rows: int) -> jax.Array:
    filled = _zeros(shape)
    for start in range(0, len(value), rows):
        first = min(start, len(value) - rows)  # the last block has the size of the others: one program for all
        block = _part(value[first : first + rows], shape)
        filled = _write(shape.sharding)(filled, block, np.int32(first))
        filled.block_until_ready()  # or blocks would queue up in memory
    return filled


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.jit(lambda: jnp.zeros(shape.shape, shape.dtype), out_shardings=shape.sharding)()


@functools.lru_cache(maxsize=8)
def _write(sharding: jax.sharding.Sharding) -> "jax.stages.Wrapped":
    return jax.jit(
        lambda whole, block, first: jax.lax.dynamic_update_slice_in_dim(whole, block, first, 0),
        donate_argnums=0,
        out_shardings=sharding,
    )
