"""What a causal language model minimises: the cross-entropy of each token given those before it."""

# B batch, T tokens, V vocabulary

import dataclasses
from collections.abc import Mapping

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.causal_lm.spec import CausalLMSpec
from jaxfm.tasks.masks import total_loss
from jaxfm.tasks.next_tokens import next_token_logits, next_token_losses


@dataclasses.dataclass(frozen=True)
class CausalLMObjective:
    """An encoder that predicts next tokens with a vocabulary head (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      z_loss: weight of the squared log-partition.
      logits_chunk: positions of a row whose logits are in memory at once; 0: all.
    """

    spec: CausalLMSpec
    z_loss: float = 0.0
    logits_chunk: int = 0

    whole_batch = False

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy summed over all tokens but the first of each segment, plus the z-loss; also their "accuracy".

        Padding is neither a target nor seen, and nothing is predicted across segments.
        """
        found = next_token_losses(model, batch, context.key, chunk=self.logits_chunk)
        weight = found["weight"].sum()
        accuracy = weighted((found["right"] * found["weight"]).sum(), weight)
        return Loss(total_loss(found, self.z_loss), weight, {"accuracy": accuracy})

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns of each token what comes next, "target" [B, T] (-1: nothing), "predicted", and the "loss"."""
        found = next_token_losses(model, batch, chunk=self.logits_chunk)
        return {name: found[name] for name in ("target", "predicted", "loss")}

    def logits_per_row(self) -> float:
        """A number an entry of the vocabulary and token, of the tokens that are in memory at once."""
        return next_token_logits(self.spec.encoder.vocab_size, self.spec.row_length, self.logits_chunk)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, and of the head at every token."""
        encoder, length = self.spec.encoder, self.spec.row_length
        head = length * flops.vocabulary_head_flops(encoder, adapt)
        return flops.encoder_flops_per_row(encoder, length, adapt) + head
