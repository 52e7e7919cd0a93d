"""What a reader of contexts minimises."""

# B batch, T tokens, S segments (windows in a row)

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.attention import MASKED
from jaxfm.models.heads import SpanClassifier
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.qa.spec import CONTEXT, CONTEXT_END, END, START, QaSpec


@dataclasses.dataclass(frozen=True)
class QaObjective:
    """A reader and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
    """

    spec: QaSpec

    whole_batch = False

    def loss(self, model: SpanClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy of the answer's start and end, their mean, summed over windows; also "exact" over windows.

        Start and end are each a choice among the tokens of the context and the window's first token, which stands for
        no answer (Devlin et al. 2019, section 4.2 and 4.3). Each window chooses among its own tokens, so that what a
        row is shared with does not matter.
        """
        logits_BT2, labels = model(batch, key=context.key), batch["labels"]
        positions_BT, segments_BT = batch["positions"], batch["segment_ids"]
        place_B1T = positions_BT[:, None, :]
        inside = (place_B1T >= labels[..., CONTEXT, None]) & (place_B1T < labels[..., CONTEXT_END, None])
        own_BST = segments_BT[:, None, :] == jnp.arange(1, labels.shape[1] + 1)[None, :, None]
        own_BST &= inside | (place_B1T == 0)
        valid_BS = labels[..., START] >= 0
        total, exact_BS = jnp.zeros((), jnp.float32), valid_BS
        for side, label in ((0, START), (1, END)):
            scores_BST = jnp.where(own_BST, logits_BT2[:, None, :, side], MASKED)
            is_target = own_BST & (place_B1T == labels[..., label, None])
            picked_BS = jnp.sum(jnp.where(is_target, scores_BST, 0.0), axis=-1)
            loss_BS = jax.nn.logsumexp(scores_BST, axis=-1) - picked_BS
            total += jnp.sum(jnp.where(valid_BS, loss_BS, 0.0)) / 2
            exact_BS &= picked_BS >= scores_BST.max(axis=-1)
        weight = jnp.sum(valid_BS).astype(jnp.float32)
        return Loss(total, weight, {"exact": weighted(jnp.sum(exact_BS), weight)})

    def fixed_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the tokens of answers [B, T]."""
        labels, places_B1T = batch["labels"], batch["positions"][:, None, :]
        own_BST = batch["segment_ids"][:, None, :] == jnp.arange(1, labels.shape[1] + 1)[None, :, None]
        own_BST &= (places_B1T >= labels[..., START, None]) & (places_B1T <= labels[..., END, None])
        return (own_BST & (labels[..., START, None] > 0)).any(axis=1)

    def mixup_problem(self) -> str:
        """Returns why places of answers cannot be mixed."""
        return "an answer is a place in its own context"

    def outputs(self, model: SpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A start and an end a token."""
        return 2.0 * self.spec.row_length

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the head, which scores every token."""
        encoder = self.spec.encoder
        head = flops.token_head_flops(encoder, 2, adapt)
        return flops.encoder_flops_per_row(encoder, self.spec.row_length, adapt) + self.spec.row_length * head
