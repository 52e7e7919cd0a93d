"""The masks of a training step and what they cost, for every objective over masked tokens."""

# B batch, T tokens, P predictions a row

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.data.text import masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.models import flops
from jaxfm.tasks.mask_ratios import mean_ratio, ratio_at
from jaxfm.tasks.masked_spec import MaskedTextSpec


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
        return ratio_at(self.spec, progress)

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
    return max(spec.ratios) * spec.row_length * spec.encoder.vocab_size


def head_flops(spec: MaskedTextSpec, adapt: AdaptConfig) -> float:
    """Returns the operations of the vocabulary head a token of text, at the run's mean share of masked tokens."""
    return mean_ratio(spec) * flops.vocabulary_head_flops(spec.encoder, adapt)
