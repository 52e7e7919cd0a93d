"""What two towers minimise."""

# B batch, n pairs of the batch, E vectors

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.inputs.augmentation import Augmentation
from jaxfm.models.two_towers import TwoTowers
from jaxfm.parallel.mesh import constrain
from jaxfm.tasks.image_batches import augmented
from jaxfm.tasks.image_text.spec import NUMBERS, ImageTextSpec
from jaxfm.tasks.text_groups.losses import info_nce, sigmoid


@dataclasses.dataclass(frozen=True)
class ImageTextObjective:
    """Two towers and their loss (implements jaxfm.core.objective.WholeBatchObjective).

    Attributes:
      spec: what is trained.
      augmentation: of training images; None: none.
    """

    spec: ImageTextSpec
    augmentation: Augmentation | None = None

    whole_batch = True

    def loss(self, model: TwoTowers, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the similarities of all images and texts of the batch, over all devices and hosts."""
        return self.compare(model, self.embed(model, batch, context.key), batch, context)

    def embed(self, model: TwoTowers, batch: Mapping[str, jax.Array], key: DropoutKey) -> tuple[jax.Array, jax.Array]:
        """Returns the vectors of a batch's images and texts, [B, E] each."""
        augment_key, own = split_key(key, 2)
        assert augment_key is not None
        seen, _ = augmented(model.encoder.embeddings, batch, self.augmentation, augment_key)
        return model(seen, key=own)

    def compare(
        self,
        model: TwoTowers,
        embedded: tuple[jax.Array, jax.Array],
        batch: Mapping[str, jax.Array],
        context: LossContext,
    ) -> Loss:
        """Returns the loss, summed over images; equal texts and equal images are never each other's negatives."""
        del context
        images_nE = constrain(embedded[0], "batch", "features")
        # Every device compares its images with the texts of all devices.
        texts_nE = constrain(embedded[1], "compared", "features")
        similarities_nn = jnp.einsum("nE,mE->nm", images_nE, texts_nE, precision="highest")
        numbers = batch[NUMBERS]
        if self.spec.loss == "sigmoid":
            assert model.bias is not None
            loss_n, weight_n, sums = sigmoid(similarities_nn, numbers, model.scale, model.bias[...])
        else:
            loss_n, weight_n, sums = info_nce(similarities_nn[..., None], numbers, None, model.scale, True)
        return Loss(loss_n.sum(), weight_n.sum(), sums)

    def outputs(self, model: TwoTowers, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Numbers of the vectors of a row."""
        return 2 * self.spec.dimension

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of both towers; similarities of a batch are a small part of them."""
        spec = self.spec
        image = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        image += flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        if spec.image_pooling == "map":
            image += flops.attention_pool_flops(spec.encoder, spec.row_length, adapt)
        return image + flops.encoder_flops_per_row(spec.text_encoder, spec.text_length)
