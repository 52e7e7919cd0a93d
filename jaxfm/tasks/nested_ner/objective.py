"""What a span classifier minimises."""

# B batch, T tokens, K widths, C classes

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.word_spans import WordSpanClassifier
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.losses import ClassLoss, symmetric_kl, with_r_drop
from jaxfm.tasks.nested_ner.spec import NestedNerSpec


@dataclasses.dataclass(frozen=True)
class NestedNerObjective:
    """A span classifier and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      class_loss: of each span.
      r_drop: weight of the disagreement of two passes; 0: one pass.
    """

    spec: NestedNerSpec
    class_loss: ClassLoss = ClassLoss()
    r_drop: float = 0.0

    whole_batch = False

    def loss(self, model: WordSpanClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy summed over the spans that windows own, those of no entity too; "accuracy" over these."""
        labels_BTK = batch["labels"]
        logits_BTKC, loss, weight = with_r_drop(
            lambda key: model(batch, key=key),
            lambda logits: self.class_loss(logits, labels_BTK),
            symmetric_kl,
            context.key,
            self.r_drop,
        )
        right = jnp.sum(jnp.argmax(logits_BTKC, axis=-1) == labels_BTK)
        return Loss(loss.sum(), weight.sum(), {"accuracy": weighted(right, jnp.sum(labels_BTK >= 0))})

    def outputs(self, model: WordSpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and span."""
        return self.spec.row_length * self.spec.max_width * len(self.spec.labels)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, of both ends of spans and of the last layer, which scores every span."""
        spec = self.spec
        ends = 2 * flops.dense_flops(spec.encoder.hidden_size, spec.span_size, input_gradient=adapt.train != "head")
        spans = spec.max_width * flops.dense_flops(spec.span_size, len(spec.labels))
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.row_length * (ends + spans)
