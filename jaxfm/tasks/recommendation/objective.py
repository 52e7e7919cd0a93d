"""What a recommender minimises: the cross-entropy of items, over the catalogue or over drawn ones."""

# B batch, T items of a row, P predictions a row, K drawn items, D model

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text.masking import target_places
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.masked_predictions import chunked_losses
from jaxfm.tasks.next_tokens import next_token_targets
from jaxfm.tasks.recommendation.hidden_items import hide_items, most_hidden
from jaxfm.tasks.recommendation.ranking import rank_items
from jaxfm.tasks.recommendation.spec import (
    CAUSAL_METHOD,
    FIRST_ITEM,
    RecommendationConfig,
    RecommendationLossConfig,
    RecommendationSpec,
)

LISTED = 20  # items that scores look at


def gbce_losses(
    positive: jax.Array, negative: jax.Array, same: jax.Array, *, items: int, calibration: float
) -> jax.Array:
    """Returns the generalised binary cross-entropy [...] of a target and K drawn items (Petrov and Macdonald 2023).

    Args:
      positive: [...] score of the target.
      negative: [..., K] scores of the drawn items.
      same: [..., K] which of these are the target itself, and do not count.
      items: of the catalogue.
      calibration: t of equation 11: the power of the target's probability goes from 1 to the share of what is drawn.
    """
    drawn = negative.shape[-1]
    share = min(drawn / max(items - 1, 1), 1.0)
    power = share * (calibration * (1.0 - 1.0 / share) + 1.0 / share)
    others = jnp.where(same, 0.0, jax.nn.softplus(negative)).sum(axis=-1)
    return (power * jax.nn.softplus(-positive) + others) / (drawn + 1.0)


@dataclasses.dataclass(frozen=True)
class RecommendationObjective:
    """An encoder of histories that predicts items (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      hidden: shares of items that are hidden, of the masked method: `task.mask_ratio` and `task.last_share`.
      costs: what a prediction costs.
      logits_chunk: places of a row whose scores are in memory at once; 0: all.
    """

    spec: RecommendationSpec
    hidden: tuple[float, float] = (0.2, 0.2)
    costs: RecommendationLossConfig = RecommendationLossConfig()
    logits_chunk: int = 0

    whole_batch = False

    @classmethod
    def of(cls, spec: RecommendationSpec, task: RecommendationConfig) -> "RecommendationObjective":
        """Returns the objective that a config asks for."""
        return cls(spec, (task.mask_ratio, task.last_share), task.loss, task.logits_chunk)

    @property
    def places(self) -> int:
        """Items of a row that are predicted at most, P."""
        spec = self.spec
        return spec.row_length if spec.method == CAUSAL_METHOD else most_hidden(spec.row_length, self.hidden[0])

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The losses summed over all items but the first of each history, or over the hidden ones.

        Also their "accuracy" where the whole catalogue is scored.
        """
        hide_key, dropout_key, draw_key = jax.random.split(context.key, 3)
        if self.spec.method == CAUSAL_METHOD:
            targets_BP = next_token_targets(batch["tokens"], batch["segment_ids"])
            hidden_BPD = model.hidden(batch, key=dropout_key)
        else:
            ratio, last_share = self.hidden
            tokens_BT, labels_BT = hide_items(
                hide_key, batch["tokens"], batch["segment_ids"], ratio=ratio, last_share=last_share, limit=self.places
            )
            places_BP, targets_BP = target_places(labels_BT, self.places)
            hidden_BTD = model.hidden({**batch, "tokens": tokens_BT}, key=dropout_key)
            hidden_BPD = jnp.take_along_axis(hidden_BTD, places_BP[..., None], axis=1)
        if self.costs.kind == "gbce":
            return self._drawn_loss(model, hidden_BPD, targets_BP, draw_key)
        found = chunked_losses(model, hidden_BPD, targets_BP, self.logits_chunk)
        weight = found["weight"].sum()
        accuracy = weighted((found["right"] * found["weight"]).sum(), weight)
        return Loss(found["loss"].sum(), weight, {"accuracy": accuracy})

    def _drawn_loss(self, model: MaskedLM, hidden_BPD: jax.Array, targets_BP: jax.Array, key: jax.Array) -> Loss:
        """Drawn items are those of a row, the same for all of its places: their scores are one product."""
        loss = self.costs
        shape = (len(targets_BP), loss.negatives)
        drawn_BK = jax.random.randint(key, shape, FIRST_ITEM, FIRST_ITEM + self.spec.items)
        wanted_BP = jnp.maximum(targets_BP, FIRST_ITEM)
        loss_BP = gbce_losses(
            model.target_logits(hidden_BPD, wanted_BP),
            model.logits_of(hidden_BPD, drawn_BK),
            drawn_BK[:, None] == targets_BP[..., None],
            items=self.spec.items,
            calibration=loss.calibration,
        )
        weight_BP = (targets_BP >= 0).astype(jnp.float32)
        return Loss((loss_BP * weight_BP).sum(), weight_BP.sum(), {})

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the ranking of the catalogue for each user: see `rank_items`."""
        return rank_items(model, batch, self.spec, LISTED)

    def logits_per_row(self) -> float:
        """A number an item of the catalogue, or a drawn one, and place whose scores are in memory at once."""
        if self.costs.kind == "gbce":
            return float(self.places * (self.costs.negatives + 1))
        return float((min(self.logits_chunk, self.places) or self.places) * self.spec.encoder.vocab_size)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, and of the head at the predicted places."""
        spec = self.spec
        scored = spec.row_length if spec.method == CAUSAL_METHOD else spec.row_length * self.hidden[0]
        share = (self.costs.negatives + 1) / spec.encoder.vocab_size if self.costs.kind == "gbce" else 1.0
        head = scored * flops.vocabulary_head_flops(spec.encoder, adapt) * min(share, 1.0)
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + head
