"""The layers of an encoder that reads in one direction, one token at a time: keys and values are kept, not made again.

The layers are those of `models.stack`, which give their queries, keys and values to a cache and go on with what it
returns. Prefixes lie packed in rows. Their keys and values are computed once, in an ordinary pass over the rows, and
are shared by all texts that continue a prefix. What these texts add lies in a cache beside, written in place.

The loop over the layers is unrolled: a loop would copy each layer's weights out of their stack for every token, and
reading weights is most of what a step costs.
"""

# B batch, T tokens of a row, S segments of it, R texts (beams) a segment, Q = S R, M new tokens, V vocabulary, D model
# N heads, K heads of keys and values, G = N / K, H head dim, L layers

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import CAUSAL, FULL, PREFIX, EncoderConfig
from jaxfm.errors import UserError
from jaxfm.models.attention import MASKED, attention_specs
from jaxfm.models.encoder import Encoder
from jaxfm.models.kernels import XLA
from jaxfm.models.products import einsum
from jaxfm.models.stack import LayerInputs, first_stream, make_layer_inputs
from jaxfm.parallel.mesh import constrain

_CacheOfLayer = Callable[[jax.Array, jax.Array, jax.Array], jax.Array | None]


class Prefixes(NamedTuple):
    """What decoding reads of rows of prefixes.

    Attributes:
      keys: of each layer [B, K, T, H], rotated where the encoder rotates them.
      values: likewise.
      segment_ids_BT: of the rows.
      positions_BT: likewise.
      lengths_BS: tokens of each prefix, which is the position of the next one; 0: the row has no such segment.
      hidden_BSD: the hidden state of each prefix's last token, which predicts the next one.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    segment_ids_BT: jax.Array
    positions_BT: jax.Array
    lengths_BS: jax.Array
    hidden_BSD: jax.Array


class Written(NamedTuple):
    """Keys and values of new tokens: of each layer [B, S, K, M, R, H], zeros after the last step."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


class Step(NamedTuple):
    """The new tokens of a step, one a text.

    Attributes:
      tokens_BSR: the tokens.
      number: how many new tokens each text had before.
      slots_BSRM: which of the R places has the key that text r wrote, or took over, as its new token m: texts of one
        segment may have a common beginning. Only entries before `number` are read.
    """

    tokens_BSR: jax.Array
    number: jax.Array
    slots_BSRM: jax.Array


class CachedLayers:
    """An encoder whose tokens see none after themselves, applied to prefixes and then to one more token at a time."""

    def __init__(self, encoder: Encoder, segments: int, *, type_id: int = 0, sight: str | None = None):
        """Takes the encoder, the most segments that a row has, and the type of new tokens where tokens have types.

        `sight` is "causal" or "prefix", by default the encoder's own: prefixes see themselves causally, or whole.

        Raises:
          UserError: this encoder cannot be applied one token at a time, or it has no such type.
        """
        config = encoder.config if sight is None else dataclasses.replace(encoder.config, sight=sight)
        reason = unsupported_reason(config)
        if encoder.layers.gate is not None:
            reason = "it is a subnet inside a larger encoder, which is cut out first"
        if reason is not None:
            raise UserError(f"This encoder cannot write text token by token: {reason}.")
        if config.type_vocab_size and not 0 <= type_id < config.type_vocab_size:
            raise UserError(
                f"type_id: is {type_id}, but this encoder has the types 0 to {config.type_vocab_size - 1}, of which "
                "new tokens get one."
            )
        # What a token sees after itself concerns prefixes alone.
        self.encoder, self.config = encoder, dataclasses.replace(config, sight=CAUSAL)
        self.sight, self.segments, self.type_id = config.sight, segments, type_id
        self.graphdef, stacked = nnx.split(encoder.layers)
        self.weights = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(config.layer_stacks)]

    def prefixes(self, batch: Mapping[str, jax.Array]) -> Prefixes:
        """Returns what decoding reads of a batch of prefixes, computed in one pass, dropout off.

        Where the sight is "prefix" they see themselves whole, or as far as the batch's "horizons" say.
        """
        inputs = self.encoder.embeddings(batch)
        _, segment_ids_BT, positions_BT, horizons_BT = inputs
        sight = FULL if self.sight == PREFIX and horizons_BT is None else self.sight
        config, build = dataclasses.replace(self.config, sight=sight), self.encoder.build
        specs = attention_specs(config, build, segment_ids_BT, positions_BT, horizons_BT, training=False)
        of_period = make_layer_inputs(self.config, specs, self.encoder.common, positions_BT)
        kept: list[tuple[jax.Array, jax.Array]] = []

        def keep(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> None:
            del q_BTNH
            kept.append((_heads_first(k_BTKH), _heads_first(v_BTKH)))

        hidden_BTD = self._apply(inputs.x_BTD, of_period, [keep] * self.config.num_layers)
        keys, values = zip(*kept, strict=True)
        last_BS, lengths_BS = _ends(segment_ids_BT, positions_BT, self.segments)
        hidden_BSD = jnp.take_along_axis(hidden_BTD, last_BS[..., None], axis=1)
        return Prefixes(keys, values, segment_ids_BT, positions_BT, lengths_BS, hidden_BSD)

    def nothing_written(self, prefixes: Prefixes, texts: int, tokens: int) -> Written:
        """Returns an empty cache for `texts` texts of up to `tokens` new tokens a segment."""
        config, batch = self.config, len(prefixes.lengths_BS)
        shape = (batch, self.segments, config.kv_heads, tokens, texts, config.head_dim)
        empty = _laid_out(jnp.zeros(shape, prefixes.keys[0].dtype))
        return Written((empty,) * config.num_layers, (empty,) * config.num_layers)

    def step(self, prefixes: Prefixes, written: Written, step: Step) -> tuple[jax.Array, Written]:
        """Returns the hidden states of the step's tokens [B, S, R, D], and the cache with their keys and values."""
        batch, segments, texts = step.tokens_BSR.shape
        positions_BS1 = prefixes.lengths_BS[..., None] + step.number
        # A text that has ended goes on unread, and must not read beyond the end of a table.
        positions_BSR = jnp.broadcast_to(
            jnp.minimum(positions_BS1, self.config.max_positions - 1), step.tokens_BSR.shape
        )
        numbers_BSR = jnp.broadcast_to(jnp.arange(1, segments + 1)[:, None], step.tokens_BSR.shape)
        queries = {"tokens": step.tokens_BSR, "positions": positions_BSR, "segment_ids": numbers_BSR}
        if self.config.type_vocab_size:
            queries["type_ids"] = jnp.full_like(step.tokens_BSR, self.type_id)
        inputs = self.encoder.embeddings({name: value.reshape(batch, -1) for name, value in queries.items()})
        plain = Build(
            self.encoder.build.dtype, attention=AttentionConfig(XLA)
        )  # of them only the windows are read here
        specs = attention_specs(self.config, plain, inputs.segment_ids_BT, inputs.positions_BT, training=False)
        of_period = make_layer_inputs(self.config, specs, self.encoder.common, inputs.positions_BT)
        masks = [self._masks(prefixes, step, layer_inputs.spec.window_radius) for layer_inputs in of_period]
        kept: list[tuple[jax.Array, jax.Array]] = []

        def of_layer(layer: int) -> _CacheOfLayer:
            def attend(q_BQNH: jax.Array, k_BQKH: jax.Array, v_BQKH: jax.Array) -> jax.Array:
                shape = (batch, segments, texts, self.config.kv_heads, self.config.head_dim)
                keys, values = (
                    _write(cache[layer], x_BQKH.reshape(shape), step.number)
                    for cache, x_BQKH in ((written.keys, k_BQKH), (written.values, v_BQKH))
                )
                kept.append((keys, values))
                seen = _Seen(prefixes.keys[layer], prefixes.values[layer], keys, values, *masks[layer % len(masks)])
                return _attend(q_BQNH, seen)

            return attend

        caches = [of_layer(layer) for layer in range(self.config.num_layers)]
        hidden_BQD = self._apply(inputs.x_BTD, of_period, caches)
        keys, values = zip(*kept, strict=True)
        return hidden_BQD.reshape(batch, segments, texts, -1), Written(keys, values)

    def _apply(self, x_BTD: jax.Array, of_period: Sequence[LayerInputs], caches: Sequence[_CacheOfLayer]) -> jax.Array:
        """Returns the hidden states after all layers, each with its cache."""
        shared, stream = (
            self.config.num_layers // self.config.layer_stacks,
            first_stream(self.config, self.encoder.common, x_BTD),
        )
        for layer, cache in enumerate(caches):
            one = nnx.merge(self.graphdef, self.weights[layer // shared])
            stream = one(stream, of_period[layer % len(of_period)]._replace(cache=cache), None)
        return stream[1] if self.config.pre_norm else stream

    def _masks(self, prefixes: Prefixes, step: Step, window_radius: int) -> tuple[jax.Array, jax.Array]:
        """Returns what a step's tokens see of the prefixes [B, S, T], and of what was written [B, S, R, M, R].

        Their last axis is the place in the cache.
        """
        texts, tokens = step.slots_BSRM.shape[2:]
        prefix_BST = prefixes.segment_ids_BT[:, None] == jnp.arange(1, self.segments + 1)[:, None]
        number_M = jnp.arange(tokens)
        # The step's own key lies in its own place, whatever it took over before.
        slots_BSRM = jnp.where(number_M == step.number, jnp.arange(texts)[:, None], step.slots_BSRM)
        own_BSRMR = (slots_BSRM[..., None] == jnp.arange(texts)) & (number_M <= step.number)[:, None]
        if window_radius:
            away_BST = prefixes.lengths_BS[..., None] + step.number - prefixes.positions_BT[:, None]
            prefix_BST &= away_BST <= window_radius
            own_BSRMR &= (step.number - number_M <= window_radius)[:, None]
        return prefix_BST, own_BSRMR


def unsupported_reason(config: EncoderConfig) -> str | None:
    """Returns why an encoder cannot be applied one token at a time; None: it can."""
    if config.reads_patches:
        return f"it reads {'sound' if config.reads_sound else 'images'}"
    if config.sight == FULL:
        return "its tokens see those after them. Train it with tokens that see only those before (model.sight=causal)"
    if config.has_relative_positions:
        return f"it has relative positions ({config.relative_positions}), which are computed for whole rows"
    if config.prefix_length:
        return "it has a learned prefix (adapt.prefix_length), which is not kept with the keys of a text"
    if config.token_dropout_id >= 0:
        return "each token's embedding depends on the masks of the whole text (token_dropout_id)"
    if config.reads_padding:
        return "it reads padding, which is never the beginning of a text"
    return None


class _Seen(NamedTuple):
    """What the queries of a layer may see: the row's prefixes and the cache, with masks as of `_masks`."""

    keys_BKTH: jax.Array
    values_BKTH: jax.Array
    written_keys_BSKMRH: jax.Array
    written_values_BSKMRH: jax.Array
    prefix_BST: jax.Array
    own_BSRMR: jax.Array


@jax.named_scope("cached_attention")
def _attend(q_BQNH: jax.Array, seen: _Seen) -> jax.Array:
    """Returns attention [B, Q, N, H] over prefixes and new tokens: one softmax over both, its scores in f32.

    Prefixes are read once for all texts, as the products of one matrix; so is what the texts of a segment wrote.
    """
    batch, segments, heads, tokens, texts, width = seen.written_keys_BSKMRH.shape
    grouped = q_BQNH.shape[2] // heads
    q_BKSRGH = q_BQNH * width**-0.5
    q_BKSRGH = jnp.moveaxis(q_BKSRGH.reshape(batch, segments, texts, heads, grouped, width), 3, 1)
    of_prefix = einsum("BKSRGH,BKTH->BKSRGT", q_BKSRGH, seen.keys_BKTH, jnp.float32)
    of_prefix = jnp.where(seen.prefix_BST[:, None, :, None, None], of_prefix, MASKED)
    own = einsum("BKSRGH,BSKMPH->BKSRGMP", q_BKSRGH, seen.written_keys_BSKMRH, jnp.float32)
    own = jnp.where(seen.own_BSRMR[:, None, :, :, None], own, MASKED)
    largest = jnp.maximum(jnp.max(of_prefix, axis=-1, keepdims=True), jnp.max(own, axis=(-2, -1))[..., None])
    of_prefix, own = jnp.exp(of_prefix - largest), jnp.exp(own - largest[..., None])
    total = jnp.sum(of_prefix, axis=-1, keepdims=True) + jnp.sum(own, axis=(-2, -1))[..., None]
    dtype = seen.values_BKTH.dtype
    weights, own_weights = (of_prefix / total).astype(dtype), (own / total[..., None]).astype(dtype)
    context = einsum("BKSRGT,BKTH->BKSRGH", weights, seen.values_BKTH, jnp.float32)
    context += einsum("BKSRGMP,BSKMPH->BKSRGH", own_weights, seen.written_values_BSKMRH, jnp.float32)
    return jnp.moveaxis(context, 1, 3).reshape(q_BQNH.shape).astype(dtype)


def _write(cache_BSKMRH: jax.Array, x_BSRKH: jax.Array, number: jax.Array) -> jax.Array:
    """Returns the cache with a step's keys, or values, at that number."""
    new_BSK1RH = jnp.moveaxis(x_BSRKH, 3, 2)[:, :, :, None].astype(cache_BSKMRH.dtype)
    return _laid_out(lax.dynamic_update_slice_in_dim(cache_BSKMRH, new_BSK1RH, number, axis=3))


def _laid_out(cache_BSKMRH: jax.Array) -> jax.Array:
    return constrain(cache_BSKMRH, "batch", "segments", "heads", "features", "features", "head_dim")


def _heads_first(x_BTKH: jax.Array) -> jax.Array:
    """Returns [B, K, T, H], as products with queries read it."""
    return constrain(jnp.moveaxis(x_BTKH, 1, 2), "batch", "heads", "keys", "head_dim")


def _ends(segment_ids_BT: jax.Array, positions_BT: jax.Array, segments: int) -> tuple[jax.Array, jax.Array]:
    """Returns the place of each segment's last token [B, S], 0 where it is absent, and its position + 1, there 0."""
    places_BST = jnp.where(
        segment_ids_BT[:, None] == jnp.arange(1, segments + 1)[:, None], jnp.arange(segment_ids_BT.shape[1]), -1
    )
    last_BS = jnp.max(places_BST, axis=-1)
    ends_BS = jnp.take_along_axis(positions_BT, jnp.maximum(last_BS, 0), axis=1) + 1
    return jnp.maximum(last_BS, 0), jnp.where(last_BS < 0, 0, ends_BS)
