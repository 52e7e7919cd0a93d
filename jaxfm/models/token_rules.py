"""Which tokens a text may go on with: none that is forbidden, no end too early, no n-gram twice."""

# B batch, S segments of a row, R texts a segment, M new tokens, V padded vocabulary

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenRules:
    """Rules that hold for every text. Where they leave no token, the text ends.

    Attributes:
      end_id: the token that ends a text.
      vocabulary: entries of the vocabulary; rows of the table after it are never written.
      forbidden: tokens that are never written.
      min_tokens: tokens before the end token at least.
      no_repeat_ngram: no sequence of this number of tokens twice in what is written (the prefix is not looked at); 0:
        no such rule.
    """

    end_id: int
    vocabulary: int
    forbidden: frozenset[int] = frozenset()
    min_tokens: int = 0
    no_repeat_ngram: int = 0

    def allowed(self, logits_BSRV: jax.Array, tokens_BSRM: jax.Array, number: jax.Array | int) -> jax.Array:
        """Returns bool [B, S, R, V]: what may become new token `number`, of texts `tokens_BSRM` before it."""
        rows = logits_BSRV.shape[-1]
        static_V = np.arange(rows) < self.vocabulary
        static_V[list(self.forbidden)] = False
        allowed = jnp.broadcast_to(jnp.asarray(static_V), logits_BSRV.shape)
        if self.no_repeat_ngram and self.no_repeat_ngram <= tokens_BSRM.shape[-1]:
            allowed &= ~self._repeats(tokens_BSRM, number, rows)
        is_end_V = np.arange(rows) == self.end_id
        allowed &= ~is_end_V | (number >= self.min_tokens)
        return allowed | (~jnp.any(allowed, axis=-1, keepdims=True) & is_end_V)

    def _repeats(self, tokens_BSRM: jax.Array, number: jax.Array | int, rows: int) -> jax.Array:
        """Returns which tokens would complete an n-gram that the text has already, bool [B, S, R, V]."""
        before, tokens = self.no_repeat_ngram - 1, tokens_BSRM.shape[-1]
        starts_W = jnp.arange(tokens - before)  # of the n-grams of a text
        present = jnp.broadcast_to(starts_W + before < number, (*tokens_BSRM.shape[:-1], len(starts_W)))
        for place in range(before):
            recent = jnp.maximum(number - before + place, 0)
            last_BSR1 = jax.lax.dynamic_slice_in_dim(tokens_BSRM, recent, 1, axis=-1)
            present &= tokens_BSRM[..., place : place + len(starts_W)] == last_BSR1
        completing_BSRW = tokens_BSRM[..., before:]

        def one(completing_W: jax.Array, present_W: jax.Array) -> jax.Array:
            return jnp.zeros(rows, bool).at[completing_W].max(present_W)

        flat = one
        for _ in range(tokens_BSRM.ndim - 1):
            flat = jax.vmap(flat)
        return flat(completing_BSRW, present)


def make_rules(
    config: EncoderConfig, *, end_id: int, forbidden: Collection[int], min_tokens: int, no_repeat_ngram: int
) -> TokenRules:
    """Returns the rules for a vocabulary.

    Raises:
      UserError: a token outside the vocabulary, or an end token that is forbidden.
    """
    for name, tokens in (("end_id", (end_id,)), ("forbidden", tuple(forbidden))):
        if outside := [token for token in tokens if not 0 <= token < config.vocab_size]:
            raise UserError(f"{name}: has {outside[0]}, but tokens are from 0 to {config.vocab_size - 1}.")
    if end_id in forbidden:
        raise UserError(f"forbidden: has {end_id}, which is the end token (end_id), so that no text could end.")
    return TokenRules(end_id, config.vocab_size, frozenset(map(int, forbidden)), min_tokens, no_repeat_ngram)
