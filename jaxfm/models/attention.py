"""One `attend` for every encoder, whatever its tokens see of their segment; none sees another segment."""

# B batch, T tokens (S: the same axis as keys), N heads, H head dim, C chunks, W tokens a chunk, P prefix

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig
from jaxfm.models.dropout import DropoutKey, apply_dropout, dropout_mask
from jaxfm.models.kernels import (
    KERNELS,
    XLA,
    AttentionProblem,
    KernelInputs,
    attention_problems,
    choose,
    fused_attention,
)
from jaxfm.models.products import einsum
from jaxfm.parallel import target
from jaxfm.parallel.mesh import constrain

# Finite, so that a row of nothing but padding gives a uniform softmax and no NaN; exp(-1e30 - max) is exactly 0 in f32.
MASKED = -1e30


class AttentionSpec(NamedTuple):
    """What the queries of a batch see, and the path by which `attend` computes it.

    Attributes:
      path: a name of `kernels.KERNELS`, or "xla".
      segment_ids: [B, T]; a token sees its own segment; see `segment_mask` for negative ones.
      window_radius: tokens of it that are more positions away are not seen; 0: no such limit.
      causal: no token after the own one is seen. What else limits sight is in the mask alone.
      mask: all of this as a mask, where the path needs one ("xla" always).
      chunk: length in tokens of the chunks that "xla" cuts queries into; 0: it does not cut them.
    """

    path: str
    segment_ids: jax.Array
    window_radius: int
    causal: bool
    mask: jax.Array | None
    chunk: int


def attention_specs(
    encoder: EncoderConfig,
    build: Build,
    segment_ids_BT: jax.Array,
    positions_BT: jax.Array,
    horizons_BT: jax.Array | None = None,
    *,
    training: bool,
) -> tuple[AttentionSpec, ...]:
    """Returns what layers see: those of the whole segment, then, if there are any, those of a local window.

    `horizons_BT` are read where the encoder's sight is "prefix".

    Raises:
      UserError: the path that was asked for cannot compute this (`kernels.choose`).
    """

    def one(problem: AttentionProblem) -> AttentionSpec:
        path, window_radius, causal = choose(build.attention, problem), problem.window_radius, problem.sight == CAUSAL
        spec = AttentionSpec(path, segment_ids_BT, window_radius, causal, None, 0)
        if path != XLA and not KERNELS[path].needs_mask(problem):
            return spec
        last_BT = horizons(problem.sight, positions_BT, horizons_BT)
        if not window_radius:
            return spec._replace(mask=sight_mask(segment_ids_BT, positions_BT, last_BT))
        chunk = chunk_length(segment_ids_BT.shape[1], window_radius) if path == XLA else 0
        mask = local_mask(segment_ids_BT, positions_BT, window_radius, chunk, last_BT)
        return spec._replace(mask=mask, chunk=chunk)

    mesh, tokens = jax.sharding.get_abstract_mesh(), segment_ids_BT.shape[1]
    return tuple(map(one, attention_problems(encoder, build, tokens, mesh, training=training)))


def attend(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    spec: AttentionSpec,
    *,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: DropoutKey | None = None,
) -> jax.Array:
    """Returns attention [B, T, N, H], by the path of `spec`. All paths compute what `masked_attention` does.

    Only at padding may they differ: outputs there are unspecified and never read.
    """
    if spec.path == XLA:
        assert spec.mask is not None
        more = {"prefix": prefix, "bias": bias, "scale": scale}
        drop = {"dropout_rate": dropout_rate, "dropout_key": dropout_key}
        return masked_attention(q_BTNH, k_BTNH, v_BTNH, spec.mask, chunk=spec.chunk, **more, **drop)
    assert prefix is None and bias is None and scale is None, "see kernels.choose"
    assert dropout_key is None or dropout_rate == 0.0, "see kernels.choose"
    inputs = KernelInputs(q_BTNH, k_BTNH, v_BTNH, spec.segment_ids, spec.mask)
    return fused_attention(KERNELS[spec.path], inputs, spec.window_radius, spec.causal)


def horizons(sight: str, positions_BT: jax.Array, horizons_BT: jax.Array | None) -> jax.Array | None:
    """Returns the last position that each token sees, [B, T]; None where it sees its whole segment.

    `horizons_BT` are those of a batch; a token sees itself whatever they say, so that no row of a softmax is empty.
    """
    if sight == FULL:
        return None
    if sight == CAUSAL:
        return positions_BT
    assert horizons_BT is not None, 'a batch for this sight has "horizons"'
    return jnp.maximum(positions_BT, horizons_BT)


def segment_mask(segment_ids_BT: jax.Array) -> jax.Array:
    """Returns bool [B, 1, T, T]: True where query and key are tokens of the same segment (0 is padding).

    A token of segment -n attends to the tokens of segment n, and none attends to it. Padding attends to padding, so
    that no row of the softmax is empty; its outputs are never read.
    """
    return (jnp.abs(segment_ids_BT)[:, :, None] == segment_ids_BT[:, None, :])[:, None]


def sight_mask(segment_ids_BT: jax.Array, positions_BT: jax.Array, last_BT: jax.Array | None) -> jax.Array:
    """Returns `segment_mask` without the keys that stand after the last position that their query sees.

    With `last_BT` = positions that is causal attention (Vaswani et al. 2017, section 3.2.3). None: all are seen.
    """
    same_B1TT = segment_mask(segment_ids_BT)
    return same_B1TT if last_BT is None else same_B1TT & (positions_BT[:, None, :] <= last_BT[:, :, None])[:, None]


def local_mask(
    segment_ids_BT: jax.Array,
    positions_BT: jax.Array,
    window_radius: int,
    chunk: int,
    last_BT: jax.Array | None = None,
) -> jax.Array:
    """Returns True where query and key are of one segment and at most `window_radius` positions apart.

    No key is seen that stands after the position `last_BT` of its query, where that is given.

    The result is bool [B, 1, T, T], or [B, C, 1, W, 3 W] for `masked_attention` with chunk = W >= `window_radius`.
    """
    queries = [segment_ids_BT, positions_BT]
    keys = queries
    if chunk:
        # What fills the last chunk, or lies before the first or after the last, is of segment -1, which no one sees.
        queries = [_cut(segment_ids_BT, chunk, -1), _cut(positions_BT, chunk, 0)]
        keys = [_with_neighbours(segment_ids_BT, chunk, -1), _with_neighbours(positions_BT, chunk, 0)]
        last_BT = None if last_BT is None else _cut(last_BT, chunk, 0)
    (query_segments, query_positions), (key_segments, key_positions) = queries, keys
    same = jnp.abs(query_segments)[..., :, None] == key_segments[..., None, :]
    away = query_positions[..., :, None] - key_positions[..., None, :]
    seen = same & (jnp.abs(away) <= window_radius)
    if last_BT is not None:
        seen &= key_positions[..., None, :] <= last_BT[..., :, None]
    return seen[..., None, :, :]


def chunk_length(tokens: int, window_radius: int) -> int:
    """Returns the length of chunks for rows of `tokens`; 0: chunks, which see three times their keys, would not pay.

    A program for rows of any length (`formats`), whose `tokens` are a symbol, has none.
    """
    return window_radius if isinstance(tokens, int) and tokens > 4 * window_radius else 0


def masked_attention(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    mask: jax.Array,
    *,
    chunk: int = 0,
    prefix: tuple[jax.Array, jax.Array] | None = None,
    bias: jax.Array | None = None,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: DropoutKey | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1); returns [B, T, N, H] in the dtype of `q`.

    Scores and softmax are f32 whatever the dtype of the inputs. The scores are products times `scale` (default: 1 /
    sqrt(H)), to which `bias`, f32 [B or 1, N, T, T], is added. Dropout is applied to the attention weights, as in
    BERT, where there is a key. With `chunk`, each chunk of queries sees itself and its two neighbours only (as in
    Longformer, Beltagy et al. 2020, section 3.1), so that the cost grows with T, not with T squared. Keys and values
    [P, N, H] of a `prefix` are seen by every query, whatever the mask says.
    """
    scale = q_BTNH.shape[-1] ** -0.5 if scale is None else scale
    if chunk:
        assert bias is None, "no encoder has both a local window and a bias"
        tokens = q_BTNH.shape[1]
        cut = (_cut(q_BTNH, chunk, 0), *(_with_neighbours(x_BTNH, chunk, 0) for x_BTNH in (k_BTNH, v_BTNH)))
        q_BCWNH, k_BCSNH, v_BCSNH = (constrain(x, "batch", "chunks", "features", "heads", "head_dim") for x in cut)
        context_BCWNH = masked_attention(
            q_BCWNH, k_BCSNH, v_BCSNH, mask,
            prefix=prefix, scale=scale, dropout_rate=dropout_rate, dropout_key=dropout_key,
        )  # fmt: skip
        return context_BCWNH.reshape(len(q_BTNH), -1, *q_BTNH.shape[2:])[:, :tokens]
    if prefix is not None:
        k_BTNH, v_BTNH = (
            jnp.concatenate([x, jnp.broadcast_to(more, (*x.shape[:-3], *more.shape))], axis=-3)
            for x, more in zip((k_BTNH, v_BTNH), prefix, strict=True)
        )
        mask = jnp.concatenate([mask, jnp.ones((*mask.shape[:-1], len(prefix[0])), bool)], axis=-1)
        bias = None if bias is None else jnp.pad(bias, [*[(0, 0)] * (bias.ndim - 1), (0, len(prefix[0]))])
    weights = (*q_BTNH.shape[:-3], q_BTNH.shape[-2], q_BTNH.shape[-3], k_BTNH.shape[-3])
    dropout_mask_BNTS = dropout_mask(weights, dropout_rate, dropout_key)
    return _masked_attention(q_BTNH, k_BTNH, v_BTNH, mask, dropout_mask_BNTS, bias, dropout_rate, scale)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _masked_attention(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    mask: jax.Array,
    dropout_mask_BNTS: jax.Array | None,
    bias_BNTS: jax.Array | None,
    rate: float,
    scale: float,
) -> jax.Array:
    """`masked_attention` of whole rows; for its backward pass it saves the weights in the dtype of `v`, and the mask.

    Autodiff would save them in f32, before and after dropout: more than twice the largest arrays of a layer
    (profiles/NOTES.md).
    """
    return _forward(q_BTNH, k_BSNH, v_BSNH, mask, dropout_mask_BNTS, bias_BNTS, rate, scale)[0]


def _forward(
    q_BTNH: jax.Array,
    k_BSNH: jax.Array,
    v_BSNH: jax.Array,
    mask: jax.Array,
    dropout_mask_BNTS: jax.Array | None,
    bias_BNTS: jax.Array | None,
    rate: float,
    scale: float,
) -> tuple[jax.Array, Any]:
    scores_BNTS = einsum("...TNH,...SNH->...NTS", q_BTNH * scale, k_BSNH, jnp.float32)
    if bias_BNTS is not None:
        scores_BNTS = scores_BNTS + bias_BNTS
    weights_BNTS = jax.nn.softmax(jnp.where(mask, scores_BNTS, MASKED), axis=-1).astype(v_BSNH.dtype)
    context_BTNH = einsum("...NTS,...SNH->...TNH", apply_dropout(weights_BNTS, rate, dropout_mask_BNTS), v_BSNH)
    # Of the bias only its first axis matters to the backward pass: an array of no elements carries it there.
    rows = None if bias_BNTS is None else jnp.zeros((len(bias_BNTS), 0))
    return context_BTNH, (q_BTNH, k_BSNH, v_BSNH, dropout_mask_BNTS, rows, weights_BNTS, context_BTNH)


def _backward(rate: float, scale: float, saved: Any, gradient_BTNH: jax.Array) -> tuple[jax.Array | None, ...]:
    q_BTNH, k_BSNH, v_BSNH, dropout_mask_BNTS, rows, weights_BNTS, context_BTNH = saved
    # The mean over a row's weights of their gradient is context times its gradient (Dao et al. 2022, appendix B.2).
    mean_BTN = jnp.sum(gradient_BTNH.astype(jnp.float32) * context_BTNH.astype(jnp.float32), axis=-1)
    mean_BNT1 = jnp.swapaxes(mean_BTN, -1, -2)[..., None]
    # On CPU f32 results of products cost nothing; elsewhere narrow ones write fewer bytes.
    dtype = jnp.float32 if target.platform() == "cpu" else v_BSNH.dtype
    of_weights_BNTS = einsum("...TNH,...SNH->...NTS", gradient_BTNH, v_BSNH, dtype)
    of_v_BSNH = einsum("...NTS,...TNH->...SNH", apply_dropout(weights_BNTS, rate, dropout_mask_BNTS), gradient_BTNH)
    of_weights_BNTS = apply_dropout(of_weights_BNTS.astype(jnp.float32), rate, dropout_mask_BNTS)
    wide_BNTS = weights_BNTS.astype(jnp.float32) * (of_weights_BNTS - mean_BNT1)
    of_scores_BNTS = wide_BNTS.astype(q_BTNH.dtype)
    of_q_BTNH = einsum("...NTS,...SNH->...TNH", of_scores_BNTS, k_BSNH) * scale
    of_k_BSNH = einsum("...NTS,...TNH->...SNH", of_scores_BNTS, q_BTNH * scale)
    of_bias_BNTS = None
    if rows is not None:  # one bias may be that of all rows of the batch
        of_bias_BNTS = wide_BNTS if len(rows) == len(wide_BNTS) else jnp.sum(wide_BNTS, axis=0, keepdims=True)
    return of_q_BTNH, of_k_BSNH, of_v_BSNH, None, None, of_bias_BNTS


_masked_attention.defvjp(_forward, _backward)


def _with_neighbours(x_BT: jax.Array, chunk: int, fill: int) -> jax.Array:
    """Cuts [B, T, ...] into [B, C, 3 W, ...]: each chunk between the previous and the next one."""
    x_BCW = _cut(x_BT, chunk, fill)

    def shifted(by: int) -> jax.Array:
        # By padding that keeps the shape: where chunks lie on several devices, only one chunk is sent to the neighbour.
        widths = [(by, -by, 0) if axis == 1 else (0, 0, 0) for axis in range(x_BCW.ndim)]
        return lax.pad(x_BCW, jnp.asarray(fill, x_BCW.dtype), widths)

    return jnp.concatenate([shifted(1), x_BCW, shifted(-1)], axis=2)


def _cut(x_BT: jax.Array, chunk: int, fill: int) -> jax.Array:
    """Cuts [B, T, ...] into [B, C, W, ...], the last chunk padded."""
    batch, tokens, *rest = x_BT.shape
    widths = [(0, 0), (0, -tokens % chunk), *[(0, 0)] * len(rest)]
    return jnp.pad(x_BT, widths, constant_values=fill).reshape(batch, -1, chunk, *rest)
