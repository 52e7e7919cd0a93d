"""Rotary position embedding: queries and keys rotated by their position (Su et al. 2021, "RoFormer", section 3.2)."""

# B batch, T tokens, N heads, H head dim, K = H / 2 frequencies

import jax
import jax.numpy as jnp

# Cosine and sine of every token's angles, f32 [B, T, 1, K] each.
Rotation = tuple[jax.Array, jax.Array]


def rotation(positions_BT: jax.Array, head_dim: int, theta: float) -> Rotation:
    """Returns the rotation of each position: frequency k by position * theta^(-2k / H) radians.

    Positions of images are rows and columns [B, T, 2]: the first half of the frequencies is of rows, the second half of
    columns, each with K / 2 frequencies theta^(-4k / H).
    """
    if positions_BT.ndim == 3:
        halves = [rotation(positions_BT[..., axis], head_dim // 2, theta) for axis in range(2)]
        cosines, sines = zip(*halves, strict=True)
        return jnp.concatenate(cosines, axis=-1), jnp.concatenate(sines, axis=-1)
    frequencies_K = 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles_BT1K = (positions_BT[..., None].astype(jnp.float32) * frequencies_K)[:, :, None]
    return jnp.cos(angles_BT1K), jnp.sin(angles_BT1K)


def rotate(x_BTNH: jax.Array, by: Rotation) -> jax.Array:
    """Rotates the pairs (k, k + K) of each head, in f32: the pairing of GPT-NeoX and transformers, not RoFormer's."""
    cos, sin = by
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BTNH.dtype)
