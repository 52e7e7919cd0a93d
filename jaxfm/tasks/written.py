"""What a model has written for the segments of rows: arrays of one shape, whatever the way."""

# B batch, S segments (examples in a row), P target places of a row, M places of a target

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

NOTHING = -1  # in the place of a token


class Written(NamedTuple):
    """What is written.

    Attributes:
      tokens_BSM: int32 [B, S, M] of each segment, without its separator; NOTHING after the last one.
      score_BS: f32 [B, S], log-probability of a token on average; 0 without any.
    """

    tokens_BSM: jax.Array
    score_BS: jax.Array

    @classmethod
    def none(cls, rows: int, segments: int, most: int) -> "Written":
        """Returns nothing written."""
        tokens_BSM = jnp.full((rows, segments, most), NOTHING, jnp.int32)
        return cls(tokens_BSM, jnp.zeros((rows, segments), jnp.float32))


def per_segment(
    segment_BP: jax.Array, values_BP: jax.Array, segments: int, reduce: Callable[..., jax.Array], empty: int
) -> jax.Array:
    """Returns the maximum, minimum or sum [B, S] of the values of each segment (from 0); `empty` where it has none."""
    own_BSP = segment_BP[:, None, :] == jnp.arange(segments)[None, :, None]
    return reduce(jnp.where(own_BSP, values_BP[:, None, :], empty), axis=-1)


def gather_written(
    segment_BP: jax.Array,
    slot_BP: jax.Array,
    tokens_BP: jax.Array,
    log_BP: jax.Array,
    length_BS: jax.Array,
    *,
    segments: int,
    most: int,
) -> Written:
    """Gathers tokens at target places into one row a segment.

    Args:
      segment_BP: segment of each place, from 0; -1: of none.
      slot_BP: place in the target.
      tokens_BP: what stands there.
      log_BP: its log-probability.
      length_BS: tokens of each target.
      segments: S.
      most: M.
    """
    kept_BP = (segment_BP >= 0) & (slot_BP < jnp.take_along_axis(length_BS, jnp.maximum(segment_BP, 0), axis=1))

    def of_row(segment_P: jax.Array, slot_P: jax.Array, tokens_P: jax.Array, kept_P: jax.Array) -> jax.Array:
        blank_SM = jnp.full((segments, most), NOTHING, jnp.int32)
        return blank_SM.at[jnp.where(kept_P, segment_P, segments), slot_P].set(tokens_P, mode="drop")

    tokens_BSM = jax.vmap(of_row)(segment_BP, slot_BP, tokens_BP, kept_BP)
    total_BS = per_segment(segment_BP, jnp.where(kept_BP, log_BP, 0.0), segments, jnp.sum, 0)
    return Written(tokens_BSM, total_BS / jnp.maximum(length_BS, 1))
