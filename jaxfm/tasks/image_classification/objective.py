"""What a classifier of images minimises."""

import dataclasses
from collections.abc import Mapping

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import LossContext
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.models import flops
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.models.inputs.augmentation import Augmentation
from jaxfm.tasks.image_batches import Partner, augmented
from jaxfm.tasks.image_classification.spec import ImageClassifierSpec
from jaxfm.tasks.segment_objective import SegmentClassObjective


@dataclasses.dataclass(frozen=True)
class ImageClassifierObjective(SegmentClassObjective):
    """A classifier of images and its loss (implements jaxfm.core.objective.Objective)."""

    spec: ImageClassifierSpec
    augmentation: Augmentation | None = None

    def augmented(
        self, model: ImageClassifier, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Mapping[str, jax.Array], Partner | None]:
        """See `SegmentClassObjective.augmented`."""
        key, _ = jax.random.split(context.key)
        return augmented(model.encoder.embeddings, batch, self.augmentation, key, segments=self.spec.segments)

    def of_teacher(self, spec: Spec | None, encoder: EncoderConfig) -> "ImageClassifierObjective":
        """Returns the objective of a teacher with the classes and the rows of this one.

        Raises UserError for a teacher of another kind, or that reads images otherwise.
        """
        own = self.spec
        known = own if spec is None else spec
        if not isinstance(known, ImageClassifierSpec) or known.kind != own.kind:
            kind = known.kind if isinstance(known, ImageClassifierSpec) else "another task"
            raise UserError(f"is of {kind!r}, but this run is of {own.kind!r} (config.task.kind)")
        if known.layout != own.layout:
            raise UserError(f"reads images as {known.layout}, but this run as {own.layout}")
        read = dataclasses.replace(own, encoder=encoder, pooling=known.pooling)
        return dataclasses.replace(self, spec=read, r_drop=0.0, augmentation=None)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the map of patches, of the layers and of the head."""
        spec = self.spec
        vectors = 2 if spec.pooling == "cls_mean" else 1
        head = flops.dense_flops(vectors * spec.encoder.hidden_size, len(spec.labels))
        patches = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        return patches + flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.segments * head
