"""What a masked language model minimises (Devlin et al. 2019, section 3.1)."""

# B batch, T tokens, P predictions a row

import dataclasses
from collections.abc import Mapping

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.mask_shares import mask_sums
from jaxfm.tasks.masked_lm.spec import MaskedLMSpec
from jaxfm.tasks.masked_predictions import masked_token_losses
from jaxfm.tasks.masks import Masks, head_flops, total_loss, vocabulary_logits


@dataclasses.dataclass(frozen=True)
class MaskedLMObjective:
    """An encoder with a vocabulary head that predicts masked tokens (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      vocabulary: which tokens can be masked.
      z_loss: weight of the squared log-partition.
      logits_chunk: positions of a row whose logits are in memory at once; 0: all.
    """

    spec: MaskedLMSpec
    vocabulary: MaskVocabulary
    z_loss: float = 0.0
    logits_chunk: int = 0

    whole_batch = False

    @property
    def masks(self) -> Masks:
        """How tokens are masked."""
        return Masks(self.spec, self.vocabulary)

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy summed over the tokens masked at this step, plus the z-loss; also their "accuracy".

        "masked_share" is of all tokens but padding, "rows_without_target" of the rows. Without any target loss and
        weight are 0.
        """
        mask_key, dropout_key = jax.random.split(context.key)
        masked = self.masks.apply(batch, mask_key, context.progress)
        limit = self.masks.limit(batch, self.spec.masking.unit)
        found = masked_token_losses(model, masked, limit, dropout_key, chunk=self.logits_chunk)
        weight = found["weight"].sum()
        accuracy = weighted((found["right"] * found["weight"]).sum(), weight)
        metrics = {"accuracy": accuracy, **mask_sums(batch, masked["labels"])}
        return Loss(total_loss(found, self.z_loss), weight, metrics)

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns for the P first labelled tokens of each row: "place", "target" (-1: none), "predicted", "loss"."""
        limit = self.masks.limit(batch, *self.spec.units)
        found = masked_token_losses(model, batch, limit, chunk=self.logits_chunk)
        return {name: found[name] for name in ("place", "target", "predicted", "loss")}

    def logits_per_row(self) -> float:
        """A number an entry of the vocabulary and masked token."""
        return vocabulary_logits(self.spec)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, and of the head at the masked tokens."""
        spec = self.spec
        encoder = flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return encoder + spec.row_length * head_flops(spec, adapt)
