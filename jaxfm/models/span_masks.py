"""Spans of steps that are hidden from an encoder (Hsu et al. 2021, HuBERT, section III.B)."""

# B batch, S segments (clips in a row), K steps of a clip

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfm.models.dropout import DropoutKey, row_keys


class Draws(NamedTuple):
    """Numbers from 0 to below 1 that say which steps are hidden.

    Attributes:
      begins_BSK: of each step; a small one begins a span.
      place_BS: of each clip; where its span lies if no step begins one.
    """

    begins_BSK: jax.Array
    place_BS: jax.Array


def draw_spans(key: DropoutKey, shape: tuple[int, ...]) -> Draws:
    """Draws the numbers of rows, `shape` is [B, S, K]; those of a row depend on the key and its number alone."""

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        begins_key, place_key = jax.random.split(key)
        return jax.random.uniform(begins_key, shape[1:]), jax.random.uniform(place_key, shape[1:2])

    return Draws(*jax.vmap(one)(row_keys(key, shape[0])))


@jax.named_scope("span_masks")
def hidden_steps(draws: Draws, valid_BSK: jax.Array, *, starts: float, length: int) -> jax.Array:
    """Returns which steps are hidden, bool [B, S, K].

    Each step begins a span with the probability `starts`; spans may overlap and are cut at the end of a clip. A span
    has `length` steps, in a short clip at most half of its steps, and one at least. A clip in which none begins has
    one.
    """
    steps = valid_BSK.shape[-1]
    count_BS = valid_BSK.sum(axis=-1)
    begins_BSK = valid_BSK & (draws.begins_BSK < starts)
    place_BS = jnp.floor(draws.place_BS * count_BS).astype(jnp.int32)
    alone_BSK = ~begins_BSK.any(axis=-1, keepdims=True) & (jnp.arange(steps) == place_BS[..., None])
    before_BSK = jnp.cumsum(begins_BSK | alone_BSK, axis=-1)
    length_BS = jnp.clip(count_BS // 2, 1, length)
    # Steps of which a span began at the step or less than its length before.
    earlier_BSK = jnp.arange(steps) - length_BS[..., None]
    ended_BSK = jnp.take_along_axis(before_BSK, jnp.maximum(earlier_BSK, 0), axis=-1) * (earlier_BSK >= 0)
    return valid_BSK & (before_BSK > ended_BSK)
