"""What a classifier of related entities minimises."""

# B batch, S segments (pairs in a row), C classes

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.heads import PairClassifier, SequenceClassifier
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.losses import ClassLoss, symmetric_kl, with_r_drop
from jaxfm.tasks.relations.spec import NONE, RelationSpec


@dataclasses.dataclass(frozen=True)
class RelationObjective:
    """A classifier of pairs and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      class_loss: of each pair.
      r_drop: weight of the disagreement of two passes; 0: one pass.
    """

    spec: RelationSpec
    class_loss: ClassLoss = ClassLoss()
    r_drop: float = 0.0

    whole_batch = False

    def loss(
        self, model: PairClassifier | SequenceClassifier, batch: Mapping[str, jax.Array], context: LossContext
    ) -> Loss:
        """Cross-entropy summed over the pairs of the batch, the same all through a run; also "accuracy" over pairs."""
        labels_BS = batch["labels"]
        logits_BSC, loss_BS, weight_BS = with_r_drop(
            lambda key: model(batch, key=key),
            lambda logits_BSC: self.class_loss(logits_BSC, labels_BS),
            symmetric_kl,
            context.key,
            self.r_drop,
        )
        right = jnp.sum(jnp.argmax(logits_BSC, axis=-1) == labels_BS)
        return Loss(loss_BS.sum(), weight_BS.sum(), {"accuracy": weighted(right, jnp.sum(labels_BS >= 0))})

    def fixed_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns False for all [B, T]: a relation holds between entities of whatever names, and markers stay."""
        return jnp.zeros(batch["tokens"].shape, bool)

    def mixup_problem(self) -> str:
        """Returns why pairs cannot be mixed."""
        return "two examples have their entities at other places"

    def outputs(
        self, model: PairClassifier | SequenceClassifier, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and segment."""
        return self.spec.segments * len(self.spec.labels)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the head, which scores every segment that a row may have."""
        spec = self.spec
        if spec.markers == NONE:
            head = flops.sequence_head_flops(spec.encoder, len(spec.labels), "cls", adapt)
        else:
            head = flops.pair_head_flops(spec.encoder, len(spec.labels), adapt)
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.segments * head
