"""Dropout with random bits that cost an eighth of jax.random's and are the same on any mesh."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.parallel import target

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


class RowsKey(NamedTuple):
    """A key for some rows of a batch, by which dropout draws what it would draw there for the whole batch.

    Attributes:
      key: of the batch.
      first: u32, the number in the batch of the first row.
      every: u32, how far apart the rows are there.
    """

    key: jax.Array
    first: jax.Array
    every: jax.Array


# What turns dropout on in a model.
DropoutKey = jax.Array | RowsKey


def dropout(x: jax.Array, rate: float, key: DropoutKey | None) -> jax.Array:
    """Returns `x` with each element zeroed with probability `rate`, the rest scaled so that the mean stays.

    Without a key that is `x`. One call of threefry serves four elements (16 bits each): the rate is exact to 2^-16, and
    the scale uses the exact rate. The counter of the calls is the index in the array, so that the mask is the same on
    every mesh. The first axis is the batch; with a `RowsKey` it is some rows of it, whose masks are those of the batch.
    """
    return apply_dropout(x, rate, dropout_mask(x.shape, rate, key))


@jax.named_scope("dropout")
def apply_dropout(x: jax.Array, rate: float, mask: jax.Array | None) -> jax.Array:
    """Returns `x`, or its gradient, where the mask of `dropout_mask` is True, scaled so that the mean stays; else 0."""
    if mask is None:
        return x
    dropped = round(rate * 65536)
    return jnp.where(mask, x * (65536 / (65536 - dropped)), jnp.zeros((), x.dtype)).astype(x.dtype)


@jax.named_scope("dropout")
def dropout_mask(shape: tuple[int, ...], rate: float, key: DropoutKey | None) -> jax.Array | None:
    """Draws which elements of an array dropout leaves, bool; None, for all of them, without a key or at rate 0."""
    if key is None or rate == 0.0:
        return None
    dropped = round(rate * 65536)
    words = random_words(key, (*shape[:-1], -(-shape[-1] // 4)))
    # Side by side, not interleaved: TPUs would have to spread the two halves of a word over lanes.
    halves = [half for word in words for half in (word & jnp.uint32(0xFFFF), word >> 16)]
    quarters = [half >= jnp.uint32(dropped) for half in halves]
    if target.platform() == "cpu":
        mask = jnp.concatenate(quarters, axis=-1)
    else:  # the same values; libtpu 0.0.42 crashes on concatenations that are computed again in the backward pass
        mask = jnp.stack(quarters, axis=-2).reshape(*shape[:-1], -1)
    return mask[..., : shape[-1]]


def random_words(key: DropoutKey, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Returns two arrays of random u32 of that shape: threefry of each element's index, row by row.

    Raises:
      ValueError: a key of another generator.
    """
    row = lax.broadcasted_iota(jnp.uint32, shape, 0)
    if isinstance(key, RowsKey):
        row, key = row * key.every + key.first, key.key
    if jax.random.key_impl(key) != "threefry2x32":
        raise ValueError(f"a key of {jax.random.key_impl(key)}, not of threefry2x32")
    assert math.prod(shape[1:]) < 2**32
    low = jnp.zeros(shape, jnp.uint32)
    for axis in range(1, len(shape)):
        step = math.prod(shape[axis + 1 :])
        low += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(step)
    return threefry(jax.random.key_data(key), row, low)


def threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011, section 3.3) of counters (high, low) under a key, u32 [2].

    jax.random has the same function, but discards half of its output, and on CPU runs its rounds as a loop, each over
    the whole array in memory; unrolled they are one pass.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    high, low = high + keys[0], low + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            high = high + low
            low = high ^ ((low << rotation) | (low >> (32 - rotation)))
        high = high + keys[(group + 1) % 3]
        low = low + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return high, low


@jax.named_scope("random")
def split_key(key: DropoutKey | None, count: int) -> list[DropoutKey | None]:
    """Returns `count` keys made from `key`; without one, `count` times None, which turns dropout off."""
    if isinstance(key, RowsKey):
        return [key._replace(key=each) for each in jax.random.split(key.key, count)]
    return [None] * count if key is None else list(jax.random.split(key, count))


def row_keys(key: DropoutKey, rows: int) -> jax.Array:
    """Returns a key for each of `rows` rows, by its number in the batch."""
    numbers = jnp.arange(rows, dtype=jnp.uint32)
    if isinstance(key, RowsKey):
        key, numbers = key.key, key.first + key.every * numbers
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)


@jax.named_scope("random")
def stacked_keys(key: DropoutKey | None, count: int) -> DropoutKey | None:
    """Returns the keys of `split_key` as one array, or one of each part, along a leading axis; None without a key."""
    if isinstance(key, RowsKey):
        return RowsKey(jax.random.split(key.key, count), *(jnp.repeat(part, count) for part in key[1:]))
    return None if key is None else jax.random.split(key, count)


def batch_key(key: DropoutKey | None) -> jax.Array | None:
    """Returns the key of the whole batch, for arrays that its rows share."""
    return key.key if isinstance(key, RowsKey) else key
