"""Masked tokens that a model fills, the surest first: which tokens a training step masks, and the passes that fill."""

# B batch, T tokens, S segments (examples in a row), P places of a row to fill, C places a chunk, D model, V vocabulary

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text.masking import target_places
from jaxfm.tasks.written import per_segment

# The least share: at 0 nothing would be masked, and the weight is its inverse (Nie et al. 2025, LLaDA's code).
LEAST_SHARE = 1e-3
_CHUNK = 64  # places of a row whose scores of the vocabulary are in memory at once


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
    """Masks each target token (label >= 0) with the probability of its segment; what is no target never.

    Returns the batch with masks, whose labels are -1 where nothing is masked, and the weight of each token, f32 [B, T]:
    1 / share where it is masked, else 0.
    """
    labels_BT, segment_ids_BT = batch["labels"], batch["segment_ids"]
    share_BT = jnp.take_along_axis(shares_BS, jnp.maximum(segment_ids_BT - 1, 0), axis=1)
    masked_BT = (labels_BT >= 0) & (jax.random.uniform(key, labels_BT.shape) < share_BT)
    weight_BT = jnp.where(masked_BT, 1.0 / share_BT, 0.0)
    return with_masks(batch, masked_BT, mask_id), weight_BT


def with_masks(batch: Mapping[str, jax.Array], masked_BT: jax.Array, mask_id: int) -> dict[str, jax.Array]:
    """Returns the batch with masks in place of these tokens; the others have no label (-1)."""
    tokens_BT = jnp.where(masked_BT, mask_id, batch["tokens"])
    return {**batch, "tokens": tokens_BT, "labels": jnp.where(masked_BT, batch["labels"], -1)}


class Places(NamedTuple):
    """The places of rows that are to be filled.

    Attributes:
      place_BP: index in the row; T beyond the last one.
      slot_BP: place in the target, from 0; -1 beyond the last one.
      segment_BP: segment, from 0; -1 beyond the last one.
    """

    place_BP: jax.Array
    slot_BP: jax.Array
    segment_BP: jax.Array

    @classmethod
    def of(cls, batch: Mapping[str, jax.Array], limit: int) -> "Places":
        """Finds the first `limit` places of rows that are labelled 0, 1, 2, ... in each segment."""
        length = batch["tokens"].shape[1]
        place_BP, slot_BP = target_places(batch["labels"], min(limit, length))
        segment_BP = jnp.take_along_axis(batch["segment_ids"], place_BP, axis=1) - 1
        there = slot_BP >= 0
        return cls(jnp.where(there, place_BP, length), slot_BP, jnp.where(there, segment_BP, -1))

    @property
    def there(self) -> jax.Array:
        """Whether there is such a place."""
        return self.slot_BP >= 0

    def of_segment(self, values_BS: jax.Array) -> jax.Array:
        """Returns at each place the value of its segment [B, P, ...]; that of the first one at places of none."""
        return jax.vmap(lambda values_S, index_P: values_S[index_P])(values_BS, jnp.maximum(self.segment_BP, 0))

    def hidden(self, hidden_BTD: jax.Array) -> jax.Array:
        """Returns hidden states at the places [B, P, D]."""
        place_BP = jnp.minimum(self.place_BP, hidden_BTD.shape[1] - 1)
        return jnp.take_along_axis(hidden_BTD, place_BP[..., None], axis=1)

    def filled(self, batch: Mapping[str, jax.Array], tokens_BP: jax.Array, masked_BP: jax.Array) -> dict[str, Any]:
        """Returns the batch with tokens at the places that are not masked."""

        def put(tokens_T: jax.Array, place_P: jax.Array, values_P: jax.Array, masked_P: jax.Array) -> jax.Array:
            return tokens_T.at[jnp.where(masked_P, len(tokens_T), place_P)].set(values_P, mode="drop")

        values_BP = jnp.where(self.there, tokens_BP, 0)
        return {**batch, "tokens": jax.vmap(put)(batch["tokens"], self.place_BP, values_BP, masked_BP)}

    def keys(self, keys_BS: jax.Array, step: jax.Array) -> jax.Array:
        """Returns a key for each place in a pass [B, P], of those of its segment."""

        def one(keys_S: jax.Array, segment: jax.Array, slot: jax.Array) -> jax.Array:
            return jax.random.fold_in(jax.random.fold_in(keys_S[segment], step), slot)

        of_row = jax.vmap(one, in_axes=(None, 0, 0))
        return jax.vmap(of_row)(keys_BS, jnp.maximum(self.segment_BP, 0), jnp.maximum(self.slot_BP, 0))


class Proposal(NamedTuple):
    """What a pass would fill the places with.

    Attributes:
      tokens_BP: tokens.
      log_BP: their log-probabilities.
      order_BP: the greater, the earlier a place is filled.
    """

    tokens_BP: jax.Array
    log_BP: jax.Array
    order_BP: jax.Array


def unmask(
    at: Places,
    open_BP: jax.Array,
    blank: int,
    *,
    steps: int,
    segments: int,
    propose: Callable[[jax.Array, jax.Array, jax.Array], Proposal],
    count: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Fills open places in at most `steps` passes, the surest of each segment first (Chang et al. 2022, section 3.2).

    Args:
      at: the places.
      open_BP: which of them are filled.
      blank: the token of all others.
      steps: passes.
      segments: S.
      propose: (pass from 0, tokens [B, P], which are still masked [B, P]) -> what each place would get.
      count: (pass, open places of each segment [B, S]) -> how many of these the pass fills.

    Returns:
      Tokens and their log-probabilities [B, P], 0 where nothing was open.
    """

    def unfinished(state: tuple[jax.Array, ...]) -> jax.Array:
        return (state[0] < steps) & state[2].any()

    def one_pass(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        step, tokens_BP, masked_BP, log_BP = state
        found = propose(step, tokens_BP, masked_BP)
        left_BS = per_segment(at.segment_BP, masked_BP.astype(jnp.int32), segments, jnp.sum, 0)
        count_BP = at.of_segment(count(step, left_BS))
        now_BP = masked_BP & (rank(found.order_BP, masked_BP, at.segment_BP) < count_BP)
        return (
            step + 1,
            jnp.where(now_BP, found.tokens_BP, tokens_BP),
            masked_BP & ~now_BP,
            jnp.where(now_BP, found.log_BP, log_BP),
        )

    tokens_BP = jnp.full_like(at.slot_BP, blank)
    start = (jnp.int32(0), tokens_BP, open_BP, jnp.zeros(tokens_BP.shape, jnp.float32))
    _, tokens_BP, _, log_BP = lax.while_loop(unfinished, one_pass, start)
    return tokens_BP, log_BP


def rank(order_BP: jax.Array, masked_BP: jax.Array, segment_BP: jax.Array) -> jax.Array:
    """Returns how many masked places of the same segment come before each, int32 [B, P]; of equals the first."""
    index_P = jnp.arange(order_BP.shape[1])
    same_BPP = (segment_BP[:, :, None] == segment_BP[:, None, :]) & masked_BP[:, None, :]
    before_BPP = order_BP[:, None, :] > order_BP[:, :, None]
    before_BPP |= (order_BP[:, None, :] == order_BP[:, :, None]) & (index_P[None, :] < index_P[:, None])[None]
    return (same_BPP & before_BPP).sum(axis=-1)


def likeliest(
    logits: Callable[[Any], jax.Array],
    hidden_BPD: Any,
    never: jax.Array,
    temperature: float,
    keys_BP: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the likeliest token at each place, or one drawn at the temperature, and its log-probability [B, P].

    Args:
      logits: scores of the vocabulary [B, C, V] of hidden states of some places.
      hidden_BPD: hidden states, or a tree of such.
      never: tokens that are not taken.
      temperature: of what is drawn; 0: the likeliest.
      keys_BP: of the places; None at temperature 0.
    """

    def one(part: Any) -> tuple[jax.Array, jax.Array]:
        hidden_BCD, keys_BC = part
        logits_BCV = logits(hidden_BCD)
        logits_BCV = logits_BCV.at[..., never].set(-jnp.inf)
        log_BCV = jax.nn.log_softmax(logits_BCV)
        ranked_BCV = log_BCV
        if temperature:
            size = logits_BCV.shape[-1]
            draw = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(key, (size,))))
            ranked_BCV = log_BCV / temperature + draw(keys_BC)
        best_BC = jnp.argmax(ranked_BCV, axis=-1).astype(jnp.int32)
        return best_BC, jnp.take_along_axis(log_BCV, best_BC[..., None], axis=-1)[..., 0]

    return in_chunks(one, (hidden_BPD, keys_BP))


def in_chunks(function: Any, x_BP: Any) -> Any:
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
