"""What a model of hidden patches minimises."""

# B batch, T tokens, S segments (images in a row), V values of a patch

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.inputs.augmentation import Augmentation
from jaxfm.models.masked_images import hidden_patches, patch_statistics
from jaxfm.tasks.image_batches import augmented
from jaxfm.tasks.masked_images.spec import MaskedImagesSpec

# Of held-out rows: which patches are hidden is that of the least noise, drawn once. f32 [T].
NOISE = "noise"


@dataclasses.dataclass(frozen=True)
class MaskedImagesObjective:
    """A model of hidden patches and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      augmentation: of training images; None: none.
      pictures: outputs have the pixels as well, for a sheet of examples.
    """

    spec: MaskedImagesSpec
    augmentation: Augmentation | None = None
    pictures: bool = False

    whole_batch = False

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The squared error of a hidden patch, mean over its values, summed over hidden patches."""
        augment_key, mask_key, key = jax.random.split(context.key, 3)
        seen, _ = augmented(
            model.encoder.embeddings, batch, self.augmentation, augment_key, segments=self.spec.segments
        )
        hidden_BT = hidden_patches(seen, jax.random.uniform(mask_key, batch["segment_ids"].shape), self.spec.ratio)
        error_BT, _ = self._errors(model, seen, hidden_BT, key)
        return Loss((error_BT * hidden_BT).sum(), hidden_BT.sum().astype(jnp.float32), {})

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns of each image the sum of its errors and the number of its hidden patches, f32 and int32 [B, S].

        With `pictures` also "predicted", uint8 [B, T, V], and "hidden", bool [B, T].
        """
        hidden_BT = hidden_patches(batch, batch[NOISE], self.spec.ratio)
        error_BT, values_BTV = self._errors(model, batch, hidden_BT, None)
        of_BST = batch["segment_ids"][:, None, :] == jnp.arange(1, self.spec.segments + 1)[None, :, None]
        found = {
            "error": jnp.einsum("BST,BT->BS", of_BST.astype(jnp.float32), error_BT * hidden_BT, precision="highest"),
            "hidden_patches": (of_BST & hidden_BT[:, None, :]).sum(axis=-1, dtype=jnp.int32),
        }
        if self.pictures:
            found |= {"predicted": model.encoder.embeddings.denormalize(values_BTV), "hidden": hidden_BT}
        return found

    def _errors(
        self, model: Any, batch: Mapping[str, jax.Array], hidden_BT: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the mean squared error of each patch f32 [B, T], and the values that were predicted [B, T, V]."""
        inputs = model.encoder.embeddings
        target_BTV = batch["normalized"] if "normalized" in batch else inputs.normalize(batch["pixels"])
        predicted_BTV = model(batch, hidden_BT, key=key)
        if not self.spec.normalize_target:
            return jnp.square(predicted_BTV - target_BTV).mean(axis=-1), predicted_BTV
        mean, deviation = patch_statistics(target_BTV)
        error_BT = jnp.square(predicted_BTV - (target_BTV - mean) / deviation).mean(axis=-1)
        return error_BT, predicted_BTV * deviation + mean

    def logits_per_row(self) -> float:
        """The values of all patches."""
        return self.spec.row_length * self.spec.encoder.patches.values

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder at the visible tokens, of the decoder at all of them, and of the maps of patches."""
        spec, values = self.spec, self.spec.encoder.patches.values
        total = flops.patch_flops_per_row(spec.encoder, spec.visible, adapt)
        total += flops.encoder_flops_per_row(spec.encoder, spec.visible, adapt)
        if spec.method == "simmim":
            return total + spec.row_length * flops.dense_flops(spec.encoder.hidden_size, values)
        total += spec.visible * flops.dense_flops(spec.encoder.hidden_size, spec.decoder_size)
        total += flops.encoder_flops_per_row(spec.decoder, spec.row_length)
        return total + spec.row_length * flops.dense_flops(spec.decoder_size, values)
