"""Text that goes on from prefixes, token by token, by a model whose tokens see none after themselves."""

# B batch, S segments of a row, R texts a segment, M new tokens, V padded vocabulary, D model

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.decoding_config import BEAM, GREEDY, Decoding
from jaxfm.errors import UserError
from jaxfm.models.attention import MASKED
from jaxfm.models.beam_search import BeamSearch
from jaxfm.models.cached_layers import CachedLayers, Step
from jaxfm.models.heads import MaskedLM
from jaxfm.models.token_rules import TokenRules, make_rules


class Generated(NamedTuple):
    """The texts that go on from the prefixes of a batch, one a segment.

    Attributes:
      tokens: int32 [B, S, M], after the end of a text its end token.
      lengths: int32 [B, S], tokens of each text without its end token; M, or less where positions end, for a text that
        was cut off; 0 where a row has no such segment.
      scores: f32 [B, S]: the sum of the log probabilities of a text's tokens, its end token among them, by the model's
        own softmax; of "beam" over tokens^length_penalty.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


def generate(
    model: MaskedLM,
    batch: Mapping[str, jax.Array],
    settings: Decoding,
    *,
    end_id: int,
    segments: int,
    forbidden: Collection[int] = (),
    type_id: int = 0,
    sight: str | None = None,
    key: jax.Array | None = None,
    numbers_BS: jax.Array | None = None,
) -> Generated:
    """Returns the texts that go on from each segment of the rows of a batch, which are prefixes.

    Its function is traceable, and compiled once for a shape: call it inside `jax.jit`. The first new token is what
    the hidden state of a prefix's last token predicts. A text is cut off where positions end; `check_lengths` says so
    beforehand.

    Args:
      model: its encoder's sight is "causal", or "prefix": then the prefixes see themselves whole.
      batch: rows of prefixes (`models.inputs.text.fields`).
      settings: how tokens are chosen.
      end_id: the token that ends a text.
      segments: the most segments that a row has.
      forbidden: tokens that are never written: special tokens, say.
      type_id: the type of new tokens, where the encoder's tokens have types.
      sight: another than the encoder's own ("causal", "prefix").
      key: of "sample"; by default that of `settings.seed`.
      numbers_BS: of "sample": draws are a function of key and number alone, whatever else is in the batch. By default
        it is a hash of the prefix, so that equal prefixes draw the same.

    Raises:
      UserError: a value out of range, or a model that cannot write token by token.
    """
    settings.check()
    rules = make_rules(
        model.encoder.config,
        end_id=end_id,
        forbidden=forbidden,
        min_tokens=settings.min_tokens,
        no_repeat_ngram=settings.no_repeat_ngram,
    )
    layers = CachedLayers(model.encoder, segments, type_id=type_id, sight=sight)
    prefixes = layers.prefixes(batch)
    limits_BS = jnp.clip(model.encoder.config.max_positions - prefixes.lengths_BS, 0, settings.max_tokens)
    limits_BS = jnp.where(prefixes.lengths_BS == 0, 0, limits_BS)
    search: Any  # start, choose and best, as of `BeamSearch`
    if settings.method == BEAM:
        search = BeamSearch(settings, rules, limits_BS)
    else:
        numbers_BS = prefix_numbers(batch, segments) if numbers_BS is None else numbers_BS
        keys_BS = None if settings.method == GREEDY else _keys(settings, key, numbers_BS)
        search = _Single(settings, rules, limits_BS, keys_BS)
    logits_BSV = model.logits(prefixes.hidden_BSD)
    logits_BSRV = jnp.broadcast_to(logits_BSV[:, :, None], (*limits_BS.shape, settings.width, logits_BSV.shape[-1]))
    state = search.choose(search.start(), logits_BSRV, 0)
    # The last token is chosen and not read, so that the cache need not hold it.
    written = layers.nothing_written(prefixes, settings.width, max(settings.max_tokens - 1, 1))

    def goes_on(carry: tuple[jax.Array, Any, Any]) -> jax.Array:
        number, state, _ = carry
        return (number < settings.max_tokens) & ~jnp.all(state.done_BS)

    def one_more(carry: tuple[jax.Array, Any, Any]) -> tuple[jax.Array, Any, Any]:
        number, state, written = carry
        tokens_BSR = lax.dynamic_index_in_dim(state.tokens_BSRM, number - 1, axis=-1, keepdims=False)
        slots = state.slots_BSRM[..., : max(settings.max_tokens - 1, 1)]
        hidden_BSRD, written = layers.step(prefixes, written, Step(tokens_BSR, number - 1, slots))
        logits_BQV = model.logits(hidden_BSRD.reshape(len(hidden_BSRD), -1, hidden_BSRD.shape[-1]))
        logits_BSRV = logits_BQV.reshape(*hidden_BSRD.shape[:-1], -1)
        return number + 1, search.choose(state, logits_BSRV, number), written

    _, state, _ = lax.while_loop(goes_on, one_more, (jnp.int32(1), state, written))
    return Generated(*search.best(state))


def check_lengths(config: EncoderConfig, settings: Decoding, longest: int, root: str = "decoding.") -> None:
    """Checks that texts after a prefix of `longest` tokens fit into the positions of an encoder.

    Raises:
      UserError: they do not.
    """
    if longest + settings.max_tokens > config.max_positions:
        room = config.max_positions - longest
        choice = f"At most {room} new tokens fit: {root}max_tokens={room}." if room > 0 else "Shorten the prefix."
        raise UserError(
            f"{root}max_tokens: is {settings.max_tokens}, but the longest prefix has {longest} tokens and the encoder "
            f"{config.max_positions} positions. {choice}"
        )


class _Texts(NamedTuple):
    """One text a segment: its tokens, its length, the sum of log probabilities, and whether it has ended."""

    tokens_BSRM: jax.Array
    slots_BSRM: jax.Array
    lengths_BS: jax.Array
    scores_BS: jax.Array
    done_BS: jax.Array


@dataclasses.dataclass(frozen=True)
class _Single:
    """The likeliest token each time, or one that is drawn where there are keys."""

    settings: Decoding
    rules: TokenRules
    limits_BS: jax.Array
    keys_BS: jax.Array | None

    def start(self) -> _Texts:
        shape = self.limits_BS.shape
        tokens = jnp.full((*shape, 1, self.settings.max_tokens), self.rules.end_id, jnp.int32)
        lengths, scores = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
        return _Texts(tokens, jnp.zeros_like(tokens), lengths, scores, self.limits_BS == 0)

    def choose(self, state: _Texts, logits_BSRV: jax.Array, number: jax.Array | int) -> _Texts:
        allowed = self.rules.allowed(logits_BSRV, state.tokens_BSRM, number)
        masked_BSV = jnp.where(allowed, logits_BSRV, MASKED)[:, :, 0]
        if self.keys_BS is None:
            chosen_BS = jnp.argmax(masked_BSV, axis=-1)
        else:
            chosen_BS = sample(self.keys_BS, masked_BSV, number, self.settings.temperature, self.settings.top_p)
        chosen_BS = jnp.where(state.done_BS, self.rules.end_id, chosen_BS).astype(jnp.int32)
        log_probs = jnp.take_along_axis(logits_BSRV[:, :, 0], chosen_BS[..., None], axis=-1)[..., 0]
        log_probs -= jax.nn.logsumexp(logits_BSRV[:, :, 0], axis=-1)
        ends_BS = chosen_BS == self.rules.end_id
        return _Texts(
            lax.dynamic_update_slice_in_dim(state.tokens_BSRM, chosen_BS[..., None, None], number, axis=-1),
            state.slots_BSRM,
            state.lengths_BS + (~state.done_BS & ~ends_BS),
            state.scores_BS + jnp.where(state.done_BS, 0.0, log_probs),
            state.done_BS | ends_BS | (number + 1 >= self.limits_BS),
        )

    def best(self, state: _Texts) -> tuple[jax.Array, jax.Array, jax.Array]:
        return state.tokens_BSRM[:, :, 0], state.lengths_BS, state.scores_BS


def sample(
    keys_BS: jax.Array, logits_BSV: jax.Array, number: jax.Array | int, temperature: float, top_p: float
) -> jax.Array:
    """Draws a token of each row of logits: softmax(logits / temperature), of which the least likely are left out.

    Those that stay are the likeliest ones, the fewest whose probabilities sum to `top_p` or more (Holtzman et al. 2020,
    section 3.1), of equal ones those of lower numbers. The draw is a function of key, `number` and logits alone.
    """
    logits_BSV = logits_BSV / temperature
    rows = logits_BSV.shape[-1]

    def draw(key: jax.Array, logits_V: jax.Array) -> jax.Array:
        return jnp.argmax(logits_V + jax.random.gumbel(jax.random.fold_in(key, number), (rows,)))

    draw_all = jax.vmap(jax.vmap(draw))
    if top_p >= 1:
        return draw_all(keys_BS, logits_BSV)
    sorted_BSV, order_BSV = lax.top_k(logits_BSV, rows)
    probabilities = jax.nn.softmax(sorted_BSV, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The likeliest one always stays; after the sum has reached top_p no other does.
    stays = (before < top_p).at[..., 0].set(True)
    drawn_BS = draw_all(keys_BS, jnp.where(stays, sorted_BSV, MASKED))
    return jnp.take_along_axis(order_BSV, drawn_BS[..., None], axis=-1)[..., 0]


def prefix_numbers(batch: Mapping[str, jax.Array], segments: int) -> jax.Array:
    """Returns a number for each segment's tokens in their order, u32 [B, S], wherever the segment lies."""
    own_BST = batch["segment_ids"][:, None] == jnp.arange(1, segments + 1)[:, None]
    # Knuth's multiplicative hash of positions: odd, so that no token is lost; sums of u32 wrap around.
    places_BT = batch["positions"].astype(jnp.uint32) * jnp.uint32(2_654_435_761) + jnp.uint32(1)
    mixed_BT = (batch["tokens"].astype(jnp.uint32) + jnp.uint32(1)) * places_BT
    return jnp.sum(jnp.where(own_BST, mixed_BT[:, None], jnp.uint32(0)), axis=-1, dtype=jnp.uint32)


def _keys(settings: Decoding, key: jax.Array | None, numbers_BS: jax.Array) -> jax.Array:
    """Returns a key for each segment."""
    key = jax.random.key(settings.seed) if key is None else key
    return jax.vmap(jax.vmap(lambda number: jax.random.fold_in(key, number)))(numbers_BS)
