"""Hashes of arrays' bits, computed where the arrays lie: 4 bytes an array leave the devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxfm import files
from jaxfm.training.paths import path_name


def array_hashes(tree: Any) -> dict[str, int]:
    """Returns path -> 32-bit hash of each array's bits and their places; the same on any mesh.

    Each word is mixed with its index (Murmur3's finaliser) and the results are added modulo 2^32: integer addition
    has no order, so shards add up to the same on any number of devices. Runs on the devices; fetches 4 bytes an array.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    hashes = jax.device_get(_hash_leaves([leaf for _, leaf in leaves]))
    return {path_name(path): int(value) for (path, _), value in zip(leaves, np.asarray(hashes), strict=True)}


def hash_of(tree: Any) -> str:
    """Returns one hash of all arrays of a tree; "" where it has none."""
    return files.json_digest(array_hashes(tree)) if jax.tree.leaves(tree) else ""


@jax.jit
def _hash_leaves(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([array_hash(leaf) for leaf in leaves])


def array_hash(leaf: jax.Array) -> jax.Array:
    """Returns the hash of one array of 32-bit values, uint32 scalar; to be called inside jax.jit."""
    bits = lax.bitcast_convert_type(leaf, jnp.uint32)
    index = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        index = index * jnp.uint32(bits.shape[axis]) + lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    mixed = bits + index * jnp.uint32(0x9E3779B9)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)
