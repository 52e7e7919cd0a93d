"""Beam search: several texts a prefix are continued at once, and the likeliest that ends is the result.

In each step the R texts of a prefix and all their continuations are candidates. Of the best 2 R, those that end and are
among the best R are finished texts; the best R of the others go on. A finished text's score is the sum of its log
probabilities over tokens^length_penalty, its end token counted, as in transformers; log probabilities are those of the
model's own softmax, also where rules forbid some tokens. Texts that reach their greatest length are finished as they
are.
"""

# B batch, S segments of a row, R texts a segment, M new tokens, V padded vocabulary, C = 2 R candidates

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.decoding_config import FIRST, Decoding
from jaxfm.models.attention import MASKED
from jaxfm.models.token_rules import TokenRules


class Beams(NamedTuple):
    """The state of a search.

    Attributes:
      tokens_BSRM: texts that go on, the likeliest first.
      slots_BSRM: see `cached_layers.Step`.
      sums_BSR: of their log probabilities; MASKED or less where there are fewer texts.
      finished_BS: number of finished texts, up to R.
      best_tokens_BSM: the best finished text, and the end token after it.
      best_lengths_BS: its tokens without its end token.
      best_scores_BS: its score; MASKED where none is finished.
      done_BS: the search has ended.
    """

    tokens_BSRM: jax.Array
    slots_BSRM: jax.Array
    sums_BSR: jax.Array
    finished_BS: jax.Array
    best_tokens_BSM: jax.Array
    best_lengths_BS: jax.Array
    best_scores_BS: jax.Array
    done_BS: jax.Array


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """A search of these settings.

    Attributes:
      settings: beams, length_penalty, stop.
      rules: which tokens may follow.
      limits_BS: tokens of each text at most; 0: there is no prefix.
    """

    settings: Decoding
    rules: TokenRules
    limits_BS: jax.Array

    def start(self) -> Beams:
        """Returns the state before the first token: one empty text a prefix."""
        shape, beams = self.limits_BS.shape, self.settings.beams
        tokens = jnp.full((*shape, beams, self.settings.max_tokens), self.rules.end_id, jnp.int32)
        return Beams(
            tokens,
            jnp.zeros_like(tokens),
            jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, MASKED), (*shape, beams)),
            jnp.zeros(shape, jnp.int32),
            tokens[:, :, 0],
            jnp.zeros(shape, jnp.int32),
            jnp.full(shape, MASKED),
            self.limits_BS == 0,
        )

    def choose(self, state: Beams, logits_BSRV: jax.Array, number: jax.Array | int) -> Beams:
        """Returns the state with new token `number` of each text."""
        beams, rows = self.settings.beams, logits_BSRV.shape[-1]
        allowed = self.rules.allowed(logits_BSRV, state.tokens_BSRM, number)
        log_probs = jnp.where(allowed, jax.nn.log_softmax(logits_BSRV, axis=-1), MASKED)
        sums = (state.sums_BSR[..., None] + log_probs).reshape(*state.done_BS.shape, -1)
        sums_BSC, chosen_BSC = lax.top_k(sums, min(2 * beams, beams * rows))
        parents_BSC, new_BSC = chosen_BSC // rows, (chosen_BSC % rows).astype(jnp.int32)
        tokens_BSCM = _with(_of(state.tokens_BSRM, parents_BSC), new_BSC, number)
        # A text's new key lies in its own place, earlier ones where its parent has them.
        slots_BSRM = _with(state.slots_BSRM, jnp.arange(beams, dtype=jnp.int32), number - 1)
        ends_BSC = (new_BSC == self.rules.end_id) | (number + 1 >= self.limits_BS)[..., None]
        state = self._finish(state, tokens_BSCM, sums_BSC, ends_BSC, number)
        going_sums, going = lax.top_k(jnp.where(ends_BSC, 2 * MASKED, sums_BSC), beams)
        state = state._replace(
            tokens_BSRM=_of(tokens_BSCM, going),
            slots_BSRM=_of(slots_BSRM, jnp.take_along_axis(parents_BSC, going, axis=-1)),
            sums_BSR=jnp.maximum(going_sums, 2 * MASKED),  # sums of MASKED do not grow without bound
        )
        return state._replace(done_BS=state.done_BS | self._ended(state, number))

    def best(self, state: Beams) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the best finished texts: tokens [B, S, M], lengths and scores [B, S]."""
        return state.best_tokens_BSM, state.best_lengths_BS, jnp.where(self.limits_BS > 0, state.best_scores_BS, 0.0)

    def _finish(
        self, state: Beams, tokens_BSCM: jax.Array, sums_BSC: jax.Array, ends_BSC: jax.Array, number: jax.Array | int
    ) -> Beams:
        """Returns the state with the candidates that end and are among the best R, where the search goes on."""
        beams = self.settings.beams
        finishes = ends_BSC & (jnp.arange(ends_BSC.shape[-1]) < beams) & (sums_BSC > MASKED / 2)
        finishes &= ~state.done_BS[..., None]
        scores_BSC = jnp.where(finishes, self._score(sums_BSC, number + 1), MASKED)
        place_BS1 = jnp.argmax(scores_BSC, axis=-1)[..., None]
        score_BS = jnp.take_along_axis(scores_BSC, place_BS1, axis=-1)[..., 0]
        tokens_BSM = _of(tokens_BSCM, place_BS1)[:, :, 0]
        at_end = lax.dynamic_index_in_dim(tokens_BSM, number, axis=-1, keepdims=False) == self.rules.end_id
        better = score_BS > state.best_scores_BS
        return state._replace(
            finished_BS=jnp.minimum(state.finished_BS + jnp.sum(finishes, axis=-1), beams),
            best_tokens_BSM=jnp.where(better[..., None], tokens_BSM, state.best_tokens_BSM),
            best_lengths_BS=jnp.where(better, number + 1 - at_end, state.best_lengths_BS),
            best_scores_BS=jnp.where(better, score_BS, state.best_scores_BS),
        )

    def _ended(self, state: Beams, number: jax.Array | int) -> jax.Array:
        """Returns which searches end after new token `number`."""
        if self.settings.stop == FIRST:
            found = state.finished_BS >= self.settings.beams
        else:
            # A sum only falls. Over more tokens it is nearer to 0 where the penalty is positive, further otherwise.
            lengths = self.limits_BS if self.settings.length_penalty > 0 else number + 2
            likeliest_BS = state.sums_BSR[..., 0]
            attainable = jnp.where(likeliest_BS > MASKED / 2, self._score(likeliest_BS, lengths), MASKED)
            found = state.best_scores_BS >= attainable
        return found | (number + 1 >= self.limits_BS)

    def _score(self, sums: jax.Array, tokens: jax.Array | int) -> jax.Array:
        tokens = jnp.asarray(tokens, jnp.float32)
        tokens = tokens[..., None] if tokens.ndim and tokens.ndim < sums.ndim else tokens
        return sums / jnp.maximum(tokens, 1.0) ** self.settings.length_penalty


def _of(values_BSRM: jax.Array, chosen_BSC: jax.Array) -> jax.Array:
    """Returns [B, S, C, M], of each segment those of the texts that are chosen."""
    return jnp.take_along_axis(values_BSRM, chosen_BSC[..., None], axis=2)


def _with(values_BSRM: jax.Array, new_BSR: jax.Array, number: jax.Array | int) -> jax.Array:
    """Returns the values with `new_BSR` at that place of the last axis; none are put before the first."""
    place = jnp.arange(values_BSRM.shape[-1]) == number
    return jnp.where(place, new_BSR[..., None], values_BSRM)
