"""What a model that makes images minimises, and what is computed of held-out images."""

# B batch, T tokens, S segments (images in a row), P cells of a row

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.held_out import outputs_by_role
from jaxfm.tasks.image_generation.making import drop_classes, make_images, mask_codes
from jaxfm.tasks.image_generation.rows import MASKED
from jaxfm.tasks.image_generation.spec import ImageGenerationSpec
from jaxfm.tasks.masked_predictions import masked_token_losses
from jaxfm.tasks.unmasking import with_masks
from jaxfm.tasks.written import Written, per_segment


@dataclasses.dataclass(frozen=True)
class ImageGenerationObjective:
    """A model of codes, and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      class_dropout: share of the images whose class the model is not told.
    """

    spec: ImageGenerationSpec
    class_dropout: float = 0.0

    whole_batch = False

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy of the codes masked at this step, summed; its weight is their number."""
        mask_key, drop_key, dropout_key = jax.random.split(context.key, 3)
        seen, masked_BT = mask_codes(mask_key, batch, self.spec)
        if self.class_dropout:
            seen = drop_classes(drop_key, seen, self.spec, self.class_dropout)
        found = masked_token_losses(model, seen, self.spec.segments * self.spec.cells, dropout_key)
        masks = masked_BT.sum().astype(jnp.float32)
        codes = (batch["labels"] >= 0).sum().astype(jnp.float32)
        right = (found["right"] * found["weight"]).sum()
        return Loss(
            found["loss"].sum(), masks, {"accuracy": weighted(right, masks), "masked_share": weighted(masks, codes)}
        )

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns of each image what the rows of `tasks.held_out.HeldOut` are for, see `outputs_by_role`."""
        scored, make = functools.partial(self.scored, model), functools.partial(self.make, model)
        return outputs_by_role(batch, self.spec.segments, self.spec.cells, scored, make)

    def scored(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns sums over the masked codes of each image, f32 [B, S]: "loss", "right", "weight" (their number)."""
        spec = self.spec
        masked_BT = (batch["labels"] >= 0) & (batch[MASKED] == 1)
        seen = with_masks(batch, masked_BT, spec.mask)
        found = masked_token_losses(model, seen, spec.segments * spec.cells)
        segment_BT = jnp.where(masked_BT, batch["segment_ids"] - 1, -1)
        segment_BP = jnp.where(found["weight"] > 0, jnp.take_along_axis(segment_BT, found["place"], axis=1), -1)
        each = {"loss": found["loss"], "right": found["right"], "weight": found["weight"], "count": found["weight"]}
        return {name: per_segment(segment_BP, x_BP, spec.segments, jnp.sum, 0) for name, x_BP in each.items()}

    def make(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> Written:
        """Makes the images of rows of `rows.blank_rows`, as the spec says."""
        return make_images(model, batch, self.spec, self.spec.unmasking)

    def logits_per_row(self) -> float:
        """A number a token of the vocabulary and cell."""
        return float(self.spec.segments * self.spec.cells) * self.spec.tokens

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, and of the head at the cells."""
        spec = self.spec
        encoder = flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return encoder + spec.segments * spec.cells * flops.vocabulary_head_flops(spec.encoder, adapt)
