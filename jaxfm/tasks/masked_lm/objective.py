"""What a masked language model minimises (Devlin et al. 2019, section 3.1)."""

# B batch, T tokens, P predictions a row

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text import masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.mask_shares import mask_sums
from jaxfm.tasks.masked_lm.spec import MaskedLMSpec
from jaxfm.tasks.masked_predictions import masked_token_losses
from jaxfm.tasks.masked_text import MaskedTextSpec


@dataclasses.dataclass(frozen=True)
class Masks:
    """How the tokens of a batch are masked during a run.

    Attributes:
      spec: unit, shares and ratios.
      vocabulary: which tokens can be masked.
    """

    spec: MaskedTextSpec
    vocabulary: MaskVocabulary

    def ratio(self, progress: jax.Array | float) -> jax.Array | float:
        """Returns the share of the tokens to mask at `progress` (0 to 1) of a run."""
        first, last = self.spec.ratios
        return first + (last - first) * progress

    def apply(
        self, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array | float
    ) -> dict[str, jax.Array]:
        """Returns the batch with tokens masked, and with the tokens that they were as "labels" [B, T]."""
        tokens_BT, labels_BT = masking.mask_tokens(
            key,
            batch["tokens"],
            batch["segment_ids"],
            self.vocabulary,
            self.spec.masking,
            ratio=self.ratio(progress),
            limit=self.limit(batch, self.spec.masking.unit),
        )
        return {**batch, "tokens": tokens_BT, "labels": labels_BT}

    def limit(self, batch: Mapping[str, jax.Array], *units: str) -> int:
        """Returns P, the number of positions a row that masked tokens of these units may take."""
        length = batch["tokens"].shape[1]
        return max(masking.max_predictions(unit, max(self.spec.ratios), length) for unit in units)


def total_loss(found: Mapping[str, jax.Array], z_loss: float) -> jax.Array:
    """Returns the sum of cross-entropy and z-loss of what `token_losses` found."""
    return found["loss"].sum() + z_loss * jnp.sum(found["log_z"] ** 2 * found["weight"])


def vocabulary_logits(spec: MaskedTextSpec) -> float:
    """Returns how many numbers the logits of the vocabulary are, a row."""
    return spec.ratios[0] * spec.row_length * spec.encoder.vocab_size


def head_flops(spec: MaskedTextSpec, adapt: AdaptConfig) -> float:
    """Returns the operations of the vocabulary head a token of text, at the run's mean share of masked tokens."""
    return sum(spec.ratios) / 2 * flops.vocabulary_head_flops(spec.encoder, adapt)


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
