"""What a classifier of images minimises."""

# B batch, S segments (images in a row), C classes

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.models.inputs.augmentation import Augmentation
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.image_batches import augmented
from jaxfm.tasks.image_classification.spec import ImageClassifierSpec
from jaxfm.tasks.losses import ClassLoss, LabelLoss, symmetric_kl, symmetric_kl_of_labels, with_r_drop


@dataclasses.dataclass(frozen=True)
class ImageClassifierObjective:
    """A classifier of images and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      class_loss: of kind "single".
      label_loss: of kind "multi".
      r_drop: weight of the disagreement of two passes; 0: one pass.
      augmentation: of training images; None: none.
    """

    spec: ImageClassifierSpec
    class_loss: ClassLoss = ClassLoss()
    label_loss: LabelLoss = LabelLoss()
    r_drop: float = 0.0
    augmentation: Augmentation | None = None

    whole_batch = False

    def loss(self, model: ImageClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the kind, summed over images (multi: over their labels), and "accuracy".

        Where images are mixed, so are their losses: that of a row's own labels and that of the row it is mixed with.
        """
        augment_key, key = jax.random.split(context.key)
        seen, partner = augmented(
            model.encoder.embeddings, batch, self.augmentation, augment_key, segments=self.spec.segments
        )
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
        return Loss(loss.sum(), weight.sum(), {"accuracy": accuracy})

    def outputs(self, model: ImageClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and image."""
        return self.spec.segments * len(self.spec.labels)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the map of patches, of the layers and of the head."""
        spec = self.spec
        vectors = 2 if spec.pooling == "cls_mean" else 1
        head = flops.dense_flops(vectors * spec.encoder.hidden_size, len(spec.labels))
        patches = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        return patches + flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.segments * head
