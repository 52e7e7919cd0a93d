"""An encoder whose texts become a vector for each token: the model behind late interaction."""

# B batch, T tokens, D model, P projected

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.encoder import Encoder
from jaxfm.models.vectors import LARGEST_SCALE, normalized, projection


class TokenEmbedder(nnx.Module):
    """An encoder, a linear map without bias, and vectors of length 1 (Khattab and Zaharia 2020, section 3.2).

    `log_scale`, where it is trained, is the logarithm of what similarities are multiplied with in the loss.
    """

    def __init__(
        self, config: EncoderConfig, build: Build, rngs: nnx.Rngs, *, dimension: int, learned_scale: float = 0.0
    ):
        """Makes encoder and map.

        Args:
          config: of the encoder.
          build: how it computes.
          rngs: for the weights.
          dimension: numbers of a vector, P.
          learned_scale: where it starts; 0: there is none.
        """
        self.encoder = Encoder(config, build, rngs)
        self.projection = projection(config, dimension, build.dtype, rngs)
        scale = nnx.Param(jnp.asarray(math.log(learned_scale), jnp.float32)) if learned_scale else None
        self.log_scale = scale

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns vectors [B, T, P] in f32, unspecified at padding; `key` turns dropout on."""
        x_BTD = self.encoder(batch, key=key)
        return normalized(self.projection(x_BTD).astype(jnp.float32))

    def scale(self, fixed: float) -> jax.Array:
        """Returns what similarities are multiplied with in the loss: the learned number, or `fixed` without one."""
        if self.log_scale is None:
            return jnp.asarray(fixed, jnp.float32)
        return jnp.minimum(jnp.exp(self.log_scale[...]), LARGEST_SCALE)
