"""The loss of transcripts whose symbols have no known times (CTC, Graves et al. 2006)."""

# B batch, S segments (clips in a row), K steps of a clip, L symbols of a transcript, V symbols and the blank

import jax
import jax.numpy as jnp
import optax

from jaxfm.models.sound_steps import StepScores

BLANK = 0


@jax.named_scope("ctc_loss")
def ctc_losses(scores: StepScores, labels_BSL: jax.Array) -> jax.Array:
    """Returns minus the log probability of the labels of each clip, f32 [B, S]; 0 where it has none.

    That is the sum over all ways to say them, with blanks between (Graves et al. 2006).

    Args:
      scores: of the steps.
      labels_BSL: numbers of symbols from 1; 0 after the last one.
    """
    logits_BSKV = scores.logits_BSKC
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
