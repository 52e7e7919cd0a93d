"""What attention scores get of the distance between query and key, and other weights that all layers share.

A token's neighbours in a row are its neighbours in its segment, so that the distance of two tokens of one segment is
that of their places in the row: which bucket a distance from -(T - 1) to T - 1 is in is known when the program is
traced, for all rows of a batch alike. Scores of two segments are masked, whatever their distance.
"""

# B batch, T tokens, N heads, H head dim, D model, E = 2 T - 1 distances, R rows of the table

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.norms import make_norm
from jaxfm.models.products import einsum
from jaxfm.parallel.mesh import constrain, with_axes


class RelativeInputs(NamedTuple):
    """What layers read of distances; each is None where the encoder has no such thing.

    Attributes:
      bias_1NTT: added to the scores of every layer, f32.
      table_RD: embeddings of buckets of distances.
    """

    bias_1NTT: jax.Array | None = None
    table_RD: jax.Array | None = None


class RelativeTable(nnx.Module):
    """A table with a row for each bucket: a number for each head ("bias"), or an embedding ("disentangled")."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the table [R, N] or [R, D]."""
        self.config, self.dtype = config, dtype
        biased = config.relative_positions == "bias"
        shape = (config.relative_buckets, config.num_heads) if biased else (2 * span(config), config.hidden_size)
        axes = ("positions", "heads") if biased else ("positions", "embed")
        draw = with_axes(nnx.initializers.truncated_normal(config.initializer_range), *axes)
        self.embedding = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        self.norm = make_norm(config, dtype, rngs) if config.relative_norm else None

    @jax.named_scope("relative")
    def __call__(self, tokens: int) -> RelativeInputs:
        """Returns the inputs of layers for rows of that many tokens."""
        table = self.embedding[...]
        if self.config.relative_positions == "disentangled":
            table_RD = table.astype(self.dtype)
            return RelativeInputs(table_RD=table_RD if self.norm is None else self.norm(table_RD))
        # Column T - 1 + d of `skew` is the distance d from query to key.
        buckets_E = bias_buckets(
            np.arange(1 - tokens, tokens), self.config.relative_buckets, self.config.relative_distance
        )
        of_distance_NE = table[buckets_E].T
        bias_NTT = skew(
            jnp.broadcast_to(of_distance_NE[:, None], (len(of_distance_NE), tokens, of_distance_NE.shape[1]))
        )
        return RelativeInputs(bias_1NTT=constrain(bias_NTT[None], "features", "heads", "tokens", "keys"))


class CommonParts(nnx.Module):
    """Weights of the layers that are not stacked, as all layers, or the first one alone, use them."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes what the encoder has of them."""
        self.first_norm = make_norm(config, dtype, rngs) if config.first_norm else None
        self.relative = RelativeTable(config, dtype, rngs) if config.has_relative_positions else None


def make_common(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> CommonParts | None:
    """Makes what layers have in common; None where that is nothing."""
    return CommonParts(config, dtype, rngs) if config.first_norm or config.has_relative_positions else None


def disentangled_scores(
    config: EncoderConfig,
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    keys_RNH: jax.Array | None,
    queries_RNH: jax.Array | None,
) -> jax.Array:
    """Returns what products of content and position add to the scores, f32 [B, N, T, T], not scaled.

    Row r(i - j) of the positions' keys meets query i, and of their queries key j (He et al. 2021, equations 2 to 4).
    Instead of a gather from products with all R rows, each token is multiplied with the rows of all E distances, which
    then only have to be shifted: at T = 128 that is half the products of DeBERTa-v3's 512 rows, and on no device is a
    gather of [T, T] numbers a head fast.

    Args:
      config: of the encoder.
      q_BTNH: queries of the content.
      k_BTNH: keys of the content.
      keys_RNH: keys of the positions, for the term "c2p"; None: without it.
      queries_RNH: queries of the positions, for the term "p2c"; None: without it.
    """
    tokens = q_BTNH.shape[1]
    rows_E = distance_rows(
        np.arange(1 - tokens, tokens), span(config), config.relative_buckets, config.relative_distance
    )
    scores_BNTT = jnp.zeros((), jnp.float32)
    if keys_RNH is not None:  # column T - 1 + d is key i + d of query i, at the distance i - (i + d) = -d
        products_BNTE = einsum("BTNH,ENH->BNTE", q_BTNH, keys_RNH[rows_E[::-1]], jnp.float32)
        scores_BNTT = scores_BNTT + skew(products_BNTE)
    if queries_RNH is not None:  # column T - 1 + d is query j + d of key j, at the distance d
        products_BNTE = einsum("BTNH,ENH->BNTE", k_BTNH, queries_RNH[rows_E], jnp.float32)
        scores_BNTT = scores_BNTT + jnp.swapaxes(skew(products_BNTE), -1, -2)
    return constrain(scores_BNTT, "batch", "heads", "tokens", "keys")


def skew(x_TE: jax.Array) -> jax.Array:
    """Returns [..., T, T] of [..., T, 2 T - 1]: element (i, j) is element (i, T - 1 + j - i).

    By reshaping alone (Huang et al. 2018, "Music Transformer", section 3.4.1).
    """
    *batch, tokens, distances = x_TE.shape
    assert distances == 2 * tokens - 1
    padded = jnp.pad(x_TE, [(0, 0)] * (len(batch) + 1) + [(0, 1)]).reshape(*batch, -1)
    shifted = padded[..., tokens - 1 : tokens - 1 + tokens * distances]
    return shifted.reshape(*batch, tokens, distances)[..., :tokens]


def span(config: EncoderConfig) -> int:
    """Returns how many rows of a table of "disentangled" each side has."""
    return config.relative_buckets or config.relative_distance


def bias_buckets(distances: np.ndarray, buckets: int, largest: int) -> np.ndarray:
    """Returns the bucket of each distance from query to key, of T5's kind (Raffel et al. 2020, section 2.1).

    Half of the buckets are of keys to the right. Of each half, one half is of single distances, and the other of ranges
    that grow logarithmically up to `largest`.
    """
    half = buckets // 2
    single, steps = half // 2, np.abs(distances)
    # In f32, as transformers does: a range begins where the rounded logarithm reaches an integer.
    ratio = np.log(np.maximum(steps, 1).astype(np.float32) / single) / np.float32(math.log(largest / single))
    ranged = np.minimum(single + (ratio * np.float32(half - single)).astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(steps < single, steps, ranged)


def distance_rows(distances: np.ndarray, rows: int, buckets: int, largest: int) -> np.ndarray:
    """Returns the row of a table of 2 `rows` rows that each distance i - j has (He et al. 2021, section 3.1).

    Without buckets each distance has its own row, up to `rows`. With them, distances up to half of the buckets do, and
    those up to `largest` share the rest.
    """
    found = distances
    if buckets:
        middle, steps = buckets // 2, np.abs(distances)
        safe = np.maximum(steps, 1).astype(np.float32)
        ratio = np.log(safe / np.float32(middle)) / np.log(np.float32((largest - 1) / middle))
        ranged = np.ceil(ratio * np.float32(middle - 1)).astype(np.int64) + middle
        found = np.where(steps <= middle, distances, ranged * np.sign(distances))
    return np.clip(found + rows, 0, 2 * rows - 1)
