"""One `attend` for every encoder: bidirectional attention in which no token sees another segment."""

# B batch, T tokens (S: the same axis as keys), N heads, H head dim, C chunks, W tokens a chunk, P prefix

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.models.dropout import dropout
from jaxfm.models.products import product
from jaxfm.parallel.mesh import constrain

# Finite, so that a row of nothing but padding gives a uniform softmax and no NaN; exp(-1e30 - max) is exactly 0 in f32.
MASKED = -1e30


def segment_mask(segment_ids_BT: jax.Array) -> jax.Array:
    """Returns bool [B, 1, T, T]: True where query and key are tokens of the same segment (0 is padding).

    Padding attends to padding, so that no row of the softmax is empty; nobody reads what comes of it.
    """
    return (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :])[:, None]


def local_mask(segment_ids_BT: jax.Array, positions_BT: jax.Array, reach: int, chunk: int) -> jax.Array:
    """Returns True where query and key are of one segment and at most `reach` positions apart.

    The result is bool [B, 1, T, T], or [B, C, 1, W, 3 W] for `attend` with chunk = W >= reach.
    """
    queries = [segment_ids_BT, positions_BT]
    keys = queries
    if chunk:
        # What fills the last chunk, or lies before the first and behind the last, is of segment -1: no token's.
        queries = [_cut(segment_ids_BT, chunk, -1), _cut(positions_BT, chunk, 0)]
        keys = [_with_neighbours(segment_ids_BT, chunk, -1), _with_neighbours(positions_BT, chunk, 0)]
    (query_segments, query_positions), (key_segments, key_positions) = queries, keys
    same = query_segments[..., :, None] == key_segments[..., None, :]
    near = jnp.abs(query_positions[..., :, None] - key_positions[..., None, :]) <= reach
    return (same & near)[..., None, :, :]


def chunk_length(tokens: int, reach: int) -> int:
    """Returns the length of chunks that pays for rows of `tokens`; 0: none does (a chunk sees three times its keys)."""
    return reach if tokens > 4 * reach else 0


def attend(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    mask: jax.Array,
    *,
    chunk: int = 0,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1); returns [B, T, N, H] in the dtype of `q`.

    Scores and softmax are f32 whatever the dtype of the inputs. Dropout falls on the attention weights, as in BERT;
    without a key there is none. With `chunk`, each chunk of queries sees itself and its two neighbours only (as in
    Longformer, Beltagy et al. 2020, section 3.1), so that the cost grows with T, not with T squared. Keys and values
    [P, N, H] of a `prefix` are seen by every query, whatever the mask says.
    """
    if chunk:
        tokens = q_BTNH.shape[1]
        cut = (_cut(q_BTNH, chunk, 0), *(_with_neighbours(x_BTNH, chunk, 0) for x_BTNH in (k_BTNH, v_BTNH)))
        q_BCWNH, k_BCSNH, v_BCSNH = (constrain(x, "batch", "chunks", "features", "heads", "head_dim") for x in cut)
        context_BCWNH = attend(
            q_BCWNH, k_BCSNH, v_BCSNH, mask, prefix=prefix, dropout_rate=dropout_rate, dropout_key=dropout_key
        )
        return context_BCWNH.reshape(len(q_BTNH), -1, *q_BTNH.shape[2:])[:, :tokens]
    scale = q_BTNH.shape[-1] ** -0.5
    scores_BNTS = product("...TNH,...SNH->...NTS", q_BTNH * scale, k_BTNH, jnp.float32)
    scores_BNTS = jnp.where(mask, scores_BNTS, MASKED)
    if prefix is not None:
        k_PNH, v_PNH = prefix
        of_prefix = product("...TNH,PNH->...NTP", q_BTNH * scale, k_PNH, jnp.float32)
        scores_BNTS = jnp.concatenate([scores_BNTS, of_prefix], axis=-1)
    weights_BNTS = jax.nn.softmax(scores_BNTS, axis=-1)
    weights_BNTS = dropout(weights_BNTS.astype(v_BTNH.dtype), dropout_rate, dropout_key)
    if prefix is None:
        return product("...NTS,...SNH->...TNH", weights_BNTS, v_BTNH)
    weights_BNTS, of_prefix = jnp.split(weights_BNTS, [k_BTNH.shape[-3]], axis=-1)
    context_BTNH = product("...NTS,...SNH->...TNH", weights_BNTS, v_BTNH)
    return context_BTNH + product("...NTP,PNH->...TNH", of_prefix, v_PNH)


def _with_neighbours(x_BT: jax.Array, chunk: int, fill: int) -> jax.Array:
    """Cuts [B, T, ...] into [B, C, 3 W, ...]: every chunk between the one before and the one behind it."""
    x_BCW = _cut(x_BT, chunk, fill)

    def shifted(by: int) -> jax.Array:
        # As a padding that keeps the shape: where chunks lie on several devices, one chunk goes to the neighbour.
        widths = [(by, -by, 0) if axis == 1 else (0, 0, 0) for axis in range(x_BCW.ndim)]
        return lax.pad(x_BCW, jnp.asarray(fill, x_BCW.dtype), widths)

    return jnp.concatenate([shifted(1), x_BCW, shifted(-1)], axis=2)


def _cut(x_BT: jax.Array, chunk: int, fill: int) -> jax.Array:
    """Cuts [B, T, ...] into [B, C, W, ...], the last chunk filled up."""
    batch, tokens, *rest = x_BT.shape
    widths = [(0, 0), (0, -tokens % chunk), *[(0, 0)] * len(rest)]
    return jnp.pad(x_BT, widths, constant_values=fill).reshape(batch, -1, chunk, *rest)
