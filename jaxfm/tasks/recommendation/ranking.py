"""The whole catalogue ranked for each user of a row: where the target stands, and what stands first."""

# B batch, T items of a row, S users of a row, D model, V catalogue with its padding, H seen items, K listed

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.data.text.masking import target_places
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.recommendation.spec import FIRST_ITEM, RecommendationSpec


def rank_items(
    model: MaskedLM, batch: Mapping[str, jax.Array], spec: RecommendationSpec, count: int
) -> dict[str, jax.Array]:
    """Returns the ranking of all items for each user of `AskedRows`, one user of every row at a time.

    "rank" f32 [B, S] of the target among all items that may be recommended: 1 and the number of those with a higher
    score, and half of those with the same score, so that a model that tells nothing apart gains nothing; 0 for a target
    that the catalogue does not have. "items" int32 [B, S, K] are the first ones (numbers in the catalogue), "scores"
    f32 [B, S, K] theirs (-inf where fewer may be recommended). "loss" f32 [B, S]: the target's negative log-probability
    over the catalogue, 0 where there is no target. Where a row has fewer users, all of it is unspecified.
    """
    users = min(spec.users_per_row, batch["labels"].shape[1])
    places_BS, targets_BS = target_places(batch["labels"], users)
    hidden_BSD = jnp.take_along_axis(model.hidden(batch), places_BS[..., None], axis=1)
    count = min(count, spec.items)

    def of_user(part: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, jax.Array]:
        hidden_BD, target_B, user = part
        logits_BV = model.logits(hidden_BD[:, None])[:, 0]
        places_V = jnp.arange(logits_BV.shape[1])
        logits_BV = jnp.where((places_V >= FIRST_ITEM) & (places_V < spec.encoder.vocab_size), logits_BV, -jnp.inf)
        wanted_B = jnp.maximum(target_B, FIRST_ITEM)
        score_B1 = jnp.take_along_axis(logits_BV, wanted_B[:, None], axis=1)
        loss_B = jax.nn.logsumexp(logits_BV, axis=1) - score_B1[:, 0]
        # What belongs to nobody, or to another user, lies outside and is dropped.
        hidden_BH = jnp.where(batch["seen_by"] == user, batch["seen"], logits_BV.shape[1])
        allowed_BV = jax.vmap(lambda row_V, seen_H: row_V.at[seen_H].set(-jnp.inf, mode="drop"))(logits_BV, hidden_BH)
        others_BV = (places_V[None] != wanted_B[:, None]) & (places_V >= FIRST_ITEM)
        higher_B = ((allowed_BV > score_B1) & others_BV).sum(axis=1)
        equal_B = ((allowed_BV == score_B1) & others_BV).sum(axis=1)
        known_B = target_B >= FIRST_ITEM
        scores_BK, items_BK = lax.top_k(allowed_BV, count)
        return {
            "rank": jnp.where(known_B, 1.0 + higher_B + 0.5 * equal_B, 0.0).astype(jnp.float32),
            "loss": jnp.where(known_B, loss_B, 0.0),
            "items": (items_BK - FIRST_ITEM).astype(jnp.int32),
            "scores": scores_BK,
        }

    found = lax.map(of_user, (jnp.moveaxis(hidden_BSD, 1, 0), targets_BS.T, jnp.arange(users)))
    return {name: jnp.moveaxis(value, 0, 1) for name, value in found.items()}
