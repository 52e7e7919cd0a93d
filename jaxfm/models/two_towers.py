"""An encoder of images and one of texts whose vectors are compared (Radford et al. 2021, CLIP)."""

# B batch, T tokens of an image, L tokens of a text, D model, E vectors

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.embedder import LARGEST_SCALE, normalized, projection
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import dense, pool
from jaxfm.models.image_classifier import pool_images
from jaxfm.models.inputs.inputs import InputModule

IMAGE_POOLINGS = ("pooler", "cls", "mean")
TEXT_POOLINGS = ("pooler", "cls", "mean")
# Before the names that a text has in a batch: "text_tokens" beside the "pixels" of its image.
TEXT = "text_"


def text_of(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the fields of a batch's texts under the names that `models.inputs.text` reads."""
    return {name.removeprefix(TEXT): value for name, value in batch.items() if name.startswith(TEXT)}


class TwoTowers(nnx.Module):
    """Both encoders, a vector of each image and each text, and what their products are multiplied with in the loss.

    The vector is that of the first token ("cls"), the same after a dense layer and tanh ("pooler": what transformers'
    ViTModel and BertModel give), or the mean over patches, or tokens; then a linear map without bias, and length 1.
    The image tower is `encoder`, what is adapted; freezing it alone is LiT (Zhai et al. 2022).
    """

    def __init__(
        self,
        image: EncoderConfig,
        text: EncoderConfig,
        build: Build,
        rngs: nnx.Rngs,
        *,
        image_pooling: str,
        text_pooling: str,
        dimension: int,
        scale: float,
        bias: float | None,
        inputs: InputModule | None = None,
    ):
        """Makes both towers.

        Args:
          image: shape of the image tower.
          text: shape of the text tower.
          build: how they compute; layers are frozen in the image tower alone.
          rngs: for the weights.
          image_pooling: one of `IMAGE_POOLINGS`.
          text_pooling: one of `TEXT_POOLINGS`.
          dimension: E.
          scale: where the learned factor of similarities starts.
          bias: where the learned number that is added to them starts; None: none is added.
          inputs: of the image tower, as `Encoder`.
        """
        assert image_pooling in IMAGE_POOLINGS and text_pooling in TEXT_POOLINGS
        text_build = Build(build.dtype, build.scan, build.remat, build.attention)
        self.encoder = Encoder(image, build, rngs, inputs)
        self.text_encoder = Encoder(text, text_build, rngs)
        self.image_pooler = dense(image, build.dtype, rngs) if image_pooling == "pooler" else None
        self.text_pooler = dense(text, build.dtype, rngs) if text_pooling == "pooler" else None
        self.image_projection = projection(image, dimension, build.dtype, rngs)
        self.text_projection = projection(text, dimension, build.dtype, rngs)
        self.log_scale = nnx.Param(jnp.asarray(math.log(scale), jnp.float32))
        self.bias = None if bias is None else nnx.Param(jnp.asarray(bias, jnp.float32))
        self.image_pooling, self.text_pooling = image_pooling, text_pooling

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> tuple[jax.Array, jax.Array]:
        """Returns the vectors of the images and of the texts, f32 [B, E] each; `key` turns dropout on."""
        image_key, text_key = split_key(key, 2)
        return self.image_vectors(batch, key=image_key), self.text_vectors(text_of(batch), key=text_key)

    def image_vectors(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns f32 [B, E] of rows of one image."""
        hidden_BTD = self.encoder(batch, key=key)
        how = "mean" if self.image_pooling == "mean" else "cls"
        x_BD = pool_images(hidden_BTD, batch, how, 1)[:, 0]
        if self.image_pooler is not None:
            x_BD = jnp.tanh(self.image_pooler(x_BD))
        return normalized(self.image_projection(x_BD).astype(jnp.float32))

    def text_vectors(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns f32 [B, E] of rows of one text."""
        hidden = self.text_encoder.encode(batch, key=key)
        x_BD = pool(*hidden, "mean" if self.text_pooling == "mean" else "cls", 1)[:, 0]
        if self.text_pooler is not None:
            x_BD = jnp.tanh(self.text_pooler(x_BD))
        return normalized(self.text_projection(x_BD).astype(jnp.float32))

    @property
    def scale(self) -> jax.Array:
        """What similarities are multiplied with, at most 100 (Radford et al. 2021, section 2.5)."""
        return jnp.minimum(jnp.exp(self.log_scale[...]), LARGEST_SCALE)
