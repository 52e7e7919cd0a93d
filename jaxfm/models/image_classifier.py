"""An encoder of images and classes of each image."""

# B batch, T tokens, S segments (images in a row), D model, C classes

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import IMAGE_POOLINGS, EncoderConfig
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import output_layer, pool_images
from jaxfm.models.inputs.inputs import InputModule


class ImageClassifier(nnx.Module):
    """An encoder and one linear layer that scores each image of a row (as transformers' ForImageClassification).

    An image is judged by its class token, by the mean over its patches, or by both, one after the other.
    """

    def __init__(
        self,
        config: EncoderConfig,
        num_classes: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        pooling: str,
        segments: int,
        inputs: InputModule | None = None,
    ):
        """Makes encoder and head for rows of at most `segments` images; `inputs`: as `Encoder`."""
        assert pooling in IMAGE_POOLINGS
        self.encoder = Encoder(config, build, rngs, inputs)
        vectors = 2 if pooling == "cls_mean" else 1
        self.head = output_layer(config, num_classes, build.dtype, rngs, vectors=vectors)
        self.pooling, self.segments, self.dropout_rate = pooling, segments, config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, S, C] in f32, unspecified where a row has no such image; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        return self.logits(dropout(self.features(batch, key=encoder_key), self.dropout_rate, head_key))

    def features(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns what the last layer reads of each image [B, S, D or 2 D]; `key` turns dropout of the encoder on."""
        return pool_images(self.encoder.encode(batch, key=key).x_BTD, batch, self.pooling, self.segments)

    def logits(self, features: jax.Array) -> jax.Array:
        """Returns logits [..., C] in f32 of `features`."""
        return self.head(features).astype(jnp.float32)
