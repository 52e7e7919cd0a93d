"""Random keys that depend on a row's or a segment's tokens alone: neither packing nor batches change what is drawn."""

# B batch, T tokens, S segments (examples in a row)

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.models.generation import prefix_numbers


def row_keys(batch: Mapping[str, jax.Array], seed: int) -> jax.Array:
    """Returns a key for each row [B]."""
    whole = {**batch, "segment_ids": jnp.minimum(batch["segment_ids"], 1)}
    return _keys(prefix_numbers(whole, 1)[:, 0], seed)


def segment_keys(batch: Mapping[str, jax.Array], seed: int, segments: int) -> jax.Array:
    """Returns a key for each segment [B, S]."""
    return _keys(prefix_numbers(batch, segments), seed)


def _keys(data: jax.Array, seed: int) -> jax.Array:
    key = jax.random.key(seed, impl="threefry2x32")
    flat = jax.vmap(lambda number: jax.random.fold_in(key, number))(data.reshape(-1))
    return flat.reshape(data.shape)
