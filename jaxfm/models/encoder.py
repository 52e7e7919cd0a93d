"""The transformer encoder: embeddings, then layers of one shape, stacked and looped over."""

# B batch, T tokens, D model, N heads, H head dim, F ffn, L layers

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxfm.models.activations import gelu
from jaxfm.models.attention import attend, segment_mask
from jaxfm.models.dropout import dropout, split_key
from jaxfm.models.embeddings import Embeddings, layer_norm
from jaxfm.models.presets import EncoderConfig
from jaxfm.parallel.mesh import stack_metadata, with_axes


class Attention(nnx.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the query, key, value and output projections."""
        kernel_init = nnx.initializers.truncated_normal(config.initializer_range)
        zeros = nnx.initializers.zeros_init()

        def projection() -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                config.hidden_size,
                (config.num_heads, config.head_dim),
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
            dtype=dtype,
            kernel_init=with_axes(kernel_init, "heads", "head_dim", "embed"),
            bias_init=with_axes(zeros, "norm"),
            rngs=rngs,
        )
        self.dropout_rate = config.attention_dropout

    def __call__(self, x_BTD: jax.Array, mask_B1TT: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns [B, T, D]."""
        context_BTNH = attend(
            self.query(x_BTD),
            self.key(x_BTD),
            self.value(x_BTD),
            mask_B1TT,
            dropout_rate=self.dropout_rate,
            dropout_key=key,
        )
        return self.output(context_BTNH)


class FeedForward(nnx.Module):
    """Two projections with an exact gelu between them."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the projections up to ffn_size and down again."""
        kernel_init = nnx.initializers.truncated_normal(config.initializer_range)
        zeros = nnx.initializers.zeros_init()
        self.up = nnx.Linear(
            config.hidden_size,
            config.ffn_size,
            dtype=dtype,
            kernel_init=with_axes(kernel_init, "embed", "ffn"),
            bias_init=with_axes(zeros, "ffn"),
            rngs=rngs,
        )
        self.down = nnx.Linear(
            config.ffn_size,
            config.hidden_size,
            dtype=dtype,
            kernel_init=with_axes(kernel_init, "ffn", "embed"),
            bias_init=with_axes(zeros, "norm"),
            rngs=rngs,
        )

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        return self.down(gelu(self.up(x_BTD)))


class EncoderLayer(nnx.Module):
    """Attention and feed-forward, each added to its input and normalised after (post-LN, Vaswani et al. 2017)."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes one layer."""
        self.attention = Attention(config, dtype, rngs)
        self.attention_norm = layer_norm(config, dtype, rngs)
        self.ffn = FeedForward(config, dtype, rngs)
        self.ffn_norm = layer_norm(config, dtype, rngs)
        self.dropout_rate = config.dropout

    def __call__(self, x_BTD: jax.Array, mask_B1TT: jax.Array, key: jax.Array | None) -> jax.Array:
        """Returns [B, T, D]."""
        weights_key, attention_key, ffn_key = split_key(key, 3)
        attended_BTD = dropout(self.attention(x_BTD, mask_B1TT, weights_key), self.dropout_rate, attention_key)
        x_BTD = self.attention_norm(x_BTD + attended_BTD)
        return self.ffn_norm(x_BTD + dropout(self.ffn(x_BTD), self.dropout_rate, ffn_key))


class Encoder(nnx.Module):
    """Embeddings and `num_layers` layers whose parameters are stacked along a leading axis."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32, scan: bool = True):
        """Makes the encoder; `dtype` is that of activations (parameters are f32), `scan=False` unrolls the layers."""
        self.embeddings = Embeddings(config, dtype, rngs)
        make_layers = nnx.vmap(
            lambda layer_rngs: EncoderLayer(config, dtype, layer_rngs), transform_metadata=stack_metadata()
        )
        self.layers = make_layers(rngs.split(config.num_layers))
        self.num_layers = config.num_layers
        self.unroll = 1 if scan else config.num_layers

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
        mask_B1TT = segment_mask(segment_ids_BT)
        graphdef, stacked = nnx.split(self.layers)
        keys = None if layers_key is None else jax.random.split(layers_key, self.num_layers)

        def apply_layer(x_BTD: jax.Array, layer: tuple[nnx.State, jax.Array | None]) -> tuple[jax.Array, None]:
            parameters, layer_key = layer
            return nnx.merge(graphdef, parameters)(x_BTD, mask_B1TT, layer_key), None

        x_BTD = self.embeddings(tokens_BT, positions_BT, type_ids_BT, embedding_key)
        x_BTD, _ = lax.scan(apply_layer, x_BTD, (stacked, keys), unroll=self.unroll)
        return x_BTD
