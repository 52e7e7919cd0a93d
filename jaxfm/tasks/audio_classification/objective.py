"""What a classifier of clips minimises."""

import dataclasses
from collections.abc import Mapping

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import LossContext
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.models import flops
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation
from jaxfm.models.sound_classifier import SoundClassifier
from jaxfm.tasks.audio_classification.spec import AudioClassifierSpec
from jaxfm.tasks.segment_objective import SegmentClassObjective
from jaxfm.tasks.sound_rows import changed_batch


@dataclasses.dataclass(frozen=True)
class AudioClassifierObjective(SegmentClassObjective):
    """A classifier of clips and its loss (implements jaxfm.core.objective.Objective)."""

    spec: AudioClassifierSpec
    augmentation: SoundAugmentation | None = None

    def augmented(
        self, model: SoundClassifier, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Mapping[str, jax.Array], None]:
        """Returns a batch with the patches of changed clips; see `SegmentClassObjective.augmented`."""
        key, _ = jax.random.split(context.key)
        return changed_batch(model.encoder.embeddings, batch, self.augmentation, key, self.spec.segments), None

    def of_teacher(self, spec: Spec | None, encoder: EncoderConfig) -> "AudioClassifierObjective":
        """Returns the objective of a teacher with the classes and the rows of this one.

        Raises UserError for a teacher of another kind, or that reads sound otherwise.
        """
        own = self.spec
        known = own if spec is None else spec
        if not isinstance(known, AudioClassifierSpec) or known.kind != own.kind:
            kind = known.kind if isinstance(known, AudioClassifierSpec) else "another task"
            raise UserError(f"is of {kind!r}, but this run is of {own.kind!r} (config.task.kind)")
        if (known.layout, known.encoder.patches) != (own.layout, own.encoder.patches):
            raise UserError(f"reads sound as {known.layout}, but this run as {own.layout}, or in other patches")
        read = dataclasses.replace(own, encoder=encoder, pooling=known.pooling)
        return dataclasses.replace(self, spec=read, r_drop=0.0, augmentation=None)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the map of patches, of the layers and of the head; frames are not counted."""
        spec = self.spec
        head = flops.dense_flops(spec.encoder.hidden_size, len(spec.labels))
        patches = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        return patches + flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.segments * head
