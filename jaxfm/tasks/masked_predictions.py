"""What an encoder with a vocabulary head guesses at hidden places, and how far off it is."""

# B batch, T tokens, P places (of hidden tokens, a row), C places at once, D model, V vocabulary

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text import masking


def guess(model: Any, batch: Mapping[str, jax.Array], limit: int, key: jax.Array | None = None) -> dict[str, jax.Array]:
    """Returns "place" and "target" [B, P] of the first `limit` labelled tokens of each row, and "logits" [B, P, V].

    `model` has `hidden` and `logits` as MaskedLM; the vocabulary is seen only at these places.
    """
    there, hidden_BPD = _at_places(model, batch, limit, key)
    return {**there, "logits": model.logits(hidden_BPD)}


def compare(guessed: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns arrays [B, P] that say how far what was guessed is from the targets; weight 0 where there is none."""
    return {"place": guessed["place"], "target": guessed["target"], **_far_off(guessed["logits"], guessed["target"])}


def masked_token_losses(
    model: Any, batch: Mapping[str, jax.Array], limit: int, key: jax.Array | None = None, *, at_once: int = 0
) -> dict[str, jax.Array]:
    """Returns `compare` of `guess`, with the logits of no more than `at_once` places of a row in memory (0: of all).

    Logits are the largest array of a step: [B, P, V] in f32, and their gradient once more. In parts, each part's are
    computed again in the backward pass, a third more work for the head. The losses are the same.
    """
    if not 0 < at_once < limit:
        return compare(guess(model, batch, limit, key))
    there, hidden_BPD = _at_places(model, batch, limit, key)
    padding = -limit % at_once
    targets_BP = jnp.pad(there["target"], ((0, 0), (0, padding)), constant_values=-1)
    hidden_BPD = jnp.pad(hidden_BPD, ((0, 0), (0, padding), (0, 0)))

    def in_parts(x_BP: jax.Array) -> jax.Array:
        return jnp.moveaxis(x_BP.reshape(len(x_BP), -1, at_once, *x_BP.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(part: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        hidden_BCD, targets_BC = part
        return _far_off(model.logits(hidden_BCD), targets_BC)

    found = lax.map(one, (in_parts(hidden_BPD), in_parts(targets_BP)))
    return there | {name: jnp.moveaxis(x, 0, 1).reshape(len(x[0]), -1)[:, :limit] for name, x in found.items()}


def _at_places(
    model: Any, batch: Mapping[str, jax.Array], limit: int, key: jax.Array | None
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Returns "place" and "target" [B, P], and the hidden states there [B, P, D]."""
    places_BP, targets_BP = masking.target_places(batch["labels"], limit)
    hidden_BPD = jnp.take_along_axis(model.hidden(batch, key=key), places_BP[..., None], axis=1)
    return {"place": places_BP.astype(jnp.int32), "target": targets_BP}, hidden_BPD


def _far_off(logits_BPV: jax.Array, targets_BP: jax.Array) -> dict[str, jax.Array]:
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
