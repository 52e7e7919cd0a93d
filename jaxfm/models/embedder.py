"""An encoder whose texts become vectors: the model behind embeddings of sentences."""

# B batch, T tokens, S segments (texts in a row), D model, E embedding

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import pool_at
from jaxfm.models.vectors import LARGEST_SCALE, normalized, pooled_tokens, projection

POOLINGS = ("mean", "cls", "last")


class Embedder(nnx.Module):
    """An encoder and one vector a segment: of its first token ("cls"), of its last, or the mean over its tokens.

    The tokens that a tokenizer adds count (Reimers and Gurevych 2019, in their code). A projection without bias may
    follow. `log_scale`, where it is trained, is the logarithm of what similarities are multiplied with in the loss.
    """

    def __init__(
        self,
        config: EncoderConfig,
        build: Build,
        rngs: nnx.Rngs,
        *,
        pooling: str,
        segments: int,
        normalize: bool,
        dimension: int = 0,
        learned_scale: float = 0.0,
    ):
        """Makes encoder and projection.

        Args:
          config: of the encoder.
          build: how it computes.
          rngs: for the weights.
          pooling: one of `POOLINGS`.
          segments: most texts of a row.
          normalize: vectors have length 1.
          dimension: that is projected to; 0: vectors are as wide as the encoder.
          learned_scale: where it starts; 0: there is none.
        """
        assert pooling in POOLINGS
        self.encoder = Encoder(config, build, rngs)
        self.projection = projection(config, dimension, build.dtype, rngs) if dimension else None
        scale = nnx.Param(jnp.asarray(math.log(learned_scale), jnp.float32)) if learned_scale else None
        self.log_scale = scale
        self.pooling, self.segments, self.normalize = pooling, segments, normalize

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns vectors [B, S, E] in f32, zero where a row has no such segment; `key` turns dropout on."""
        hidden = self.encoder.encode(batch, key=key)
        taken_BT = pooled_tokens(hidden.segment_ids_BT, hidden.positions_BT, self.pooling)
        x_BSD = pool_at(hidden.x_BTD, hidden.segment_ids_BT, taken_BT, self.segments)
        if self.projection is not None:
            x_BSD = self.projection(x_BSD)
        x_BSE = x_BSD.astype(jnp.float32)
        return normalized(x_BSE) if self.normalize else x_BSE

    def scale(self, fixed: float) -> jax.Array:
        """Returns what similarities are multiplied with in the loss: the learned number, or `fixed` without one."""
        if self.log_scale is None:
            return jnp.asarray(fixed, jnp.float32)
        return jnp.minimum(jnp.exp(self.log_scale[...]), LARGEST_SCALE)
