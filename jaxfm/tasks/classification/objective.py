"""What a classifier minimises."""

# B batch, S segments (examples in a row), C classes

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.heads import SequenceClassifier
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.tasks.classification.spec import ClassifierSpec, valid_segments
from jaxfm.tasks.losses import (
    ClassLoss,
    LabelLoss,
    squared_difference,
    squared_error,
    symmetric_kl,
    symmetric_kl_of_labels,
    with_r_drop,
)


@dataclasses.dataclass(frozen=True)
class ClassifierObjective:
    """A classifier and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      class_loss: of kind "single".
      label_loss: of kind "multi".
      r_drop: weight of the disagreement of two passes; 0: one pass.
    """

    spec: ClassifierSpec
    class_loss: ClassLoss = ClassLoss()
    label_loss: LabelLoss = LabelLoss()
    r_drop: float = 0.0

    whole_batch = False

    def loss(self, model: SequenceClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the kind, summed over examples (multi: over their labels); but for numbers also "accuracy"."""
        kind, labels = self.spec.kind, batch["labels"]

        def apply(key: jax.Array) -> jax.Array:
            outputs_BSC = model(batch, key=key)
            return outputs_BSC[..., 0] if kind == "regression" else outputs_BSC

        def target_loss(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            if kind == "regression":
                return squared_error(outputs, labels, valid_segments(batch["segment_ids"], self.spec.segments))
            return self.class_loss(outputs, labels) if kind == "single" else self.label_loss(outputs, labels)

        divergences = {"single": symmetric_kl, "multi": symmetric_kl_of_labels, "regression": squared_difference}
        outputs, loss, weight = with_r_drop(apply, target_loss, divergences[kind], context.key, self.r_drop)
        sums: Sums = {}
        if kind != "regression":
            predicted = jnp.argmax(outputs, axis=-1) if kind == "single" else (outputs > 0).astype(jnp.int32)
            sums["accuracy"] = weighted(jnp.sum(predicted == labels), jnp.sum(labels >= 0))
        return Loss(loss.sum(), weight.sum(), sums)

    def outputs(self, model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and segment."""
        return self.spec.segments * len(self.spec.labels)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the head, which scores every segment that a row may have."""
        spec = self.spec
        head = flops.sequence_head_flops(spec.encoder, len(spec.labels), spec.pooling, adapt)
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.segments * head
