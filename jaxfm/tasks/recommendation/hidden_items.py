"""Which items of packed histories are hidden from the encoder at a step (Sun et al. 2019, section 3.6)."""

# B batch, T items of a row

import math

import jax
import jax.numpy as jnp

from jaxfm.tasks.recommendation.spec import MASK


def most_hidden(row_length: int, ratio: float) -> int:
    """Returns how many items of a row may be hidden: a quarter more than on average, and some last ones."""
    return min(row_length, math.ceil(1.25 * ratio * row_length) + row_length // 8 + 1)


def hide_items(
    key: jax.Array, tokens_BT: jax.Array, segment_ids_BT: jax.Array, *, ratio: float, last_share: float, limit: int
) -> tuple[jax.Array, jax.Array]:
    """Returns items with `MASK` in place of those that are hidden, and these as labels, -1 elsewhere, both [B, T].

    Of a share `last_share` of the histories the last item is hidden and no other; of the rest each item with
    probability `ratio`, and the last one where none was drawn. Of more than `limit` in a row, those with the largest
    draws stay.
    """
    batch, length = tokens_BT.shape
    item_key, history_key = jax.random.split(key)
    draws_BT = jax.random.uniform(item_key, (batch, length))
    # Number 0 is padding, which the last line leaves as it is.
    whole_BS = jax.random.uniform(history_key, (batch, length + 1)) < last_share
    last_alone_BT = jnp.take_along_axis(whole_BS, segment_ids_BT, axis=1)
    real_BT = segment_ids_BT > 0
    after_BT = jnp.pad(segment_ids_BT[:, 1:], ((0, 0), (0, 1)))
    last_BT = real_BT & (after_BT != segment_ids_BT)
    hidden_BT = real_BT & jnp.where(last_alone_BT, last_BT, draws_BT < ratio)

    def has_any(hidden_T: jax.Array, segment_ids_T: jax.Array) -> jax.Array:
        return jax.ops.segment_max(hidden_T.astype(jnp.int32), segment_ids_T, length + 1)[segment_ids_T] > 0

    hidden_BT |= last_BT & ~jax.vmap(has_any)(hidden_BT, segment_ids_BT)
    order_BT = jnp.argsort(jnp.argsort(jnp.where(hidden_BT, draws_BT, 2.0), axis=1), axis=1)
    hidden_BT &= order_BT < limit
    return jnp.where(hidden_BT, MASK, tokens_BT), jnp.where(hidden_BT, tokens_BT, -1)
