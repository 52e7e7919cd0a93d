"""Random keys that depend on a row's or a segment's tokens alone: neither packing nor batches change what is drawn."""

# B batch, T tokens, S segments (examples in a row)

from collections.abc import Mapping

import jax
import jax.numpy as jnp

_ODD = 2_654_435_761  # Knuth's multiplier


def row_keys(batch: Mapping[str, jax.Array], seed: int) -> jax.Array:
    """Returns a key for each row [B]."""
    return _keys(_mixed(batch).sum(axis=-1, dtype=jnp.uint32), seed)


def segment_keys(batch: Mapping[str, jax.Array], seed: int, segments: int) -> jax.Array:
    """Returns a key for each segment [B, S]."""
    return _keys(segment_numbers(batch, segments), seed)


def segment_numbers(batch: Mapping[str, jax.Array], segments: int) -> jax.Array:
    """Returns a hash of each segment, uint32 [B, S]."""
    own_BST = batch["segment_ids"][:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
    return jnp.where(own_BST, _mixed(batch)[:, None, :], 0).sum(axis=-1, dtype=jnp.uint32)


def _mixed(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns a number for each token and its position, uint32 [B, T]; sums of them wrap around. Padding has 0."""
    place_BT = batch["positions"].astype(jnp.uint32) * jnp.uint32(_ODD) + 1
    return jnp.where(batch["segment_ids"] > 0, (batch["tokens"].astype(jnp.uint32) + 1) * place_BT, 0)


def _keys(data: jax.Array, seed: int) -> jax.Array:
    key = jax.random.key(seed, impl="threefry2x32")
    flat = jax.vmap(lambda number: jax.random.fold_in(key, number))(data.reshape(-1))
    return flat.reshape(data.shape)
