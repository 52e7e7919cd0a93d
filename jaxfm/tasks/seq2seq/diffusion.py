"""Masked diffusion of targets: which tokens a step masks, and how masks are filled one after the other."""

# B batch, T tokens, S segments (examples in a row), P target places of a row, C places a chunk, D model, V vocabulary,
# M places of a target

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text.masking import target_places
from jaxfm.tasks.seq2seq.draws import segment_keys
from jaxfm.tasks.seq2seq.spec import UnmaskingConfig
from jaxfm.tasks.seq2seq.written import Written, gather_written, per_segment

# The least share: at 0 nothing would be masked, and the weight is its inverse (Nie et al. 2025, LLaDA's code).
LEAST_SHARE = 1e-3
_CHUNK = 64  # places of a row whose scores of the vocabulary are in memory at once
_CLOSED = 0.5  # probability of the separator from which a target is taken to end


def draw_shares(key: jax.Array, rows: int, segments: int) -> jax.Array:
    """Returns the share of the target that is masked in each segment, f32 [B, S], uniform from LEAST_SHARE to 1.

    The segments of a row have shares at equal distances, from a start drawn for the row: losses vary less from step to
    step (Sahoo et al. 2024, MDLM, "low-discrepancy sampler").
    """
    start_B1 = jax.random.uniform(key, (rows, 1))
    drawn_BS = (start_B1 + jnp.arange(segments) / segments) % 1.0
    return LEAST_SHARE + (1.0 - LEAST_SHARE) * drawn_BS


def mask_targets(
    key: jax.Array, batch: Mapping[str, jax.Array], shares_BS: jax.Array, mask_id: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Masks each target token (label >= 0) with the probability of its segment; the source never.

    Returns the batch with masks, whose labels are -1 where nothing is masked, and the weight of each token, f32 [B, T]:
    1 / share where it is masked, else 0.
    """
    labels_BT, segment_ids_BT = batch["labels"], batch["segment_ids"]
    share_BT = jnp.take_along_axis(shares_BS, jnp.maximum(segment_ids_BT - 1, 0), axis=1)
    masked_BT = (labels_BT >= 0) & (jax.random.uniform(key, labels_BT.shape) < share_BT)
    tokens_BT = jnp.where(masked_BT, mask_id, batch["tokens"])
    weight_BT = jnp.where(masked_BT, 1.0 / share_BT, 0.0)
    return {**batch, "tokens": tokens_BT, "labels": jnp.where(masked_BT, labels_BT, -1)}, weight_BT


class _Places(NamedTuple):
    """The target places of rows.

    Attributes:
      place_BP: index in the row; T beyond the last one.
      slot_BP: place in the target, from 0; -1 beyond the last one.
      segment_BP: segment, from 0; -1 beyond the last one.
    """

    place_BP: jax.Array
    slot_BP: jax.Array
    segment_BP: jax.Array


def _places(batch: Mapping[str, jax.Array], limit: int) -> _Places:
    length = batch["tokens"].shape[1]
    place_BP, slot_BP = target_places(batch["labels"], min(limit, length))
    segment_BP = jnp.take_along_axis(batch["segment_ids"], place_BP, axis=1) - 1
    there_BP = slot_BP >= 0
    return _Places(jnp.where(there_BP, place_BP, length), slot_BP, jnp.where(there_BP, segment_BP, -1))


def fill_targets(
    model: Any,
    batch: Mapping[str, jax.Array],
    unmasking: UnmaskingConfig,
    *,
    segments: int,
    most: int,
    separator: int,
    never: tuple[int, ...],
) -> Written:
    """Writes the targets of rows whose places are masked and labelled 0, 1, 2, ... (`encoding.blank_rows`).

    First the length: seeing nothing but masks, the model says at each place how likely the separator is; a target ends
    at the first one where it is more likely than not. Then passes over the rows: each fills the places that the model
    is surest of, given all that is filled, as many as leave equal numbers to the passes that follow (Chang et al. 2022,
    section 3.2; without the length first, separators, of which many models are surer than of any word, cut texts
    short). Segments do not see each other, so what a row is shared with does not matter.

    Args:
      model: as models.heads.MaskedLM.
      batch: rows.
      unmasking: steps, temperature and seed.
      segments: S.
      most: M, places of the longest target.
      separator: token that ends a target.
      never: tokens that are not written.
    """
    at = _places(batch, segments * most)
    there_BP = at.slot_BP >= 0
    closing_BP = _closing(model, batch, at, separator)
    last_BS = per_segment(at.segment_BP, at.slot_BP, segments, jnp.max, -1)
    ends_BP = jnp.where(closing_BP, at.slot_BP, most)
    length_BS = jnp.minimum(per_segment(at.segment_BP, ends_BP, segments, jnp.min, most), last_BS)
    length_BP = jnp.take_along_axis(length_BS, jnp.maximum(at.segment_BP, 0), axis=1)
    open_BP = there_BP & (at.slot_BP < length_BP)
    steps = unmasking.steps or most
    never_all = jnp.asarray((*never, separator), jnp.int32)
    keys_BS = segment_keys(batch, unmasking.seed, segments)

    def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
        return (state[0] < steps) & state[2].any()

    def one_pass(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, tokens_BP, masked_BP, log_BP = state
        hidden_BPD = _hidden(model, batch, at, jnp.where(there_BP, tokens_BP, 0), masked_BP)
        noise = None if not unmasking.temperature else _noise_keys(keys_BS, at, step)
        best_BP, sure_BP = _likeliest(model, hidden_BPD, never_all, unmasking.temperature, noise)
        left_BS = per_segment(at.segment_BP, masked_BP.astype(jnp.int32), segments, jnp.sum, 0)
        count_BS = -(-left_BS // (steps - step))
        count_BP = jnp.take_along_axis(count_BS, jnp.maximum(at.segment_BP, 0), axis=1)
        now_BP = masked_BP & (_rank(sure_BP, masked_BP, at.segment_BP) < count_BP)
        return (
            step + 1,
            jnp.where(now_BP, best_BP, tokens_BP),
            masked_BP & ~now_BP,
            jnp.where(now_BP, sure_BP, log_BP),
        )

    tokens_BP = jnp.full_like(at.slot_BP, separator)
    start = (jnp.int32(0), tokens_BP, open_BP, jnp.zeros(tokens_BP.shape, jnp.float32))
    _, tokens_BP, _, log_BP = lax.while_loop(unfinished, one_pass, start)
    return gather_written(at.segment_BP, at.slot_BP, tokens_BP, log_BP, length_BS, segments=segments, most=most)


def _hidden(
    model: Any, batch: Mapping[str, jax.Array], at: _Places, tokens_BP: jax.Array, masked_BP: jax.Array
) -> jax.Array:
    """Returns the hidden states at the target places [B, P, D], these filled with tokens but where they are masked."""

    def put(tokens_T: jax.Array, place_P: jax.Array, values_P: jax.Array, masked_P: jax.Array) -> jax.Array:
        return tokens_T.at[jnp.where(masked_P, len(tokens_T), place_P)].set(values_P, mode="drop")

    tokens_BT = jax.vmap(put)(batch["tokens"], at.place_BP, tokens_BP, masked_BP)
    return _at_places(model.hidden({**batch, "tokens": tokens_BT}), at)


def _at_places(hidden_BTD: jax.Array, at: _Places) -> jax.Array:
    place_BP = jnp.minimum(at.place_BP, hidden_BTD.shape[1] - 1)
    return jnp.take_along_axis(hidden_BTD, place_BP[..., None], axis=1)


def _closing(model: Any, batch: Mapping[str, jax.Array], at: _Places, separator: int) -> jax.Array:
    """Returns at which places the separator is more likely than not, seeing masks alone, bool [B, P]."""

    def one(hidden_BCD: jax.Array) -> jax.Array:
        return jax.nn.softmax(model.logits(hidden_BCD))[..., separator] >= _CLOSED

    return _in_chunks(one, _at_places(model.hidden(batch), at)) & (at.slot_BP >= 0)


def _likeliest(
    model: Any, hidden_BPD: jax.Array, never: jax.Array, temperature: float, keys_BP: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Returns the likeliest token at each place, or one drawn at the temperature, and its log-probability [B, P]."""

    def one(part: Any) -> tuple[jax.Array, jax.Array]:
        hidden_BCD, keys_BC = part
        logits_BCV = model.logits(hidden_BCD)
        logits_BCV = logits_BCV.at[..., never].set(-jnp.inf)
        log_BCV = jax.nn.log_softmax(logits_BCV)
        ranked_BCV = log_BCV
        if temperature:
            size = logits_BCV.shape[-1]
            draw = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, (size,))))
            ranked_BCV = log_BCV / temperature + draw(keys_BC)
        best_BC = jnp.argmax(ranked_BCV, axis=-1).astype(jnp.int32)
        return best_BC, jnp.take_along_axis(log_BCV, best_BC[..., None], axis=-1)[..., 0]

    return _in_chunks(one, (hidden_BPD, keys_BP))


def _in_chunks(function: Any, x_BP: Any) -> Any:
    """Applies a function to arrays [B, P, ...] in chunks of places."""
    size = jax.tree.leaves(x_BP)[0].shape[1]
    if size <= _CHUNK:
        return function(x_BP)
    padding = -size % _CHUNK

    def divide(x: jax.Array) -> jax.Array:
        if padding:
            x = jnp.concatenate([x, x[:, :1].repeat(padding, axis=1)], axis=1)
        return jnp.moveaxis(x.reshape(len(x), -1, _CHUNK, *x.shape[2:]), 1, 0)

    found = lax.map(function, jax.tree.map(divide, x_BP))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :size], found)


def _rank(sure_BP: jax.Array, masked_BP: jax.Array, segment_BP: jax.Array) -> jax.Array:
    """Returns how many masked places of the same segment the model is surer of, int32 [B, P]; of equals the first."""
    index_P = jnp.arange(sure_BP.shape[1])
    same_BPP = (segment_BP[:, :, None] == segment_BP[:, None, :]) & masked_BP[:, None, :]
    surer_BPP = sure_BP[:, None, :] > sure_BP[:, :, None]
    surer_BPP |= (sure_BP[:, None, :] == sure_BP[:, :, None]) & (index_P[None, :] < index_P[:, None])[None]
    return (same_BPP & surer_BPP).sum(axis=-1)


def _noise_keys(keys_BS: jax.Array, at: _Places, step: jax.Array) -> jax.Array:
    """Returns a key for each place in a pass, [B, P]."""

    def one(keys_S: jax.Array, segment: jax.Array, slot: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(keys_S[segment], step), slot)

    of_row = jax.vmap(one, in_axes=(None, 0, 0))
    return jax.vmap(of_row)(keys_BS, jnp.maximum(at.segment_BP, 0), jnp.maximum(at.slot_BP, 0))
