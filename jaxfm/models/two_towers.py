"""An encoder of images and one of texts whose vectors are compared (Radford et al. 2021, CLIP)."""

# B batch, T tokens of an image, L tokens of a text, D model, E vectors

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.towers import TowersConfig
from jaxfm.models.attention_pool import AttentionPool
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import dense, pool_at, pool_images
from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.vectors import LARGEST_SCALE, normalized, pooled_tokens, projection

# Before the names that a text has in a batch: "text_tokens" beside the "pixels" of its image.
TEXT = "text_"


def text_of(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the fields of a batch's texts under the names that `models.inputs.text` reads."""
    return {name.removeprefix(TEXT): value for name, value in batch.items() if name.startswith(TEXT)}


class TwoTowers(nnx.Module):
    """Both encoders, a vector of each image and each text, and what their products are multiplied with in the loss.

    The vector is pooled as `TowersConfig` says ("pooler" is what transformers' ViTModel and BertModel give); a linear
    map, and length 1, follow. The image tower is `encoder`, what is adapted; freezing it alone is LiT (Zhai et al.
    2022, "LiT").
    """

    def __init__(
        self,
        config: TowersConfig,
        build: Build,
        rngs: nnx.Rngs,
        *,
        scale: float = 1.0,
        bias: float = 0.0,
        inputs: InputModule | None = None,
    ):
        """Makes both towers.

        Args:
          config: what they are.
          build: how they compute; layers are frozen in the image tower alone.
          rngs: for the weights.
          scale: where the learned factor of similarities starts.
          bias: where the learned number that is added to them starts, if there is one.
          inputs: of the image tower, as `Encoder`.
        """
        image, text = config.image, config.text
        text_build = Build(build.dtype, build.scan, build.remat, build.attention)
        self.encoder = Encoder(image, build, rngs, inputs)
        self.text_encoder = Encoder(text, text_build, rngs)
        self.image_pooler = dense(image, build.dtype, rngs) if config.image_pooling == "pooler" else None
        self.image_pool = AttentionPool(image, build.dtype, rngs) if config.image_pooling == "map" else None
        self.text_pooler = dense(text, build.dtype, rngs) if config.text_pooling == "pooler" else None
        projects, width = config.image_projection, config.dimension
        self.image_projection = projection(image, width, build.dtype, rngs) if projects else None
        self.text_projection = projection(text, width, build.dtype, rngs, bias=config.text_bias)
        self.log_scale = nnx.Param(jnp.asarray(math.log(scale), jnp.float32))
        self.bias = nnx.Param(jnp.asarray(bias, jnp.float32)) if config.bias else None
        self.image_pooling, self.text_pooling = config.image_pooling, config.text_pooling

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> tuple[jax.Array, jax.Array]:
        """Returns the vectors of the images and of the texts, f32 [B, E] each; `key` turns dropout on."""
        image_key, text_key = split_key(key, 2)
        return self.image_vectors(batch, key=image_key), self.text_vectors(text_of(batch), key=text_key)

    def image_vectors(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns f32 [B, E] of rows of one image."""
        hidden_BTD = self.encoder(batch, key=key)
        if self.image_pool is not None:
            x_BD = self.image_pool(hidden_BTD, batch["segment_ids"], 1)[:, 0]
        else:
            x_BD = pool_images(hidden_BTD, batch, "mean" if self.image_pooling == "mean" else "cls", 1)[:, 0]
        if self.image_pooler is not None:
            x_BD = jnp.tanh(self.image_pooler(x_BD))
        x_BE = x_BD if self.image_projection is None else self.image_projection(x_BD)
        return normalized(x_BE.astype(jnp.float32))

    def text_vectors(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns f32 [B, E] of rows of one text."""
        hidden = self.text_encoder.encode(batch, key=key)
        how = "cls" if self.text_pooling == "pooler" else self.text_pooling
        taken_BT = pooled_tokens(hidden.segment_ids_BT, hidden.positions_BT, how)
        x_BD = pool_at(hidden.x_BTD, hidden.segment_ids_BT, taken_BT, 1)[:, 0]
        if self.text_pooler is not None:
            x_BD = jnp.tanh(self.text_pooler(x_BD))
        return normalized(self.text_projection(x_BD).astype(jnp.float32))

    @property
    def scale(self) -> jax.Array:
        """What similarities are multiplied with: without a bias at most 100 (Radford et al. 2021, section 2.5)."""
        scale = jnp.exp(self.log_scale[...])
        return jnp.minimum(scale, LARGEST_SCALE) if self.bias is None else scale  # Zhai et al. 2023 have no limit
