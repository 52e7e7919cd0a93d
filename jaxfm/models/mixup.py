"""Hidden states of the examples of a batch, mixed with those of others (Verma et al. 2019; Chen et al. 2020, TMix)."""

# B batch, T tokens, S segments (examples in a row), N = B T, D model

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.parallel.mesh import constrain


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Which tokens the tokens of a batch are mixed with, how far, and after which layer.

    Attributes:
      after: the numbers of layers, ascending, after one of which it happens; 0: before the first.
      chosen: i32 scalar, the one of them; any other number: it does not happen.
      other_share: f32 scalar, the share of the other token.
      partners_BT: i32, for each token the place in the flattened batch [B T] of the one that it is mixed with.
    """

    after: tuple[int, ...]
    chosen: jax.Array
    other_share: jax.Array
    partners_BT: jax.Array

    def after_layers(self, layers: int, x_BTD: jax.Array) -> jax.Array:
        """Returns the states after a number of layers, mixed where this is what is chosen."""
        return lax.cond(self.chosen == layers, self.mixed, lambda same_BTD: same_BTD, x_BTD)

    def of_stream(self, layers: int, stream: Any, norm: Callable[[jax.Array], jax.Array] | None) -> Any:
        """Returns the same of a stream of layers, for pre-norm ones (states, and these after `norm`)."""
        if norm is None:
            return self.after_layers(layers, stream)

        def mix(both: Any) -> Any:
            x_BTD = self.mixed(both[0])
            return x_BTD, norm(x_BTD)

        return lax.cond(self.chosen == layers, mix, lambda same: same, stream)

    @jax.named_scope("mixup")
    def mixed(self, x_BTD: jax.Array) -> jax.Array:
        """Returns the mixed states; exactly `x_BTD` where the share is 0, and of tokens that are their own partner."""
        other_BTD = jnp.take(x_BTD.reshape(-1, x_BTD.shape[-1]), self.partners_BT, axis=0)
        other_BTD = constrain(other_BTD, "batch", "tokens", "features")
        return x_BTD + (self.other_share * (other_BTD - x_BTD).astype(jnp.float32)).astype(x_BTD.dtype)


def draw_partners(
    key: jax.Array, segment_ids_BT: jax.Array, positions_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws for each segment of a batch another one, all different: a cycle through all segments in random order.

    Returns:
      For each token the place, in the batch as one line [B T], of the token at the same position of the other segment;
      its own place on padding, where the other segment is shorter, and where a batch has one segment alone. What a
      longer segment has more is met by nobody. Then the places where its own, and the other, segment start.
    """
    shape = segment_ids_BT.shape
    index_N = lax.iota(jnp.int32, segment_ids_BT.size)
    index_BT = index_N.reshape(shape)
    starts_N = ((positions_BT == 0) & (segment_ids_BT > 0)).reshape(-1)
    draws_N = jnp.where(starts_N, jax.random.uniform(key, shape).reshape(-1), 2.0)
    order_N = jnp.argsort(draws_N, stable=True).astype(jnp.int32)
    count = jnp.maximum(starts_N.sum(dtype=jnp.int32), 1)
    following_N = order_N[jnp.where(index_N + 1 < count, index_N + 1, 0)]
    next_N = jnp.zeros_like(index_N).at[order_N].set(following_N)

    own_BT = jnp.where(segment_ids_BT > 0, index_BT - positions_BT, index_BT)
    other_BT = jnp.where(segment_ids_BT > 0, next_N[own_BT], index_BT)
    at_BT = jnp.minimum(other_BT + positions_BT, index_N.size - 1)
    row_length = shape[1]
    segments_N = segment_ids_BT.reshape(-1)
    meets_BT = (at_BT // row_length == other_BT // row_length) & (segments_N[at_BT] == segments_N[other_BT])
    meets_BT &= segment_ids_BT > 0
    return jnp.where(meets_BT, at_BT, index_BT), own_BT, other_BT


def partners_of_segments(own_BT: jax.Array, other_BT: jax.Array, segment_ids_BT: jax.Array, segments: int) -> jax.Array:
    """Returns for each segment the place, in all segments of a batch as one line [B S], of its partner [B, S].

    Args:
      own_BT: where a token's own segment starts, see `draw_partners`.
      other_BT: where its partner starts.
      segment_ids_BT: from 1; 0 on padding.
      segments: S; segments that a row does not have are their own partners.
    """
    rows, length = segment_ids_BT.shape
    index_BT = lax.broadcasted_iota(jnp.int32, (rows, length), 0) * length + lax.broadcasted_iota(
        jnp.int32, (rows, length), 1
    )
    is_start_BST = segment_ids_BT[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
    is_start_BST &= (own_BT == index_BT)[:, None, :]
    start_BS = jnp.sum(jnp.where(is_start_BST, other_BT[:, None, :], 0), axis=-1)
    there_BS = (start_BS // length) * segments + segment_ids_BT.reshape(-1)[start_BS] - 1
    own_BS = lax.iota(jnp.int32, rows * segments).reshape(rows, segments)
    return jnp.where(is_start_BST.any(axis=-1), there_BS, own_BS)
