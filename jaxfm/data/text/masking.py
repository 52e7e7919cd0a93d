"""Masks for masked-LM, drawn on the device: tokens, whole words or spans; exact shares, static shapes."""

# B batch, T tokens, P predictions a row, V vocabulary

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text.mask_vocabulary import MaskVocabulary

UNITS = ("token", "whole_word", "span")
# Spans count words: lengths are geometric among 1 to 10 (Joshi et al. 2020, SpanBERT, section 3.1: mean 3.8).
SPAN_P, SPAN_MAX = 0.2, 10
# The longest unit in tokens: a longer word is cut into several, and a span ends with the last word that fits it. So the
# last unit of a row, which may reach beyond the wanted count, always fits the static number of places.
WORD_TOKENS, SPAN_TOKENS = 8, 24
_HEADROOM = {"token": 0, "whole_word": WORD_TOKENS, "span": SPAN_TOKENS}


@dataclasses.dataclass(frozen=True)
class Masking:
    """How many tokens are masked, in which units, and by what they are replaced.

    Attributes:
      unit: "token", "whole_word" (all pieces of a word together) or "span" (several words in a row).
      mask_share: of the chosen tokens, those that become the mask token (Devlin et al. 2019: 0.8).
      random_share: of the chosen tokens, those that become a random ordinary token (0.1); the rest stay.
    """

    unit: str
    mask_share: float = 0.8
    random_share: float = 0.1


def max_predictions(unit: str, ratio: float, row_length: int) -> int:
    """Returns P, the static number of places a row whose targets the vocabulary projection is computed for."""
    wanted = math.ceil(ratio * row_length) + _HEADROOM[unit]
    return min(row_length, 8 * math.ceil(wanted / 8))


@jax.named_scope("masking")
def mask_tokens(
    key: jax.Array,
    tokens_BT: jax.Array,
    segment_ids_BT: jax.Array,
    vocabulary: MaskVocabulary,
    masking: Masking,
    *,
    ratio: jax.Array | float,
    limit: int,
) -> tuple[jax.Array, jax.Array]:
    """Masks tokens; returns (tokens with the masked ones replaced, labels: the original where masked, else -1) [B, T].

    The units of a row are put in random order and taken until `ratio` of the row's maskable tokens are chosen. The unit
    that crosses that number is taken with the probability that makes the expected count exact; never more than `limit`
    tokens a row, which with `max_predictions` leaves nothing out. A word of more than WORD_TOKENS tokens is cut into
    units of that many, a span ends with the last word that lies within SPAN_TOKENS. Special tokens and padding are
    never chosen, and no unit reaches across a segment. The same key gives the same masks on any mesh.

    Args:
      key: of these rows at this step.
      tokens_BT: int32 piece ids.
      segment_ids_BT: int32, 0 on padding.
      vocabulary: of the tokens.
      masking: unit and shares.
      ratio: share of the maskable tokens to mask, may be traced.
      limit: P, see `max_predictions`.
    """
    order_key, length_key, coin_key, action_key, random_key = jax.random.split(key, 5)
    shape = tokens_BT.shape
    maskable_BT = jnp.asarray(vocabulary.maskable)[tokens_BT] & (segment_ids_BT > 0)
    starts_BT = unit_starts(tokens_BT, segment_ids_BT, maskable_BT, vocabulary, masking.unit)
    # The index of the token at which a token's own word starts; each unit's draws are those made at its first token.
    index_BT = lax.broadcasted_iota(jnp.int32, shape, 1)
    own_BT = lax.cummax(jnp.where(starts_BT, index_BT, 0), axis=1)
    starts_BT |= maskable_BT & ((index_BT - own_BT) % WORD_TOKENS == 0)
    own_BT += (index_BT - own_BT) // WORD_TOKENS * WORD_TOKENS
    draws_BT = jax.random.bits(order_key, shape, jnp.uint32) >> 1  # 31 bits, so that the greatest number is free
    if masking.unit == "span":
        owner_BT = _span_owners(length_key, draws_BT, starts_BT, own_BT, segment_ids_BT, maskable_BT)
    else:
        owner_BT = own_BT
    rank_BT = jnp.where(maskable_BT, jnp.take_along_axis(draws_BT, owner_BT, axis=1), jnp.uint32(2**32 - 1))
    wanted_B1 = ratio * maskable_BT.sum(axis=1, keepdims=True, dtype=jnp.float32)
    coins_BT = jnp.take_along_axis(jax.random.uniform(coin_key, shape), owner_BT, axis=1)
    chosen_BT = _choose(rank_BT, coins_BT, wanted_B1, limit) & maskable_BT

    action_BT = jax.random.uniform(action_key, shape)
    if masking.unit == "span":  # one fate for all of a span, as in SpanBERT
        action_BT = jnp.take_along_axis(action_BT, owner_BT, axis=1)
    random_BT = tokens_BT
    if isinstance(masking.random_share, jax.Array) or masking.random_share:  # else nothing is drawn
        ordinary = jnp.asarray(vocabulary.ordinary)
        random_BT = ordinary[jax.random.randint(random_key, shape, 0, len(ordinary))]
    replaced_BT = jnp.where(
        action_BT < masking.mask_share,
        vocabulary.mask_id,
        jnp.where(action_BT < masking.mask_share + masking.random_share, random_BT, tokens_BT),
    )
    return jnp.where(chosen_BT, replaced_BT, tokens_BT), jnp.where(chosen_BT, tokens_BT, -1)


def target_places(labels_BT: jax.Array, limit: int) -> tuple[jax.Array, jax.Array]:
    """Returns where a row's targets are, [B, P] token indices, and the targets there, -1 beyond the last one."""
    places_BP = jnp.argsort(labels_BT < 0, axis=1, stable=True)[:, :limit]
    return places_BP, jnp.take_along_axis(labels_BT, places_BP, axis=1)


def unit_starts(
    tokens_BT: jax.Array, segment_ids_BT: jax.Array, maskable_BT: jax.Array, vocabulary: MaskVocabulary, unit: str
) -> jax.Array:
    """Bool [B, T]: the tokens at which a word (or, for unit "token", any token) starts."""
    if unit == "token":
        return maskable_BT

    def before(values: jax.Array) -> jax.Array:
        return jnp.pad(values, ((0, 0), (1, 0)))[:, :-1]

    joined_BT = before(maskable_BT) & (before(segment_ids_BT) == segment_ids_BT)
    return maskable_BT & ~(jnp.asarray(vocabulary.continues)[tokens_BT] & joined_BT)


def _span_owners(
    key: jax.Array,
    draws_BT: jax.Array,
    starts_BT: jax.Array,
    own_BT: jax.Array,
    segment_ids_BT: jax.Array,
    maskable_BT: jax.Array,
) -> jax.Array:
    """Returns for each token the first token [B, T] of the span that comes first in the row's order and covers it.

    A span starts at every word; taking spans in order until enough tokens are covered is then the same as taking
    tokens by the earliest span over them, which needs no loop over spans.
    """
    # Where the word of each token ends: before the next start or special token.
    index_BT = lax.broadcasted_iota(jnp.int32, draws_BT.shape, 1)
    border_BT = jnp.where(starts_BT | ~maskable_BT, index_BT, draws_BT.shape[1])
    border_BT = jnp.pad(border_BT[:, 1:], ((0, 0), (0, 1)), constant_values=draws_BT.shape[1])
    end_BT = lax.cummin(border_BT, axis=1, reverse=True)
    # The inverse of the distribution of lengths; the least uniform number is that at which a span of SPAN_MAX ends.
    uniform_BT = jax.random.uniform(key, draws_BT.shape, minval=(1 - SPAN_P) ** SPAN_MAX)
    words_BT = jnp.minimum(1 + jnp.floor(jnp.log(uniform_BT) / math.log(1 - SPAN_P)), SPAN_MAX).astype(jnp.int32)

    def look_further(distance: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        best_rank_BT, owner_BT, first_BT = carry
        # The start of the word before the one that starts at first_BT; first_BT itself where there is none.
        at_BT = jnp.maximum(first_BT - 1, 0)
        earlier_BT = jnp.take_along_axis(own_BT, at_BT, axis=1)
        reaches_BT = (
            (first_BT > 0)
            & jnp.take_along_axis(maskable_BT, at_BT, axis=1)
            & jnp.take_along_axis(starts_BT, earlier_BT, axis=1)
            & (jnp.take_along_axis(segment_ids_BT, earlier_BT, axis=1) == segment_ids_BT)
        )
        first_BT = jnp.where(reaches_BT, earlier_BT, 0)  # 0 ends the walk: nothing lies before
        rank_BT = jnp.take_along_axis(draws_BT, first_BT, axis=1)
        covers_BT = (
            reaches_BT
            & (jnp.take_along_axis(words_BT, first_BT, axis=1) > distance)
            & (end_BT - first_BT <= SPAN_TOKENS)
        )
        better_BT = covers_BT & (rank_BT < best_rank_BT)
        best_rank_BT = jnp.where(better_BT, rank_BT, best_rank_BT)
        return best_rank_BT, jnp.where(better_BT, first_BT, owner_BT), first_BT

    start = (jnp.take_along_axis(draws_BT, own_BT, axis=1), own_BT, own_BT)
    return lax.fori_loop(1, SPAN_MAX, look_further, start)[1]


def _choose(rank_BT: jax.Array, coins_BT: jax.Array, wanted_B1: jax.Array, limit: int) -> jax.Array:
    """Bool [B, T]: the tokens of the units that come first by rank, `wanted_B1` of them on average, at most `limit`."""
    order_BT = jnp.argsort(rank_BT, axis=1, stable=True)
    rank_sorted_BT = jnp.take_along_axis(rank_BT, order_BT, axis=1)
    place_BT = lax.broadcasted_iota(jnp.int32, rank_BT.shape, 1)
    change_BT = rank_sorted_BT[:, 1:] != rank_sorted_BT[:, :-1]
    edge_B1 = jnp.ones_like(change_BT[:, :1])
    first_BT = jnp.concatenate([edge_B1, change_BT], axis=1)
    last_BT = jnp.concatenate([change_BT, edge_B1], axis=1)
    before_BT = lax.cummax(jnp.where(first_BT, place_BT, 0), axis=1)
    after_BT = lax.cummin(jnp.where(last_BT, place_BT + 1, rank_BT.shape[1]), axis=1, reverse=True)
    # Of a unit that crosses the wanted number the share below it is the chance that it is taken: right on average.
    chance_BT = (wanted_B1 - before_BT) / (after_BT - before_BT)
    taken_BT = (jnp.take_along_axis(coins_BT, order_BT, axis=1) < chance_BT) & (after_BT <= limit)
    return jnp.take_along_axis(taken_BT, jnp.argsort(order_BT, axis=1), axis=1)
