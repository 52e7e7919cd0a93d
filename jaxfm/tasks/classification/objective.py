"""What a classifier minimises."""

# B batch, S segments (examples in a row), C classes

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.grown_head import taught_labels
from jaxfm.core.objective import Loss, LossContext
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.models import flops
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.tasks.classification.few_labels import LINEAR
from jaxfm.tasks.classification.spec import ClassifierSpec, valid_segments
from jaxfm.tasks.losses import (
    ClassLoss,
    LabelLoss,
    soft_cross_entropy,
    soft_cross_entropy_of_labels,
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

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the kind, summed over examples (multi: over their labels); but for numbers also "accuracy"."""
        return self.loss_and_logits(model, batch, context)[0]

    def loss_and_logits(
        self, model: Any, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Loss, jax.Array]:
        """Returns the loss, and the logits that it is of; with R-Drop those of the first pass."""
        kind, labels = self.spec.kind, batch["labels"]

        def apply(key: jax.Array) -> jax.Array:
            return self.logits(model, batch, key)

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
        return Loss(loss.sum(), weight.sum(), sums), outputs

    draws = False

    def seen(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Mapping[str, jax.Array]:
        """Returns the batch: nothing of it is drawn."""
        del model, context
        return batch

    def of_teacher(self, spec: Spec | None, encoder: EncoderConfig) -> "ClassifierObjective":
        """Returns the objective of a teacher with the classes and the rows of this one.

        Raises UserError for a teacher of another kind.
        """
        own = self.spec
        known = own if spec is None else spec
        if not isinstance(known, ClassifierSpec) or known.kind != own.kind:
            kind = known.kind if isinstance(known, ClassifierSpec) else "another task"
            raise UserError(f"is of {kind!r}, but this run is of {own.kind!r} (config.task.kind)")
        if known.prompt != own.prompt:
            raise UserError("reads its texts in another pattern, or none (config.task.prompt)")
        form: dict[str, Any] = {"pooling": known.pooling, "head": known.head, "normalize": known.normalize}
        form["labels"] = taught_labels(known.labels, own.labels)
        return dataclasses.replace(self, spec=dataclasses.replace(own, encoder=encoder, **form), r_drop=0.0)

    def distillation_problem(self) -> str:
        """Returns "": classes, labels and numbers can all be learned from another model."""
        return ""

    def logits(self, model: Any, batch: Mapping[str, jax.Array], key: Any = None) -> jax.Array:
        """Returns the logits [B, S, C], numbers of regression [B, S]; `key` turns dropout on."""
        outputs_BSC = model(batch, key=key)
        return outputs_BSC[..., 0] if self.spec.kind == "regression" else outputs_BSC

    def soft_loss(
        self, logits: jax.Array, teacher: jax.Array, batch: Mapping[str, jax.Array], temperature: float
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the sum over the targets of the batch of how far the logits are from the teacher's, and the weight.

        Numbers are compared by their squared difference, which has no temperature.
        """
        valid = batch["labels"] >= 0
        if self.spec.kind != "regression":  # a teacher may know the first classes alone
            logits = logits[..., : teacher.shape[-1]]
            valid = valid[..., : teacher.shape[-1]] if self.spec.kind == "multi" else valid
        if self.spec.kind == "regression":
            loss, valid = squared_difference(logits, teacher), valid_segments(batch["segment_ids"], self.spec.segments)
        elif self.spec.kind == "multi":
            loss = soft_cross_entropy_of_labels(logits, teacher, temperature)
        else:
            loss = soft_cross_entropy(logits, teacher, temperature)
        return (loss * valid).sum(), valid.sum().astype(jnp.float32)

    def fixed_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns False for all [B, T]: targets are about texts as a whole."""
        return jnp.zeros(batch["tokens"].shape, bool)

    def mixup_problem(self) -> str:
        """Returns why R-Drop, which computes the layers twice, and patterns, whose mask has one place, are refused."""
        if self.spec.prompt.pattern:
            return "config.task.prompt.pattern is set, and the masks of two rows do not lie in one place"
        return f"config.task.loss.r_drop is {self.r_drop:g}, for which layers are computed twice" if self.r_drop else ""

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and segment."""
        return self.spec.segments * len(self.spec.labels)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the head, which scores every segment that a row may have."""
        spec = self.spec
        if spec.prompt.pattern:
            head = flops.prompted_head_flops(spec.encoder, len(spec.prompt.words), adapt)
        else:
            linear = spec.head == LINEAR
            head = flops.sequence_head_flops(spec.encoder, len(spec.labels), spec.pooling, adapt, linear=linear)
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.segments * head
