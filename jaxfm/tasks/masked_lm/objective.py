"""What a masked language model minimises (Devlin et al. 2019, section 3.1)."""

# B batch, T tokens, P predictions a row

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.core.spec import Spec
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.data.text.masking import target_places
from jaxfm.errors import UserError
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.losses import soft_cross_entropy
from jaxfm.tasks.mask_shares import mask_sums
from jaxfm.tasks.masked_lm.spec import MaskedLMSpec
from jaxfm.tasks.masked_predictions import masked_token_losses, predict, token_losses
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

    @property
    def phases(self) -> tuple[tuple[float, str], ...]:
        """Progress from which another share of the tokens is masked, and that share; () without stages."""
        spec = self.spec
        if not spec.ratio_starts:
            return ()
        stages = zip((0.0, *spec.ratio_starts), spec.ratios, strict=True)
        return tuple((start, f"{ratio:.0%} of the tokens are masked and predicted") for start, ratio in stages)

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy summed over the tokens masked at this step, plus the z-loss; also their "accuracy".

        "masked_share" is of all tokens but padding, "rows_without_target" of the rows. Without any target loss and
        weight are 0.
        """
        masked, limit, dropout_key = self._masked(batch, context)
        found = masked_token_losses(model, masked, limit, dropout_key, chunk=self.logits_chunk)
        return self._loss(batch, masked, found)

    def _masked(
        self, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Mapping[str, jax.Array], int, jax.Array]:
        """Returns a batch as it is masked at this step, the most predictions of a row, and the key of dropout."""
        mask_key, dropout_key = jax.random.split(context.key)
        masked = self.masks.apply(batch, mask_key, context.progress)
        return masked, self.masks.limit(batch, self.spec.masking.unit), dropout_key

    def _loss(
        self, batch: Mapping[str, jax.Array], masked: Mapping[str, jax.Array], found: Mapping[str, jax.Array]
    ) -> Loss:
        weight = found["weight"].sum()
        accuracy = weighted((found["right"] * found["weight"]).sum(), weight)
        metrics = {"accuracy": accuracy, **mask_sums(batch, masked["labels"])}
        return Loss(total_loss(found, self.z_loss), weight, metrics)

    def distillation_problem(self) -> str:
        """Returns why the outputs cannot be learned from; "" where they can."""
        return "logits are computed in chunks (task.logits_chunk), and never at once" if self.logits_chunk else ""

    draws = True

    def seen(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Mapping[str, jax.Array]:
        """Returns the batch as `loss` masks it, with what was there as "labels"."""
        del model
        return self._masked(batch, context)[0]

    def loss_and_logits(
        self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Loss, jax.Array]:
        """Returns the loss, and the logits at the masked positions that it is of."""
        masked, limit, dropout_key = self._masked(batch, context)
        predicted = predict(model, masked, limit, dropout_key)
        return self._loss(batch, masked, token_losses(predicted)), predicted["logits"]

    def logits(self, model: MaskedLM, batch: Mapping[str, jax.Array], key: Any = None) -> jax.Array:
        """Returns the vocabulary's logits [B, P, V] at the labelled tokens of each row; `key` turns dropout on."""
        return predict(model, batch, self.masks.limit(batch, self.spec.masking.unit), key)["logits"]

    def soft_loss(
        self, logits: jax.Array, teacher: jax.Array, batch: Mapping[str, jax.Array], temperature: float
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the sum over masked tokens of how far the words are from the teacher's, and their number."""
        _, targets_BP = target_places(batch["labels"], logits.shape[1])
        valid_BP = targets_BP >= 0
        loss_BP = soft_cross_entropy(logits, teacher, temperature)
        return (loss_BP * valid_BP).sum(), valid_BP.sum().astype(jnp.float32)

    def of_teacher(self, spec: Spec | None, encoder: EncoderConfig) -> "MaskedLMObjective":
        """Returns the objective of a teacher that computes the rows of this one; UserError: it has no such outputs."""
        if spec is not None and not isinstance(spec, MaskedLMSpec):
            raise UserError("is of another task")
        if encoder.vocab_size != self.spec.encoder.vocab_size:
            raise UserError(
                f"scores {encoder.vocab_size:,} entries of a vocabulary, but this run {self.spec.encoder.vocab_size:,}"
            )
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, encoder=encoder))

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
