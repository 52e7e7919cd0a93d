"""Sound as moments: what an encoder says of each step in time of each clip of a row."""

# B batch, T tokens, S segments (clips in a row), K steps in time of the longest clip, R rows of patches, D model,
# C classes

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import output_layer
from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.norms import make_norm
from jaxfm.parallel.mesh import constrain


class Steps(NamedTuple):
    """The steps in time of the clips of rows.

    Attributes:
      tokens_BSKR: index of the token of each step and row of patches; where `valid_BSK` is false any token.
      valid_BSK: whether a clip has the step.
    """

    tokens_BSKR: jax.Array
    valid_BSK: jax.Array


def find_steps(batch: Mapping[str, jax.Array], patches: PatchConfig, segments: int) -> Steps:
    """Finds the steps of rows as `data.audio.rows` lays them: of each clip the prefix, then patches, band by band."""
    segment_ids_BT = batch["segment_ids"]
    rows, tokens = patches.grid[0], segment_ids_BT.shape[1]
    own_BST = segment_ids_BT[:, None, :] == jnp.arange(1, segments + 1)[None, :, None]
    count_BS = own_BST.sum(axis=-1)
    first_BS = jnp.argmax(own_BST, axis=-1) + patches.prefix
    columns_BS = (count_BS - patches.prefix) // rows  # below 0 where a row has no such clip
    step_K = jnp.arange(patches.grid[1])
    valid_BSK = step_K < columns_BS[..., None]
    place_BSKR = step_K[:, None] + jnp.arange(rows) * columns_BS[..., None, None]
    return Steps(jnp.clip(first_BS[..., None, None] + place_BSKR, 0, tokens - 1), valid_BSK)


def states_at(hidden_BTD: jax.Array, steps: Steps) -> jax.Array:
    """Returns the hidden state of each step [B, S, K, D], the mean over its rows of patches; any where not valid."""
    hidden_BTD = constrain(hidden_BTD, "batch", "keys", "features")  # steps may lie anywhere in the row
    shape = steps.tokens_BSKR.shape
    index_BX = steps.tokens_BSKR.reshape(shape[0], -1)
    found_BXD = jnp.take_along_axis(hidden_BTD, index_BX[..., None], axis=1)
    found_BSKRD = found_BXD.reshape(*shape, hidden_BTD.shape[-1])
    return found_BSKRD[..., 0, :] if shape[-1] == 1 else found_BSKRD.mean(axis=-2)


def of_tokens(values_BSK: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns of each token [B, T] the value of its step; that of step 0 of clip 1 for tokens that are no patches."""
    clip_BT = jnp.maximum(batch["segment_ids"] - 1, 0)
    step_BT = jnp.maximum(batch["cells"][..., 1], 0)
    flat_BX = values_BSK.reshape(len(values_BSK), -1)
    is_patch_BT = (batch["cells"][..., 0] >= 0) & (batch["segment_ids"] > 0)
    index_BT = jnp.where(is_patch_BT, clip_BT * values_BSK.shape[2] + step_BT, 0)
    return jnp.take_along_axis(flat_BX, index_BT, axis=1)


class StepScores(NamedTuple):
    """What a model says of the steps of clips.

    Attributes:
      logits_BSKC: f32; scores of classes.
      valid_BSK: whether a clip has the step.
    """

    logits_BSKC: jax.Array
    valid_BSK: jax.Array


class StepClassifier(nnx.Module):
    """An encoder, a norm and one linear layer that scores classes of each step of each clip."""

    def __init__(
        self,
        config: EncoderConfig,
        classes: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        segments: int,
        inputs: InputModule | None = None,
    ):
        """Makes encoder and head for rows of at most `segments` clips; `inputs`: as `Encoder`."""
        self.encoder = Encoder(config, build, rngs, inputs)
        self.head_norm = make_norm(config, build.dtype, rngs)
        self.head = output_layer(config, classes, build.dtype, rngs)
        self.patches, self.segments, self.dropout_rate = config.patches, segments, config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> StepScores:
        """Scores all steps; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        hidden_BTD = self.head_norm(self.encoder(batch, key=encoder_key))
        steps = find_steps(batch, self.patches, self.segments)
        x_BSKD = dropout(states_at(hidden_BTD, steps), self.dropout_rate, head_key)
        return StepScores(self.head(x_BSKD).astype(jnp.float32), steps.valid_BSK)
