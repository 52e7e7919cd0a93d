"""What a model of hidden sound minimises."""

# B batch, T tokens, S segments (clips in a row), K steps of a clip, C clusters

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.inputs.patches import HIDDEN
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation
from jaxfm.models.sound_steps import StepClassifier, Steps, find_steps, of_tokens
from jaxfm.models.span_masks import draw_spans, hidden_steps
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.masked_sound.spec import MASKED, MaskedSoundSpec
from jaxfm.tasks.sound_rows import changed_batch


@dataclasses.dataclass(frozen=True)
class MaskedSoundObjective:
    """A model of hidden sound and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      augmentation: of training clips, without shifts; None: none.
    """

    spec: MaskedSoundSpec
    augmentation: SoundAugmentation | None = None

    whole_batch = False

    def loss(self, model: StepClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The cross-entropy of the clusters of hidden steps, and "accuracy" (Hsu et al. 2021: alpha is 1)."""
        augment_key, mask_key, key = jax.random.split(context.key, 3)
        spec, steps = self.spec, self._steps(batch)
        seen = changed_batch(model.encoder.embeddings, batch, self.augmentation, augment_key, spec.segments)
        draws = draw_spans(mask_key, steps.valid_BSK.shape)
        hidden_BSK = hidden_steps(draws, steps.valid_BSK, starts=spec.starts, length=spec.length)
        losses_BSK, right_BSK = self._scores(model, seen, steps, hidden_BSK, key)
        count = hidden_BSK.sum()
        accuracy = weighted((right_BSK & hidden_BSK).sum(), count)
        return Loss((losses_BSK * hidden_BSK).sum(), count.astype(jnp.float32), {"accuracy": accuracy})

    def outputs(self, model: StepClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns of each clip the "loss" f32 [B, S], summed over hidden steps, and "right", "hidden" int32 [B, S].

        The latter are numbers of hidden steps: whose cluster is found, and all.
        """
        steps = self._steps(batch)
        hidden_BSK = (_at(batch[MASKED], steps) > 0) & steps.valid_BSK
        losses_BSK, right_BSK = self._scores(model, batch, steps, hidden_BSK, None)
        return {
            "loss": (losses_BSK * hidden_BSK).sum(axis=-1),
            "right": (right_BSK & hidden_BSK).sum(axis=-1, dtype=jnp.int32),
            "hidden": hidden_BSK.sum(axis=-1, dtype=jnp.int32),
        }

    def _steps(self, batch: Mapping[str, jax.Array]) -> Steps:
        return find_steps(batch, self.spec.encoder.patches, self.spec.segments)

    def _scores(
        self,
        model: StepClassifier,
        batch: Mapping[str, jax.Array],
        steps: Steps,
        hidden_BSK: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the cross-entropy of each step, and whether its likeliest cluster is its own [B, S, K]."""
        hidden_BT = of_tokens(hidden_BSK, batch) & (batch["cells"][..., 0] >= 0) & (batch["segment_ids"] > 0)
        logits_BSKC = model({**batch, HIDDEN: hidden_BT}, key=key).logits_BSKC
        labels_BSK = jnp.maximum(_at(batch["labels"], steps), 0)
        own_BSK1 = jnp.take_along_axis(jax.nn.log_softmax(logits_BSKC), labels_BSK[..., None], axis=-1)
        return -own_BSK1[..., 0], jnp.argmax(logits_BSKC, axis=-1) == labels_BSK

    def logits_per_row(self) -> float:
        """A number a cluster and step."""
        return self.spec.segments * self.spec.encoder.patches.grid[1] * self.spec.clusters

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the map of patches, of the layers and of the head; frames are not counted."""
        spec = self.spec
        head = flops.dense_flops(spec.encoder.hidden_size, spec.clusters)
        total = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        total += flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return total + spec.segments * spec.encoder.patches.grid[1] * head


def _at(values_BT: jax.Array, steps: Steps) -> jax.Array:
    """Returns the value of each step [B, S, K] of those of tokens: that of its first patch."""
    index_BSK = steps.tokens_BSKR[..., 0]
    found_BX = jnp.take_along_axis(values_BT, index_BSK.reshape(len(values_BT), -1), axis=1)
    return found_BX.reshape(index_BSK.shape)
