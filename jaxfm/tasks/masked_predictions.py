"""What a model with a vocabulary head predicts at masked positions, and the loss of each prediction."""

# B batch, T tokens, P masked positions a row, C positions a chunk, D model, V vocabulary

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text import masking


def predict(
    model: Any, batch: Mapping[str, jax.Array], limit: int, key: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Returns "place" and "target" [B, P] of the first `limit` labelled tokens of each row, and "logits" [B, P, V].

    `model` has `hidden` and `logits` as MaskedLM; the vocabulary is scored only at these positions.
    """
    targets, hidden_BPD = _hidden_at_targets(model, batch, limit, key)
    return {**targets, "logits": model.logits(hidden_BPD)}


def token_losses(predicted: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns arrays [B, P] that compare what `predict` gives with the targets; weight 0 where there is no target."""
    losses = _losses(predicted["logits"], predicted["target"])
    return {"place": predicted["place"], "target": predicted["target"], **losses}


def masked_token_losses(
    model: Any, batch: Mapping[str, jax.Array], limit: int, key: jax.Array | None = None, *, chunk: int = 0
) -> dict[str, jax.Array]:
    """Returns `token_losses` of `predict`, with the logits of at most `chunk` positions of a row in memory (0: all).

    Logits are the largest array of a step: [B, P, V] in f32, and their gradient once more. In chunks, each chunk's are
    computed again in the backward pass, a third more work for the head. The losses are the same.
    """
    targets, hidden_BPD = _hidden_at_targets(model, batch, limit, key)
    return targets | chunked_losses(model, hidden_BPD, targets["target"], chunk)


def chunked_losses(model: Any, hidden_BPD: jax.Array, targets_BP: jax.Array, chunk: int) -> dict[str, jax.Array]:
    """Returns arrays [B, P] that compare what hidden states predict with targets (-1: none, its weight is 0).

    The logits of at most `chunk` positions of a row are in memory (0: of all); see `masked_token_losses`.
    """
    limit = targets_BP.shape[1]
    if not 0 < chunk < limit:
        return _losses(model.logits(hidden_BPD), targets_BP)
    padding = -limit % chunk
    targets_BP = jnp.pad(targets_BP, ((0, 0), (0, padding)), constant_values=-1)
    hidden_BPD = jnp.pad(hidden_BPD, ((0, 0), (0, padding), (0, 0)))

    def in_chunks(x_BP: jax.Array) -> jax.Array:
        return jnp.moveaxis(x_BP.reshape(len(x_BP), -1, chunk, *x_BP.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(part: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        hidden_BCD, targets_BC = part
        return _losses(model.logits(hidden_BCD), targets_BC)

    losses = lax.map(one, (in_chunks(hidden_BPD), in_chunks(targets_BP)))
    return {name: jnp.moveaxis(x, 0, 1).reshape(len(x[0]), -1)[:, :limit] for name, x in losses.items()}


def _hidden_at_targets(
    model: Any, batch: Mapping[str, jax.Array], limit: int, key: jax.Array | None
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns "place" and "target" [B, P], and the hidden states at these positions [B, P, D]."""
    places_BP, targets_BP = masking.target_places(batch["labels"], limit)
    hidden_BPD = jnp.take_along_axis(model.hidden(batch, key=key), places_BP[..., None], axis=1)
    return {"place": places_BP.astype(jnp.int32), "target": targets_BP}, hidden_BPD


def _losses(logits_BPV: jax.Array, targets_BP: jax.Array) -> dict[str, jax.Array]:
    weight_BP = (targets_BP >= 0).astype(jnp.float32)
    log_z_BP = jax.nn.logsumexp(logits_BPV, axis=-1)
    wanted_BP = jnp.take_along_axis(logits_BPV, jnp.maximum(targets_BP, 0)[..., None], axis=-1)[..., 0]
    predicted_BP = jnp.argmax(logits_BPV, axis=-1).astype(jnp.int32)
    return {
        "predicted": predicted_BP,
        "right": (predicted_BP == targets_BP).astype(jnp.float32),
        "weight": weight_BP,
        "log_z": log_z_BP,
        "loss": (log_z_BP - wanted_BP) * weight_BP,
    }
