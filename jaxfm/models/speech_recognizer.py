"""An encoder of sound and the symbols that are said at each step in time."""

# B batch, S segments (clips in a row), K steps of a clip, V symbols and the blank

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey, dropout, split_key
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import output_layer
from jaxfm.models.inputs.inputs import InputModule
from jaxfm.models.norms import make_norm
from jaxfm.models.sound_steps import find_steps, states_at

BLANK = 0


class StepScores(NamedTuple):
    """What a model says of the steps of clips.

    Attributes:
      logits_BSKV: f32; number 0 is the blank.
      valid_BSK: whether a clip has the step.
    """

    logits_BSKV: jax.Array
    valid_BSK: jax.Array


class SpeechRecognizer(nnx.Module):
    """An encoder, a norm and one linear layer that scores the symbols of each step of each clip."""

    def __init__(
        self,
        config: EncoderConfig,
        symbols: int,
        build: Build,
        rngs: nnx.Rngs,
        *,
        segments: int,
        inputs: InputModule | None = None,
    ):
        """Makes encoder and head for rows of at most `segments` clips; `symbols` are without the blank."""
        self.encoder = Encoder(config, build, rngs, inputs)
        self.head_norm = make_norm(config, build.dtype, rngs)
        self.head = output_layer(config, symbols + 1, build.dtype, rngs)
        self.patches, self.segments, self.dropout_rate = config.patches, segments, config.dropout

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> StepScores:
        """Scores all steps; `key` turns dropout on."""
        encoder_key, head_key = split_key(key, 2)
        hidden_BTD = self.head_norm(self.encoder(batch, key=encoder_key))
        steps = find_steps(batch, self.patches, self.segments)
        x_BSKD = dropout(states_at(hidden_BTD, steps), self.dropout_rate, head_key)
        return StepScores(self.head(x_BSKD).astype(jnp.float32), steps.valid_BSK)


@jax.named_scope("ctc_loss")
def ctc_losses(scores: StepScores, labels_BSL: jax.Array) -> jax.Array:
    """Returns minus the log probability of the labels of each clip, f32 [B, S]; 0 where it has none.

    That is the sum over all ways to say them, with blanks between (Graves et al. 2006).

    Args:
      scores: of the steps.
      labels_BSL: numbers of symbols from 1; 0 after the last one.
    """
    logits_BSKV = scores.logits_BSKV
    flat = (-1, *logits_BSKV.shape[2:])
    labels_XL = labels_BSL.reshape(-1, labels_BSL.shape[-1])
    losses_X = optax.ctc_loss(
        logits_BSKV.reshape(flat),
        1.0 - scores.valid_BSK.reshape(-1, logits_BSKV.shape[2]).astype(jnp.float32),
        labels_XL,
        (labels_XL == BLANK).astype(jnp.float32),
        blank_id=BLANK,
    )
    return jnp.where(labels_XL[:, 0] != BLANK, losses_X, 0.0).reshape(labels_BSL.shape[:2])
