"""Next-token prediction: the targets of packed rows, and the loss of each (Radford et al. 2018, equation 1)."""

# B batch, T tokens

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.errors import UserError
from jaxfm.tasks.masked_predictions import chunked_losses


def check_causal(encoder: EncoderConfig, advice: str) -> None:
    """Raises UserError, which begins with `advice`, for an encoder that tells a token of later ones in other ways."""
    if encoder.token_dropout_id >= 0:
        raise UserError(
            f"{advice}: {encoder.family} rescales all embeddings of a text by the number of masks in it, so that a "
            "token would know of later ones."
        )


def next_token_targets(tokens_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    """Returns for each token the one after it in its segment, int32 [B, T]; -1 at a segment's last and on padding."""

    def after(values_BT: jax.Array) -> jax.Array:
        return jnp.pad(values_BT[:, 1:], ((0, 0), (0, 1)))

    continues_BT = (segment_ids_BT > 0) & (after(segment_ids_BT) == segment_ids_BT)
    return jnp.where(continues_BT, after(tokens_BT), -1)


def next_token_losses(
    model: Any, batch: Mapping[str, jax.Array], key: jax.Array | None = None, *, chunk: int = 0
) -> dict[str, jax.Array]:
    """Returns arrays [B, T] that compare what each token predicts of the next one with it: all tokens are targets.

    "target" (-1: none), "predicted", "loss", "weight" (0 where there is no target) and more, see `chunked_losses`. The
    model sees no token after the one that predicts, whatever its encoder usually sees.

    Args:
      model: has `hidden` and `logits` as models.heads.MaskedLM.
      batch: packed text.
      key: turns dropout on.
      chunk: positions of a row whose logits are in memory at once; 0: all.
    """
    targets_BT = next_token_targets(batch["tokens"], batch["segment_ids"])
    hidden_BTD = model.hidden(batch, key=key, sight=CAUSAL)
    return {"target": targets_BT, **chunked_losses(model, hidden_BTD, targets_BT, chunk)}


def next_token_logits(vocabulary: int, row_length: int, chunk: int) -> float:
    """Returns how many numbers the logits of a row are that are in memory at once."""
    return float(vocabulary * (min(chunk, row_length) or row_length))
