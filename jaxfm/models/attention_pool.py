"""One vector of an image by attention of a learned one over all of its tokens (Zhai et al. 2022, "Scaling ViT")."""

# B batch, T tokens, S segments (images in a row), N heads, H head dim, D model

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.adapters import Linear, without_adapters
from jaxfm.models.attention import MASKED
from jaxfm.models.initializers import kernel_init
from jaxfm.models.norms import make_norm
from jaxfm.models.products import einsum
from jaxfm.models.stack import FeedForward
from jaxfm.parallel.mesh import constrain, with_axes


class AttentionPool(nnx.Module):
    """Multi-head attention of a probe, then x + ffn(norm(x)): "MAP" in Zhai et al. 2022, section 3.2.

    What low-rank updates and adapters an encoder has is not a part of it.
    """

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes the probe and the layers, of the sizes of the encoder's own."""
        config = without_adapters(config)
        init = nnx.initializers.truncated_normal(config.initializer_range)
        width, inner = config.hidden_size, config.num_heads * config.head_dim
        model = {"embed": width}
        heads = {"heads": config.num_heads, "head_dim": config.head_dim}

        def projection(name: str, inputs: dict[str, int], outputs: dict[str, int], init: nnx.Initializer) -> Linear:
            return Linear(config, name, inputs, outputs, bias=True, kernel_init=init, dtype=dtype, rngs=rngs)

        self.probe = nnx.Param(with_axes(init, "norm")(rngs.params(), (config.hidden_size,), jnp.float32))
        draw = kernel_init(config, width, inner)
        self.query, self.key, self.value = (projection(name, model, heads, draw) for name in ("query", "key", "value"))
        self.output = projection("output", heads, model, kernel_init(config, inner, width, residual=True))
        self.norm = make_norm(config, dtype, rngs)
        self.ffn = FeedForward(config, dtype, rngs)
        self.head_dim, self.dtype = config.head_dim, dtype

    @jax.named_scope("attention_pool")
    def __call__(self, hidden_BTD: jax.Array, segment_ids_BT: jax.Array, segments: int) -> jax.Array:
        """Returns [B, S, D], one vector a segment, unspecified where a row has no such segment."""
        q_NH = self.query(self.probe[...].astype(self.dtype)) * self.head_dim**-0.5
        scores_BNT = einsum("NH,BTNH->BNT", q_NH, self.key(hidden_BTD), jnp.float32)
        own_BST = segment_ids_BT[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
        scores_BSNT = jnp.where(own_BST[:, :, None], scores_BNT[:, None], MASKED)
        weights_BSNT = jax.nn.softmax(scores_BSNT, axis=-1).astype(self.dtype)
        context_BSNH = einsum("BSNT,BTNH->BSNH", weights_BSNT, self.value(hidden_BTD))
        x_BSD = constrain(self.output(context_BSNH), "batch", "segments", "features")
        return x_BSD + self.ffn(self.norm(x_BSD))
