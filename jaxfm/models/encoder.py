"""The transformer encoder: embeddings, then layers of one shape, stacked and looped over."""

# B batch, T tokens, D model, N heads, H head dim, F ffn, L layers

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxfm.models.activations import gelu
from jaxfm.models.attention import attend, chunk_length, local_mask, segment_mask
from jaxfm.models.dropout import dropout, split_key
from jaxfm.models.embeddings import Embeddings, layer_norm
from jaxfm.models.presets import EncoderConfig
from jaxfm.models.rotary import Rotation, rotate, rotation
from jaxfm.parallel.mesh import constrain, stack_metadata, with_axes

# What a layer that is computed again keeps all the same: the results of products without a batch axis (those with
# weights, not those of attention), or nothing but its input.
_KEPT = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}


class View(NamedTuple):
    """What the attention of a layer sees of a batch.

    Attributes:
      mask: as `attend` takes it, for `chunk`.
      chunk: tokens that queries are cut into; 0: not cut.
      rotation: of queries and keys; None where positions are learned.
    """

    mask: jax.Array
    chunk: int
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
        zeros = nnx.initializers.zeros_init()

        def projection() -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                config.hidden_size,
                (config.num_heads, config.head_dim),
                use_bias=config.linear_bias,
                dtype=dtype,
                kernel_init=with_axes(kernel_init, "embed", "heads", "head_dim"),
                bias_init=with_axes(zeros, "heads", "head_dim"),
                rngs=rngs,
            )

        self.query, self.key, self.value = projection(), projection(), projection()
        self.output = nnx.LinearGeneral(
            (config.num_heads, config.head_dim),
            config.hidden_size,
            axis=(-2, -1),
            use_bias=config.linear_bias,
            dtype=dtype,
            kernel_init=with_axes(output_init(config), "heads", "head_dim", "embed"),
            bias_init=with_axes(zeros, "norm"),
            rngs=rngs,
        )
        self.dropout_rate = config.attention_dropout

    def __call__(self, x_BTD: jax.Array, view: View, key: jax.Array | None) -> jax.Array:
        """Returns [B, T, D]."""
        q_BTNH, k_BTNH, v_BTNH = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        if view.rotation is not None:
            q_BTNH, k_BTNH = rotate(q_BTNH, view.rotation), rotate(k_BTNH, view.rotation)
        own = ("batch", "tokens", "heads", "head_dim")
        q_BTNH, k_BTNH, v_BTNH = (constrain(x_BTNH, *own) for x_BTNH in (q_BTNH, k_BTNH, v_BTNH))
        if not view.chunk:  # every part of a row sees all keys of it; in chunks it needs its neighbours' alone
            k_BTNH, v_BTNH = (constrain(x_BTNH, "batch", "keys", "heads", "head_dim") for x_BTNH in (k_BTNH, v_BTNH))
        context_BTNH = attend(
            q_BTNH,
            k_BTNH,
            v_BTNH,
            view.mask,
            chunk=view.chunk,
            dropout_rate=self.dropout_rate,
            dropout_key=key,
        )
        return constrain(self.output(context_BTNH), "batch", "tokens", "features")


class FeedForward(nnx.Module):
    """Up and down again with an exact gelu between, which a second projection may gate."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the projections up to ffn_size and down again."""
        zeros = nnx.initializers.zeros_init()

        def up() -> nnx.Linear:
            kernel_init = nnx.initializers.truncated_normal(config.initializer_range)
            return nnx.Linear(
                config.hidden_size,
                config.ffn_size,
                use_bias=config.linear_bias,
                dtype=dtype,
                kernel_init=with_axes(kernel_init, "embed", "ffn"),
                bias_init=with_axes(zeros, "ffn"),
                rngs=rngs,
            )

        self.up = up()
        self.down = nnx.Linear(
            config.ffn_size,
            config.hidden_size,
            use_bias=config.linear_bias,
            dtype=dtype,
            kernel_init=with_axes(output_init(config), "ffn", "embed"),
            bias_init=with_axes(zeros, "norm"),
            rngs=rngs,
        )
        self.gate = up() if config.ffn == "geglu" else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        inner_BTF = gelu(self.up(x_BTD))
        if self.gate is not None:
            inner_BTF = inner_BTF * self.gate(x_BTD)
        inner_BTF = constrain(inner_BTF, "batch", "tokens", "ffn")
        return constrain(self.down(inner_BTF), "batch", "tokens", "features")


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each added to its input.

    Post-norm: each sum is normalised. Pre-norm: the stream is a pair, the sum so far and what the next part reads,
    which is the sum normalised. The norm before a layer's attention belongs to the layer before it (`next_norm`), and
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
        self.dropout_rate = config.dropout

    def __call__(self, stream: Any, view: View, key: jax.Array | None) -> Any:
        """Returns the stream behind the layer: [B, T, D], or a pair of it for pre-norm."""
        weights_key, attention_key, ffn_key = split_key(key, 3)
        x_BTD, read_BTD = stream if self.pre_norm else (stream, stream)
        x_BTD = x_BTD + dropout(self.attention(read_BTD, view, weights_key), self.dropout_rate, attention_key)
        if self.attention_norm is not None:
            x_BTD = self.attention_norm(x_BTD)
        read_BTD = self.ffn_norm(x_BTD) if self.pre_norm else x_BTD
        x_BTD = x_BTD + dropout(self.ffn(read_BTD), self.dropout_rate, ffn_key)
        return (x_BTD, self.next_norm(x_BTD)) if self.next_norm is not None else self.ffn_norm(x_BTD)


class Encoder(nnx.Module):
    """Embeddings and `num_layers` layers whose parameters are stacked along a leading axis."""

    def __init__(
        self,
        config: EncoderConfig,
        rngs: nnx.Rngs,
        *,
        dtype: jnp.dtype = jnp.float32,
        scan: bool = True,
        remat: str = "none",
    ):
        """Makes the encoder; `dtype` is that of activations (parameters are f32), `scan=False` unrolls the layers.

        `remat` is what of a layer the backward pass computes again (`ModelConfig.remat`).
        """
        self.embeddings = Embeddings(config, dtype, rngs)
        self.layers = make_layers(config, dtype, rngs)
        self.config = config
        self.scan = scan
        self.remat = remat

    def __call__(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array,
        positions_BT: jax.Array,
        type_ids_BT: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the last hidden states [B, T, D]; `key` turns dropout on."""
        embedding_key, layers_key = split_key(key, 2)
        x_BTD = self.embeddings(tokens_BT, positions_BT, type_ids_BT, embedding_key)
        return apply_layers(
            self.config,
            self.layers,
            x_BTD,
            segment_ids_BT,
            positions_BT,
            key=layers_key,
            scan=self.scan,
            remat=self.remat,
        )


def make_layers(config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> EncoderLayer:
    """Makes `num_layers` layers as one whose parameters are stacked along a leading axis."""
    make = nnx.vmap(lambda layer_rngs: EncoderLayer(config, dtype, layer_rngs), transform_metadata=stack_metadata())
    return make(rngs.split(config.num_layers))


def apply_layers(
    config: EncoderConfig,
    layers: EncoderLayer,
    x_BTD: jax.Array,
    segment_ids_BT: jax.Array,
    positions_BT: jax.Array,
    *,
    key: jax.Array | None,
    scan: bool,
    remat: str = "none",
) -> jax.Array:
    """Returns the hidden states [B, T, D] behind stacked layers; `x_BTD` are embeddings, `key` turns dropout on.

    What `remat` (`ModelConfig.remat`) says is computed again for the backward pass, layer by layer.
    """
    views = _views(config, segment_ids_BT, positions_BT)
    graphdef, parameters = nnx.split(layers)
    keys = None if key is None else jax.random.split(key, config.num_layers)
    pre_norm = config.norm_placement == "pre"

    def with_view(view: View) -> Callable[[Any, nnx.State, jax.Array | None], Any]:
        def one(stream: Any, layer: nnx.State, layer_key: jax.Array | None) -> Any:
            return nnx.merge(graphdef, layer)(stream, view, layer_key)

        # In a loop the compiler cannot find the forward pass' values again, so that no barrier is needed.
        return one if remat == "none" else jax.checkpoint(one, policy=_KEPT[remat], prevent_cse=not scan)

    def apply(stream: Any, some: list[tuple[nnx.State, jax.Array | None]]) -> tuple[Any, None]:
        for (layer, layer_key), view in zip(some, views, strict=False):
            stream = with_view(view)(stream, layer, layer_key)
        return stream, None

    stream = (x_BTD, x_BTD) if pre_norm else x_BTD
    # One round of the loop is one period of views, so that which layers are local is known to the compiler.
    period = len(views)
    rounds, rest = divmod(config.num_layers, period)
    looped = [_every(period, first, rounds, (parameters, keys)) for first in range(period)]
    stream, _ = lax.scan(apply, stream, looped, length=rounds, unroll=1 if scan else max(rounds, 1))
    left = [jax.tree.map(lambda leaf, i=i: leaf[rounds * period + i], (parameters, keys)) for i in range(rest)]
    stream, _ = apply(stream, left)
    return stream[1] if pre_norm else stream


def _views(config: EncoderConfig, segment_ids_BT: jax.Array, positions_BT: jax.Array) -> tuple[View, ...]:
    """Returns what each layer of a period sees: the first the whole segment, the others a window."""

    def turned(theta: float) -> Rotation | None:
        rotary = config.position_embedding == "rope"
        return rotation(positions_BT, config.head_dim, theta) if rotary else None

    whole = View(segment_mask(segment_ids_BT), 0, turned(config.global_rope_theta))
    if not config.local_window:
        return (whole,)
    reach = config.local_window // 2
    chunk = chunk_length(segment_ids_BT.shape[1], reach)
    mask = local_mask(segment_ids_BT, positions_BT, reach, chunk)
    local = View(mask, chunk, turned(config.local_rope_theta))
    return (whole, *(local,) * (config.global_every - 1))


def _every(period: int, first: int, rounds: int, stacked: Any) -> Any:
    """Takes layers first, first + period, ... of stacked arrays; the arrays themselves where that is all of them."""
    return stacked if period == 1 else jax.tree.map(lambda leaf: leaf[first : rounds * period : period], stacked)
