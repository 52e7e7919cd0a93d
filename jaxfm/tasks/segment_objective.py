"""What a classifier of images, or of clips of sound, minimises: classes of the segments of a row."""

# B batch, S segments (images or clips in a row), C classes

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.core.objective import Loss, LossContext
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.image_batches import Partner
from jaxfm.tasks.losses import (
    ClassLoss,
    LabelLoss,
    soft_cross_entropy,
    soft_cross_entropy_of_labels,
    symmetric_kl,
    symmetric_kl_of_labels,
    with_r_drop,
)


@dataclasses.dataclass(frozen=True)
class SegmentClassObjective:
    """A classifier of the segments of rows and its loss; a task says in `augmented` how training rows are changed.

    Attributes:
      spec: what is trained, with `kind`, `labels` and `segments`.
      class_loss: of kind "single".
      label_loss: of kind "multi".
      r_drop: weight of the disagreement of two passes; 0: one pass.
      augmentation: of training rows; None: none.
    """

    spec: Any
    class_loss: ClassLoss = ClassLoss()
    label_loss: LabelLoss = LabelLoss()
    r_drop: float = 0.0
    augmentation: Any = None

    whole_batch = False

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the kind, summed over segments (multi: over their labels), and "accuracy".

        Where rows are mixed, so are their losses: that of a row's own labels and that of the row it is mixed with.
        """
        return self.loss_and_logits(model, batch, context)[0]

    def loss_and_logits(
        self, model: Any, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Loss, jax.Array]:
        """Returns the loss, and the logits that it is of; with R-Drop those of the first pass."""
        seen, partner = self.augmented(model, batch, context)
        _, key = jax.random.split(context.key)
        labels, single = batch["labels"], self.spec.kind == "single"

        def target_loss(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
            one = self.class_loss if single else self.label_loss
            loss, weight = one(logits, labels)
            if partner is None:
                return loss, weight
            other, other_weight = one(logits, partner.labels_of(labels))
            share = partner.share(loss)
            return (1 - share) * loss + share * other, (1 - share) * weight + share * other_weight

        divergence = symmetric_kl if single else symmetric_kl_of_labels
        logits, loss, weight = with_r_drop(lambda one: model(seen, key=one), target_loss, divergence, key, self.r_drop)
        predicted = jnp.argmax(logits, axis=-1) if single else (logits > 0).astype(jnp.int32)
        accuracy = weighted(jnp.sum(predicted == labels), jnp.sum(labels >= 0))
        return Loss(loss.sum(), weight.sum(), {"accuracy": accuracy}), logits

    def augmented(
        self, model: Any, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Mapping[str, jax.Array], Partner | None]:
        """Returns a batch as it is changed at this step, and what its rows are mixed with; None: with nothing."""
        raise NotImplementedError

    def distillation_problem(self) -> str:
        """Returns "": classes and labels can be learned from another model."""
        return ""

    @property
    def draws(self) -> bool:
        """Whether rows are changed at each step."""
        return self.augmentation is not None

    def seen(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Mapping[str, jax.Array]:
        """Returns the batch as `loss` changes it: the teacher sees the same (Beyer et al. 2022, section 3)."""
        return self.augmented(model, batch, context)[0]

    def logits(self, model: Any, batch: Mapping[str, jax.Array], key: Any = None) -> jax.Array:
        """Returns the logits [B, S, C]; `key` turns dropout on."""
        return model(batch, key=key)

    def soft_loss(
        self, logits: jax.Array, teacher: jax.Array, batch: Mapping[str, jax.Array], temperature: float
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the sum over the batch's targets of how far the logits are from the teacher's, and the weight."""
        valid = batch["labels"] >= 0
        compare = soft_cross_entropy if self.spec.kind == "single" else soft_cross_entropy_of_labels
        return (compare(logits, teacher, temperature) * valid).sum(), valid.sum().astype(jnp.float32)

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and segment."""
        return self.spec.segments * len(self.spec.labels)
