"""Masked diffusion of targets: how long a target is, then its places filled one after the other."""

# B batch, T tokens, S segments (examples in a row), P target places of a row, C places a chunk, D model, V vocabulary,
# M places of a target

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.tasks.draws import segment_keys
from jaxfm.tasks.seq2seq.spec import UnmaskingConfig
from jaxfm.tasks.unmasking import Places, Proposal, in_chunks, likeliest, unmask
from jaxfm.tasks.written import Written, gather_written, per_segment

_CLOSED = 0.5  # probability of the separator from which a target is taken to end


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
    at = Places.of(batch, segments * most)
    closing_BP = _closing(model, batch, at, separator)
    last_BS = per_segment(at.segment_BP, at.slot_BP, segments, jnp.max, -1)
    ends_BP = jnp.where(closing_BP, at.slot_BP, most)
    length_BS = jnp.minimum(per_segment(at.segment_BP, ends_BP, segments, jnp.min, most), last_BS)
    open_BP = at.there & (at.slot_BP < at.of_segment(length_BS))
    steps = unmasking.steps or most
    never_all = jnp.asarray((*never, separator), jnp.int32)
    keys_BS = segment_keys(batch, unmasking.seed, segments)

    def propose(step: jax.Array, tokens_BP: jax.Array, masked_BP: jax.Array) -> Proposal:
        hidden_BPD = at.hidden(model.hidden(at.filled(batch, tokens_BP, masked_BP)))
        keys_BP = None if not unmasking.temperature else at.keys(keys_BS, step)
        best_BP, sure_BP = likeliest(model.logits, hidden_BPD, never_all, unmasking.temperature, keys_BP)
        return Proposal(best_BP, sure_BP, sure_BP)

    def count(step: jax.Array, left_BS: jax.Array) -> jax.Array:
        return -(-left_BS // (steps - step))

    tokens_BP, log_BP = unmask(at, open_BP, separator, steps=steps, segments=segments, propose=propose, count=count)
    return gather_written(at.segment_BP, at.slot_BP, tokens_BP, log_BP, length_BS, segments=segments, most=most)


def _closing(model: Any, batch: Mapping[str, jax.Array], at: Places, separator: int) -> jax.Array:
    """Returns at which places the separator is more likely than not, seeing masks alone, bool [B, P]."""

    def one(hidden_BCD: jax.Array) -> jax.Array:
        return jax.nn.softmax(model.logits(hidden_BCD))[..., separator] >= _CLOSED

    return in_chunks(one, at.hidden(model.hidden(batch))) & at.there
