"""Masked-LM pretraining whose first part predicts next tokens (Gisserot-Boukhlef et al. 2025, arXiv 2507.00994)."""

# B batch, T tokens

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import CAUSAL
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.masked_lm.objective import MaskedLMObjective
from jaxfm.tasks.masked_lm.spec import MaskedLMSpec
from jaxfm.tasks.masks import total_loss
from jaxfm.tasks.next_tokens import next_token_logits, next_token_losses
from jaxfm.tasks.phases import one_of_two


@dataclasses.dataclass(frozen=True)
class CausalFirstObjective:
    """Next tokens until a share of the run is done, then masked ones (implements jaxfm.core.objective.Objective).

    Which of both a step computes follows from its number alone, so a run that is resumed goes on exactly. Held-out text
    is scored as in masked LM at any time. Such a model cannot learn from a teacher: what it sees and predicts changes.

    Attributes:
      masked: what is minimised later, and what scores text.
      until: share of the run's updates that predict next tokens.
    """

    masked: MaskedLMObjective
    until: float

    whole_batch = False

    @property
    def spec(self) -> MaskedLMSpec:
        """What is trained."""
        return self.masked.spec

    @property
    def phases(self) -> tuple[tuple[float, str], ...]:
        """Progress from which next tokens, and then masked ones are predicted, and in which shares these are masked."""
        masked = self.masked.phases or ((0.0, "masked tokens are predicted"),)
        # Of the stages that begin before the causal part ends, the last one is on then.
        first = max(number for number, (start, _) in enumerate(masked) if start <= self.until)
        return ((0.0, "next tokens are predicted"), (self.until, masked[first][1]), *masked[first + 1 :])

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the loss of next tokens or that of masked ones.

        "accuracy" is that of the targets of the step, and "causal" is 1 while these are next tokens.
        """
        is_causal = jnp.asarray(context.progress) < self.until
        return one_of_two(is_causal, (self._causal_loss, self._masked_loss), model, batch, context)

    def _masked_loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        found = self.masked.loss(model, batch, context)
        return found._replace(metrics={**found.metrics, "causal": weighted(0.0)})

    def _causal_loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        found = next_token_losses(model, batch, context.key, chunk=self.masked.logits_chunk)
        weight = found["weight"].sum()
        text_BT = batch["segment_ids"] > 0
        text_B, target_B = text_BT.any(axis=1), (found["weight"] > 0).any(axis=1)
        metrics = {
            "accuracy": weighted((found["right"] * found["weight"]).sum(), weight),
            "masked_share": weighted(0.0, text_BT.sum(dtype=jnp.float32)),
            "rows_without_target": weighted((text_B & ~target_B).sum(dtype=jnp.float32), text_B.sum(dtype=jnp.float32)),
            "causal": weighted(1.0),
        }
        return Loss(total_loss(found, self.masked.z_loss), weight, metrics)

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns those of masked LM."""
        return self.masked.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Those of next tokens, which are more than those of masked ones."""
        spec = self.spec
        causal = next_token_logits(spec.encoder.vocab_size, spec.row_length, self.masked.logits_chunk)
        return max(causal, self.masked.logits_per_row())

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, and of the head at all tokens or at the masked ones, on average over the run."""
        spec = self.spec
        causal = dataclasses.replace(spec.encoder, sight=CAUSAL)
        length, head = spec.row_length, flops.vocabulary_head_flops(spec.encoder, adapt)
        next_tokens = flops.encoder_flops_per_row(causal, length, adapt) + length * head
        masked = self.masked.flops_per_row(adapt)
        return self.until * next_tokens + (1 - self.until) * masked
