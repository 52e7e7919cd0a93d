"""What a recogniser of speech minimises."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.ctc import BLANK, ctc_losses
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation
from jaxfm.models.sound_steps import StepClassifier
from jaxfm.tasks.sound_rows import changed_batch
from jaxfm.tasks.speech_recognition.spec import SpeechRecognizerSpec


@dataclasses.dataclass(frozen=True)
class SpeechRecognizerObjective:
    """A recogniser and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      augmentation: of training clips; None: none.
    """

    spec: SpeechRecognizerSpec
    augmentation: SoundAugmentation | None = None

    whole_batch = False

    def loss(self, model: StepClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Minus the log probability of the transcripts, and as the weight their symbols."""
        augment_key, key = jax.random.split(context.key)
        seen = changed_batch(model.encoder.embeddings, batch, self.augmentation, augment_key, self.spec.segments)
        losses = ctc_losses(model(seen, key=key), batch["labels"])
        return Loss(losses.sum(), (batch["labels"] != BLANK).sum().astype(jnp.float32), {})

    def outputs(self, model: StepClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `candidates` of the spec, and "loss" f32 [B, S] of the transcripts of clips."""
        scores = model(batch)
        return {**self.spec.candidates(scores), "loss": ctc_losses(scores, batch["labels"])}

    def logits_per_row(self) -> float:
        """A number a symbol and step."""
        return self.spec.segments * self.spec.encoder.patches.grid[1] * (len(self.spec.symbols) + 1)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the map of patches, of the layers and of the head; frames and the loss are not counted."""
        spec = self.spec
        head = flops.dense_flops(spec.encoder.hidden_size, len(spec.symbols) + 1)
        total = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        total += flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return total + spec.segments * spec.encoder.patches.grid[1] * head
