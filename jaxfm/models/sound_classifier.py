"""An encoder of sound and classes of each clip."""

# B batch, T tokens, S segments (clips in a row), D model, C classes

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import output_layer, pool_at
from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.norms import make_norm

POOLINGS = ("tokens", "mean")


class SoundClassifier(nnx.Module):
    """An encoder, a norm and one linear layer that scores each clip of a row (as transformers' AST).

    A clip is judged by the mean of its learned tokens ("tokens": the class token and the distillation token), or by
    the mean over its patches.
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
        """Makes encoder and head for rows of at most `segments` clips; `inputs`: as `Encoder`."""
        assert pooling in POOLINGS
        self.encoder = Encoder(config, build, rngs, inputs)
        self.head_norm = make_norm(config, build.dtype, rngs)
        self.head = output_layer(config, num_classes, build.dtype, rngs)
        self.pooling, self.segments, self.dropout_rate = pooling, segments, config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, S, C] in f32, unspecified where a row has no such clip; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        hidden_BTD = self.encoder(batch, key=encoder_key)
        is_patch_BT = batch["cells"][..., 0] >= 0
        taken_BT = is_patch_BT if self.pooling == "mean" else ~is_patch_BT
        x_BSD = pool_at(hidden_BTD, batch["segment_ids"], taken_BT, self.segments)
        return self.head(dropout(self.head_norm(x_BSD), self.dropout_rate, head_key)).astype(jnp.float32)
