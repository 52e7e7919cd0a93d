"""The layers of an encoder: one shape, stacked and looped over, and no modality."""

# B batch, T tokens, D model, N heads, H head dim, F ffn, L layers

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import ACTIVATION
from jaxfm.models.adapters import Bottleneck, Linear, Prefix
from jaxfm.models.attention import AttentionSpec, attend, attention_specs
from jaxfm.models.dropout import DropoutKey, batch_key, dropout, split_key, stacked_keys
from jaxfm.models.initializers import kernel_init
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.mixup import Mixing
from jaxfm.models.norms import RMSNorm, make_norm
from jaxfm.models.products import WITH_WEIGHTS
from jaxfm.models.relative import CommonParts, RelativeInputs, disentangled_scores
from jaxfm.models.rotary import Rotation, rotate, rotation
from jaxfm.parallel.mesh import constrain, stack_metadata, with_axes

# What `remat` saves of a layer beside its input: the results of products with weights (not those of attention), or
# nothing.
_SAVED = {"dots": jax.checkpoint_policies.save_only_these_names(WITH_WEIGHTS), "full": None}

# (stream, weights of a layer, its key) -> the stream after it.
_OneLayer = Callable[[Any, nnx.State, DropoutKey | None], Any]


class LayerInputs(NamedTuple):
    """What a layer reads of a batch beside the residual stream.

    Attributes:
      spec: what its attention sees.
      rotation: of queries and keys; None where positions are learned.
      relative: what its attention reads of distances.
      cache: is given its queries, keys and values; what it returns, unless that is None, stands for its attention.
    """

    spec: AttentionSpec
    rotation: Rotation | None
    relative: RelativeInputs = RelativeInputs()
    cache: Callable[[jax.Array, jax.Array, jax.Array], jax.Array | None] | None = None


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the query, key, value and output projections."""
        width, inner = config.hidden_size, config.num_heads * config.head_dim
        bias, model = config.attention_bias, {"embed": config.hidden_size}
        heads = {"heads": config.num_heads, "head_dim": config.head_dim}

        def projection(name: str, count: int = config.num_heads, use_bias: bool = bias) -> Linear:
            outputs = {"heads": count, "head_dim": config.head_dim}
            draw = kernel_init(config, width, count * config.head_dim)
            return Linear(config, name, model, outputs, bias=use_bias, kernel_init=draw, dtype=dtype, rngs=rngs)

        self.query = projection("query")
        self.key, self.value = projection("key", config.kv_heads), projection("value", config.kv_heads)
        draw = kernel_init(config, inner, width, residual=True)
        self.output = Linear(config, "output", heads, model, bias=bias, kernel_init=draw, dtype=dtype, rngs=rngs)
        self.query_norm = RMSNorm(config, config.head_dim, dtype, rngs) if config.qk_norm else None
        self.key_norm = RMSNorm(config, config.head_dim, dtype, rngs) if config.qk_norm else None
        terms = config.relative_terms if config.relative_maps else ()
        self.position_key = projection("position_key", use_bias=True) if "c2p" in terms else None
        self.position_query = projection("position_query", use_bias=True) if "p2c" in terms else None
        self.prefix = Prefix(config, rngs) if config.prefix_length else None
        self.config = config

    def __call__(self, x_BTD: jax.Array, layer_inputs: LayerInputs, key: DropoutKey | None) -> jax.Array:
        """Returns [B, T, D]."""
        context_BTNH = self._context(x_BTD, layer_inputs, key)
        return constrain(self.output(context_BTNH), "batch", "tokens", "features")

    def weights(self, x_BTD: jax.Array, layer_inputs: LayerInputs) -> jax.Array:
        """Returns how much of each token (last axis) each token takes, [B, T, N, T], without dropout.

        They are what attention makes of values of which each names its token; the layer has no prefix.
        """
        assert self.prefix is None, "what a prefix takes has no token"
        tokens = x_BTD.shape[1]
        names_TT = jnp.eye(tokens, dtype=x_BTD.dtype)
        names_BTKT = jnp.broadcast_to(names_TT[:, None], (len(x_BTD), tokens, self.config.kv_heads, tokens))
        return self._context(x_BTD, layer_inputs, None, names_BTKT)

    def _context(
        self, x_BTD: jax.Array, layer_inputs: LayerInputs, key: DropoutKey | None, v_BTNH: jax.Array | None = None
    ) -> jax.Array:
        """Returns what attention makes of its own values, or of others, [B, T, N, H]."""
        relative_key, weights_key = split_key(key, 2) if self.config.relative_terms else (None, key)
        q_BTNH, k_BTNH = self.query(x_BTD), self.key(x_BTD)
        v_BTNH = self.value(x_BTD) if v_BTNH is None else v_BTNH
        if self.query_norm is not None and self.key_norm is not None:
            q_BTNH, k_BTNH = self.query_norm(q_BTNH), self.key_norm(k_BTNH)
        if layer_inputs.rotation is not None:
            q_BTNH, k_BTNH = rotate(q_BTNH, layer_inputs.rotation), rotate(k_BTNH, layer_inputs.rotation)
        if layer_inputs.cache and (context_BTNH := layer_inputs.cache(q_BTNH, k_BTNH, v_BTNH)) is not None:
            return context_BTNH
        if (shared := self.config.num_heads // self.config.kv_heads) > 1:
            k_BTNH, v_BTNH = (jnp.repeat(x_BTKH, shared, axis=2) for x_BTKH in (k_BTNH, v_BTNH))
        axes = ("batch", "tokens", "heads", "head_dim")
        q_BTNH, k_BTNH, v_BTNH = (constrain(x_BTNH, *axes) for x_BTNH in (q_BTNH, k_BTNH, v_BTNH))
        if not layer_inputs.spec.chunk:  # a query may see any key of its row; in chunks those of neighbours suffice
            k_BTNH, v_BTNH = (constrain(x_BTNH, "batch", "keys", "heads", "head_dim") for x_BTNH in (k_BTNH, v_BTNH))
        bias_BNTT, scale = layer_inputs.relative.bias_1NTT, None
        if layer_inputs.relative.table_RD is not None:
            # Each term has the variance of the products of contents: He et al. 2021, section 3.1.
            scale = (self.config.head_dim * (1 + len(self.config.relative_terms))) ** -0.5
            bias_BNTT = scale * self._disentangled(q_BTNH, k_BTNH, layer_inputs.relative.table_RD, relative_key)
        return attend(
            q_BTNH,
            k_BTNH,
            v_BTNH,
            layer_inputs.spec,
            prefix=None if self.prefix is None else self.prefix(q_BTNH.dtype),
            bias=bias_BNTT,
            scale=scale,
            dropout_rate=self.config.attention_dropout,
            dropout_key=weights_key,
        )

    @jax.named_scope("relative")
    def _disentangled(
        self, q_BTNH: jax.Array, k_BTNH: jax.Array, table_RD: jax.Array, key: DropoutKey | None
    ) -> jax.Array:
        """Returns the products of content and position [B, N, T, T]; the table's rows are inputs as tokens are."""
        table_RD = dropout(table_RD, self.config.dropout, batch_key(key))
        of_keys, of_queries = self.position_key or self.key, self.position_query or self.query
        terms = self.config.relative_terms
        keys_RNH = of_keys(table_RD) if "c2p" in terms else None
        queries_RNH = of_queries(table_RD) if "p2c" in terms else None
        return disentangled_scores(self.config, q_BTNH, k_BTNH, keys_RNH, queries_RNH)


class FeedForward(nnx.Module):
    """Two projections, up and down, with an activation between them, which a third may gate."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the projections to ffn_size and back."""
        width, ffn = config.hidden_size, config.ffn_size
        model, inner = {"embed": config.hidden_size}, {"ffn": config.ffn_size}

        def projection(name: str, inputs: dict[str, int], outputs: dict[str, int], init: nnx.Initializer) -> Linear:
            return Linear(config, name, inputs, outputs, bias=config.ffn_bias, kernel_init=init, dtype=dtype, rngs=rngs)

        self.up = projection("up", model, inner, kernel_init(config, width, ffn))
        self.down = projection("down", inner, model, kernel_init(config, ffn, width, residual=True))
        self.gate = projection("gate", model, inner, kernel_init(config, width, ffn)) if config.gated else None
        self.activation = ACTIVATION[config.activation]

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        inner_BTF = self.activation(self.up(x_BTD))
        if self.gate is not None:
            inner_BTF = inner_BTF * self.gate(x_BTD)
        inner_BTF = constrain(inner_BTF, "batch", "tokens", "ffn")
        return constrain(self.down(inner_BTF), "batch", "tokens", "features")


class LayerScale(nnx.Module):
    """A learned factor of each feature of a part's output (Touvron et al. 2021, "Going deeper", section 2)."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        """Makes the factors [D], all of them `layer_scale` at first."""
        init = with_axes(nnx.initializers.constant(config.layer_scale), "norm")
        self.scale = nnx.Param(init(rngs.params(), (config.hidden_size,), jnp.float32))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        return x_BTD * self.scale[...].astype(x_BTD.dtype)


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each added to its input.

    Post-norm: each sum is normalised. Pre-norm: the residual stream is a pair, the sum and the sum normalised, which is
    the input of the next part. The norm before a layer's attention belongs to the previous layer (`next_norm`), and
    that of the last layer is the encoder's final norm: the first layer reads the embeddings as they are, or normalised
    by `CommonParts.first_norm`.

    `gate`, where `models.subnets` has set it, is a bool: a layer without it passes on what it is given.
    """

    gate: nnx.Variable[jax.Array] | None = None

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes one layer."""
        self.pre_norm, both = config.pre_norm, config.norm_placement == "pre_and_post"
        self.attention = Attention(config, dtype, rngs)
        self.attention_norm = None if self.pre_norm else make_norm(config, dtype, rngs)
        self.ffn = FeedForward(config, dtype, rngs)
        self.ffn_norm = make_norm(config, dtype, rngs)
        self.next_norm = make_norm(config, dtype, rngs) if self.pre_norm else None
        self.attention_output_norm = make_norm(config, dtype, rngs) if both else None
        self.ffn_output_norm = make_norm(config, dtype, rngs) if both else None
        self.attention_scale = LayerScale(config, rngs) if config.layer_scale else None
        self.ffn_scale = LayerScale(config, rngs) if config.layer_scale else None
        self.attention_adapter = Bottleneck(config, dtype, rngs) if config.adapter_size else None
        self.ffn_adapter = Bottleneck(config, dtype, rngs) if config.adapter_size else None
        self.dropout_rate = config.dropout

    def __call__(self, stream: Any, layer_inputs: LayerInputs, key: DropoutKey | None) -> Any:
        """Returns the residual stream after the layer: [B, T, D], for pre-norm a pair of such arrays."""
        if self.gate is None:
            return self._apply(stream, layer_inputs, key)
        return lax.cond(
            self.gate[...],
            lambda given: self._apply(given, layer_inputs, key),
            lambda given: self._pass_on(given),
            stream,
        )

    def _pass_on(self, stream: Any) -> Any:
        """Returns the stream with the norm that the next layer reads, or as it is."""
        return stream if self.next_norm is None else (stream[0], self.next_norm(stream[0]))

    def _apply(self, stream: Any, layer_inputs: LayerInputs, key: DropoutKey | None) -> Any:
        weights_key, attention_key, ffn_key = split_key(key, 3)
        x_BTD, normed_BTD = stream if self.pre_norm else (stream, stream)
        with jax.named_scope("attention"):
            update_BTD = dropout(
                self.attention(normed_BTD, layer_inputs, weights_key), self.dropout_rate, attention_key
            )
            if self.attention_output_norm is not None:
                update_BTD = self.attention_output_norm(update_BTD)
            update_BTD = update_BTD if self.attention_scale is None else self.attention_scale(update_BTD)
            x_BTD = x_BTD + (update_BTD if self.attention_adapter is None else self.attention_adapter(update_BTD))
        if self.attention_norm is not None:
            x_BTD = self.attention_norm(x_BTD)
        normed_BTD = self.ffn_norm(x_BTD) if self.pre_norm else x_BTD
        with jax.named_scope("ffn"):
            update_BTD = dropout(self.ffn(normed_BTD), self.dropout_rate, ffn_key)
            if self.ffn_output_norm is not None:
                update_BTD = self.ffn_output_norm(update_BTD)
            update_BTD = update_BTD if self.ffn_scale is None else self.ffn_scale(update_BTD)
            x_BTD = x_BTD + (update_BTD if self.ffn_adapter is None else self.ffn_adapter(update_BTD))
        return (x_BTD, self.next_norm(x_BTD)) if self.next_norm is not None else self.ffn_norm(x_BTD)


def make_layers(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> EncoderLayer:
    """Makes `layer_stacks` layers as one whose parameters are stacked along a leading axis."""
    make = nnx.vmap(lambda layer_rngs: EncoderLayer(config, dtype, layer_rngs), transform_metadata=stack_metadata())
    return make(rngs.split(config.layer_stacks))


def apply_layers(
    config: EncoderConfig,
    layers: EncoderLayer,
    common: CommonParts | None,
    inputs: Inputs,
    build: Build,
    *,
    key: DropoutKey | None = None,
    record: Callable[[jax.Array], None] | None = None,
    mixing: Mixing | None = None,
) -> jax.Array:
    """Returns the hidden states [B, T, D] after stacked layers; arguments and errors as of `layer_states`."""
    return layer_states(config, layers, common, inputs, build, key=key, record=record, mixing=mixing)[-1]


@jax.named_scope("encoder")
def layer_states(
    config: EncoderConfig,
    layers: EncoderLayer,
    common: CommonParts | None,
    inputs: Inputs,
    build: Build,
    after: Sequence[int] = (),
    *,
    key: DropoutKey | None = None,
    record: Callable[[jax.Array], None] | None = None,
    mixing: Mixing | None = None,
) -> list[jax.Array]:
    """Returns the residual stream [B, T, D] after some numbers of stacked layers, and the hidden states after all.

    Those after all are normalised, the others of pre-norm layers are not. The parameters of the lowest
    `build.frozen_layers` layers have no gradient; where the inputs have none either, the backward pass ends there.

    Args:
      config: of these layers.
      layers: as `make_layers` makes them.
      common: as `relative.make_common` makes it.
      inputs: what a modality makes of its tokens.
      build: how they are computed.
      after: numbers of layers, ascending, above 0 and below all.
      key: turns dropout on.
      record: is given what each layer reads and, last, the hidden states: [L + 1, B, T, D].
      mixing: of the residual stream after some of the layers.

    Raises:
      UserError: the kernel that `build.attention` asks for cannot compute these layers.
    """
    specs = attention_specs(config, build, *inputs[1:], training=key is not None)
    period_inputs = make_layer_inputs(config, specs, common, inputs.positions_BT)
    graphdef, parameters = nnx.split(layers)
    keys, period = stacked_keys(key, config.num_layers), len(period_inputs)
    with_inputs = functools.partial(_one_layer, graphdef, build)
    seen: Callable[[Any], jax.Array | None] = functools.partial(_read, config) if record else lambda _: None

    def run(stream: Any, first: int, last: int) -> tuple[Any, list[Any]]:
        """Applies the layers first .. last - 1; returns the stream, and what was seen after them, in stacks."""
        if config.layer_groups:
            one = with_inputs(period_inputs[0])
            return _apply_groups(config, parameters, keys, stream, one, build, first, last, seen)
        of_period = [period_inputs[(first + index) % period] for index in range(period)]

        def apply(stream: Any, some: list[tuple[nnx.State, DropoutKey | None]]) -> tuple[Any, list[Any]]:
            after = []
            for (layer, layer_key), layer_inputs in zip(some, of_period, strict=False):
                stream = with_inputs(layer_inputs)(stream, layer, layer_key)
                after.append(seen(stream))
            return stream, after

        stacked = _take_layers((parameters, keys), slice(first, last), config.num_layers)
        if last <= build.frozen_layers:  # otherwise the part of a trained array would have a gradient, all of it zero
            stacked = (lax.stop_gradient(stacked[0]), stacked[1])
        # One round of the loop is one period of layers, so that the compiler knows which of them are local.
        rounds, rest = divmod(last - first, period)
        looped = [_take_layers(stacked, slice(i, rounds * period, period), last - first) for i in range(period)]
        stream, after = lax.scan(apply, stream, looped, length=rounds, unroll=1 if build.scan else max(rounds, 1))
        left = [jax.tree.map(lambda leaf, i=i: leaf[rounds * period + i], stacked) for i in range(rest)]
        stream, last_ones = apply(stream, left)
        return stream, [_in_turn(after), *(each[None] for each in last_ones)] if record is not None else []

    stream, found = first_stream(config, common, inputs.x_BTD), []
    recorded = [] if record is None else [_read(config, stream)[None]]
    ends = sorted({0, build.frozen_layers, *after, *(mixing.after if mixing else ()), config.num_layers})
    for first, last in itertools.pairwise(ends):
        stream, seen_here = run(stream, first, last)
        recorded += seen_here
        if mixing is not None and last in mixing.after:
            stream = _mixed(config, build, layers, mixing, last, stream)
        if last in after:
            found.append(stream[0] if config.pre_norm else stream)
    if record is not None:
        record(jnp.concatenate(recorded))
    return [*found, _read(config, stream)]


def first_stream(config: EncoderConfig, common: CommonParts | None, x_BTD: jax.Array) -> Any:
    """Returns the stream that the first layer reads: [B, T, D], for pre-norm a pair of such arrays."""
    first_norm = None if common is None else common.first_norm
    return (x_BTD, x_BTD if first_norm is None else first_norm(x_BTD)) if config.pre_norm else x_BTD


@jax.named_scope("encoder")
def apply_some_layers(
    config: EncoderConfig,
    layers: EncoderLayer,
    common: CommonParts | None,
    stream: Any,
    segment_ids_BT: jax.Array,
    positions_BT: jax.Array,
    build: Build,
    *,
    first: jax.Array,
    count: int,
    phase: int = 0,
) -> Any:
    """Returns the stream after `count` layers from layer `first` on, a number that may be traced; without dropout.

    So one program computes any `count` layers that follow each other.

    Args:
      config: of all layers.
      layers: all of them.
      common: as of `layer_states`.
      stream: as `first_stream` returns it.
      segment_ids_BT: as of `layer_states`.
      positions_BT: likewise.
      build: how they are computed; they are not looped over.
      first: number of the first of these layers.
      count: how many they are.
      phase: what `first` leaves when it is divided by the layers of a period (`global_every` where there are windows).

    Raises:
      UserError: as `layer_states`.
    """
    specs = attention_specs(config, build, segment_ids_BT, positions_BT, training=False)
    period_inputs = make_layer_inputs(config, specs, common, positions_BT)
    graphdef, parameters = nnx.split(layers)
    shared = config.num_layers // config.layer_stacks
    for index in range(count):
        stack = (first + index) // shared
        layer = jax.tree.map(lambda leaf, at=stack: lax.dynamic_index_in_dim(leaf, at, keepdims=False), parameters)
        layer_inputs = period_inputs[(phase + index) % len(period_inputs)]
        stream = nnx.merge(graphdef, layer)(stream, layer_inputs, None)
    return stream


def _one_layer(graphdef: nnx.GraphDef[Any], build: Build, layer_inputs: LayerInputs) -> _OneLayer:
    """Returns what applies a layer of these inputs: (stream, parameters, key) -> stream."""

    def one(stream: Any, layer: nnx.State, layer_key: DropoutKey | None) -> Any:
        return nnx.merge(graphdef, layer)(stream, layer_inputs, layer_key)

    if build.remat == "none":
        return one
    # In a loop the compiler cannot find the forward pass' values again, so that no barrier is needed.
    return jax.checkpoint(one, policy=_SAVED[build.remat], prevent_cse=not build.scan)


def _mixed(config: EncoderConfig, build: Build, layers: EncoderLayer, mixing: Mixing, count: int, stream: Any) -> Any:
    """Returns the stream after the first `count` layers, mixed where this is what is chosen; norms are of the mix."""
    graphdef, parameters = nnx.split(layers)
    place = (count - 1) * config.layer_stacks // config.num_layers
    last = jax.tree.map(lambda leaf: leaf[place], parameters)
    norm = nnx.merge(graphdef, lax.stop_gradient(last) if count <= build.frozen_layers else last).next_norm
    return mixing.of_stream(count, stream, norm)


def _read(config: EncoderConfig, stream: Any) -> jax.Array:
    """Returns what the next layer, or a head, reads of the residual stream."""
    return stream[1] if config.pre_norm else stream


def _in_turn(after: list[jax.Array]) -> jax.Array:
    """Returns what was seen after each layer of a period, [R, B, T, D] of R periods, in the order of the layers."""
    together = jnp.stack(after, axis=1)
    return together.reshape(-1, *together.shape[2:])


def _apply_groups(
    config: EncoderConfig,
    parameters: nnx.State,
    keys: DropoutKey | None,
    stream: Any,
    one: _OneLayer,
    build: Build,
    first: int,
    last: int,
    seen: Callable[[Any], jax.Array | None],
) -> tuple[Any, list[Any]]:
    """Applies each group's weights for those of its layers from first to last; in a loop they are one array.

    Also returns what `seen` gives after each layer, a stack a group.
    """
    assert not build.frozen_layers, "see adaptation: shared layers are trained together"
    each = config.num_layers // config.layer_groups

    def step(weights: nnx.State) -> Callable[[Any, DropoutKey | None], tuple[Any, Any]]:
        def apply(stream: Any, layer_key: DropoutKey | None) -> tuple[Any, Any]:
            stream = one(stream, weights, layer_key)
            return stream, seen(stream)

        return apply

    after = []
    for group in range(first // each, -(-last // each)):
        weights = jax.tree.map(lambda leaf, group=group: leaf[group], parameters)
        begin, end = max(first, group * each), min(last, (group + 1) * each)
        own_keys = _take_layers(keys, slice(begin, end), config.num_layers)
        count = end - begin
        stream, seen_here = lax.scan(step(weights), stream, own_keys, length=count, unroll=1 if build.scan else count)
        after.append(seen_here)
    return stream, after


@jax.named_scope("attention")
def make_layer_inputs(
    config: EncoderConfig, specs: tuple[AttentionSpec, ...], common: CommonParts | None, positions_BT: jax.Array
) -> tuple[LayerInputs, ...]:
    """Returns the inputs of each layer of a period: layer `global_first` sees the whole segment, others a window."""
    table = None if common is None else common.relative
    relative = RelativeInputs() if table is None else table(positions_BT.shape[1])

    def layer_inputs(spec: AttentionSpec, theta: float) -> LayerInputs:
        rotary = config.position_embedding == "rope"
        return LayerInputs(spec, rotation(positions_BT, config.head_dim, theta) if rotary else None, relative)

    whole, *local = specs
    others = [layer_inputs(spec, config.local_rope_theta) for spec in local] * (config.global_every - 1)
    before = config.global_first if local else 0
    return (*others[:before], layer_inputs(whole, config.global_rope_theta), *others[before:])


def _take_layers(stacked: Any, layers: slice, length: int) -> Any:
    """Takes some layers of arrays that are stacks of `length`; the arrays themselves where that is all of them."""
    if len(range(*layers.indices(length))) == length:
        return stacked
    return jax.tree.map(lambda leaf: leaf[layers], stacked)
