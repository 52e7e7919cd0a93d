"""The layers of an encoder: one shape, stacked and looped over, and no modality."""

# B batch, T tokens, D model, N heads, H head dim, F ffn, L layers

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.activations import gelu
from jaxfm.models.adapters import Bottleneck, Linear, Prefix
from jaxfm.models.attention import AttentionSpec, attend, attention_specs
from jaxfm.models.dropout import dropout, split_key
from jaxfm.models.norms import layer_norm
from jaxfm.models.products import WITH_WEIGHTS
from jaxfm.models.rotary import Rotation, rotate, rotation
from jaxfm.parallel.mesh import constrain, stack_metadata

# What `remat` saves of a layer beside its input: the results of products with weights (not those of attention), or
# nothing.
_SAVED = {"dots": jax.checkpoint_policies.save_only_these_names(WITH_WEIGHTS), "full": None}


class LayerInputs(NamedTuple):
    """What a layer reads of a batch beside the residual stream.

    Attributes:
      spec: what its attention sees.
      rotation: of queries and keys; None where positions are learned.
    """

    spec: AttentionSpec
    rotation: Rotation | None


def output_init(config: EncoderConfig) -> nnx.Initializer:
    """Initialiser of the kernels that write to the residual stream: narrower by sqrt(2 L), the number of such writes.

    GPT-2 (Radford et al. 2019, section 2.3) and Megatron-LM (Shoeybi et al. 2019, section 4) scale so.
    """
    return nnx.initializers.truncated_normal(config.initializer_range / math.sqrt(2 * config.num_layers))


class Attention(nnx.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the query, key, value and output projections."""
        kernel_init = nnx.initializers.truncated_normal(config.initializer_range)
        model, heads = {"embed": config.hidden_size}, {"heads": config.num_heads, "head_dim": config.head_dim}

        def projection(name: str) -> Linear:
            return Linear(config, name, model, heads, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

        self.query, self.key, self.value = projection("query"), projection("key"), projection("value")
        self.output = Linear(config, "output", heads, model, kernel_init=output_init(config), dtype=dtype, rngs=rngs)
        self.prefix = Prefix(config, rngs) if config.prefix_length else None
        self.dropout_rate = config.attention_dropout

    def __call__(self, x_BTD: jax.Array, layer_inputs: LayerInputs, key: jax.Array | None) -> jax.Array:
        """Returns [B, T, D]."""
        q_BTNH, k_BTNH, v_BTNH = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        if layer_inputs.rotation is not None:
            q_BTNH, k_BTNH = rotate(q_BTNH, layer_inputs.rotation), rotate(k_BTNH, layer_inputs.rotation)
        axes = ("batch", "tokens", "heads", "head_dim")
        q_BTNH, k_BTNH, v_BTNH = (constrain(x_BTNH, *axes) for x_BTNH in (q_BTNH, k_BTNH, v_BTNH))
        if not layer_inputs.spec.chunk:  # a query may see any key of its row; in chunks those of neighbours suffice
            k_BTNH, v_BTNH = (constrain(x_BTNH, "batch", "keys", "heads", "head_dim") for x_BTNH in (k_BTNH, v_BTNH))
        context_BTNH = attend(
            q_BTNH,
            k_BTNH,
            v_BTNH,
            layer_inputs.spec,
            prefix=None if self.prefix is None else self.prefix(q_BTNH.dtype),
            dropout_rate=self.dropout_rate,
            dropout_key=key,
        )
        return constrain(self.output(context_BTNH), "batch", "tokens", "features")


class FeedForward(nnx.Module):
    """Two projections, up and down, with an exact gelu between them, which a third may gate."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the projections to ffn_size and back."""
        kernel_init = nnx.initializers.truncated_normal(config.initializer_range)
        model, inner = {"embed": config.hidden_size}, {"ffn": config.ffn_size}
        self.up = Linear(config, "up", model, inner, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.down = Linear(config, "down", inner, model, kernel_init=output_init(config), dtype=dtype, rngs=rngs)
        gate = config.ffn == "geglu"
        self.gate = (
            Linear(config, "gate", model, inner, kernel_init=kernel_init, dtype=dtype, rngs=rngs) if gate else None
        )

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        inner_BTF = gelu(self.up(x_BTD))
        if self.gate is not None:
            inner_BTF = inner_BTF * self.gate(x_BTD)
        inner_BTF = constrain(inner_BTF, "batch", "tokens", "ffn")
        return constrain(self.down(inner_BTF), "batch", "tokens", "features")


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each added to its input.

    Post-norm: each sum is normalised. Pre-norm: the residual stream is a pair, the sum and the sum normalised, which is
    the input of the next part. The norm before a layer's attention belongs to the previous layer (`next_norm`), and
    that of the last layer is the encoder's final norm: the first layer reads the normalised embeddings as they are.
    """

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes one layer."""
        self.pre_norm = config.norm_placement == "pre"
        self.attention = Attention(config, dtype, rngs)
        self.attention_norm = None if self.pre_norm else layer_norm(config, dtype, rngs)
        self.ffn = FeedForward(config, dtype, rngs)
        self.ffn_norm = layer_norm(config, dtype, rngs)
        self.next_norm = layer_norm(config, dtype, rngs) if self.pre_norm else None
        self.attention_adapter = Bottleneck(config, dtype, rngs) if config.adapter_size else None
        self.ffn_adapter = Bottleneck(config, dtype, rngs) if config.adapter_size else None
        self.dropout_rate = config.dropout

    def __call__(self, stream: Any, layer_inputs: LayerInputs, key: jax.Array | None) -> Any:
        """Returns the residual stream after the layer: [B, T, D], for pre-norm a pair of such arrays."""
        weights_key, attention_key, ffn_key = split_key(key, 3)
        x_BTD, normed_BTD = stream if self.pre_norm else (stream, stream)
        with jax.named_scope("attention"):
            update_BTD = dropout(
                self.attention(normed_BTD, layer_inputs, weights_key), self.dropout_rate, attention_key
            )
            x_BTD = x_BTD + (update_BTD if self.attention_adapter is None else self.attention_adapter(update_BTD))
        if self.attention_norm is not None:
            x_BTD = self.attention_norm(x_BTD)
        normed_BTD = self.ffn_norm(x_BTD) if self.pre_norm else x_BTD
        with jax.named_scope("ffn"):
            update_BTD = dropout(self.ffn(normed_BTD), self.dropout_rate, ffn_key)
            x_BTD = x_BTD + (update_BTD if self.ffn_adapter is None else self.ffn_adapter(update_BTD))
        return (x_BTD, self.next_norm(x_BTD)) if self.next_norm is not None else self.ffn_norm(x_BTD)


def make_layers(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> EncoderLayer:
    """Makes `num_layers` layers as one whose parameters are stacked along a leading axis."""
    make = nnx.vmap(lambda layer_rngs: EncoderLayer(config, dtype, layer_rngs), transform_metadata=stack_metadata())
    return make(rngs.split(config.num_layers))


@jax.named_scope("encoder")
def apply_layers(
    config: EncoderConfig,
    layers: EncoderLayer,
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array,
    positions_BT: jax.Array,
    build: Build,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """Returns the hidden states [B, T, D] after stacked layers.

    The parameters of the lowest `build.frozen_layers` layers have no gradient; where the inputs have none either, the
    backward pass ends there.

    Args:
      config: of these layers.
      layers: as `make_layers` makes them.
      x_BTD: what a modality makes of its tokens [B, T, D] (`models.inputs`).
      segment_ids_BT: [B, T], from 1; 0 is padding.
      positions_BT: [B, T], from 0 in each segment.
      build: how they are computed.
      key: turns dropout on.

    Raises:
      UserError: the kernel that `build.attention` asks for cannot compute these layers.
    """
    specs = attention_specs(config, build, segment_ids_BT, positions_BT, training=key is not None)
    period_inputs = _layer_inputs(config, specs, positions_BT)
    graphdef, parameters = nnx.split(layers)
    keys = None if key is None else jax.random.split(key, config.num_layers)
    pre_norm = config.norm_placement == "pre"
    period = len(period_inputs)

    def with_inputs(layer_inputs: LayerInputs) -> Callable[[Any, nnx.State, jax.Array | None], Any]:
        def one(stream: Any, layer: nnx.State, layer_key: jax.Array | None) -> Any:
            return nnx.merge(graphdef, layer)(stream, layer_inputs, layer_key)

        if build.remat == "none":
            return one
        # In a loop the compiler cannot find the forward pass' values again, so that no barrier is needed.
        return jax.checkpoint(one, policy=_SAVED[build.remat], prevent_cse=not build.scan)

    def run(stream: Any, first: int, last: int) -> Any:
        """Applies the layers first .. last - 1."""
        inputs = [period_inputs[(first + index) % period] for index in range(period)]

        def apply(stream: Any, some: list[tuple[nnx.State, jax.Array | None]]) -> tuple[Any, None]:
            for (layer, layer_key), layer_inputs in zip(some, inputs, strict=False):
                stream = with_inputs(layer_inputs)(stream, layer, layer_key)
            return stream, None

        stacked = _take_layers((parameters, keys), slice(first, last), config.num_layers)
        if last <= build.frozen_layers:  # otherwise the part of a trained array would have a gradient, all of it zero
            stacked = (lax.stop_gradient(stacked[0]), stacked[1])
        # One round of the loop is one period of layers, so that the compiler knows which of them are local.
        rounds, rest = divmod(last - first, period)
        looped = [_take_layers(stacked, slice(i, rounds * period, period), last - first) for i in range(period)]
        stream, _ = lax.scan(apply, stream, looped, length=rounds, unroll=1 if build.scan else max(rounds, 1))
        left = [jax.tree.map(lambda leaf, i=i: leaf[rounds * period + i], stacked) for i in range(rest)]
        return apply(stream, left)[0]

    stream: Any = (x_BTD, x_BTD) if pre_norm else x_BTD
    for first, last in ((0, build.frozen_layers), (build.frozen_layers, config.num_layers)):
        stream = run(stream, first, last) if first < last else stream
    return stream[1] if pre_norm else stream


@jax.named_scope("attention")
def _layer_inputs(
    config: EncoderConfig, specs: tuple[AttentionSpec, ...], positions_BT: jax.Array
) -> tuple[LayerInputs, ...]:
    """Returns the inputs of each layer of a period: the first sees the whole segment, the others a window."""

    def layer_inputs(spec: AttentionSpec, theta: float) -> LayerInputs:
        rotary = config.position_embedding == "rope"
        return LayerInputs(spec, rotation(positions_BT, config.head_dim, theta) if rotary else None)

    whole, *local = specs
    others = [layer_inputs(spec, config.local_rope_theta) for spec in local] * (config.global_every - 1)
    return (layer_inputs(whole, config.global_rope_theta), *others)


def _take_layers(stacked: Any, layers: slice, length: int) -> Any:
    """Takes some layers of arrays that are stacks of `length`; the arrays themselves where that is all of them."""
    if len(range(*layers.indices(length))) == length:
        return stacked
    return jax.tree.map(lambda leaf: leaf[layers], stacked)
