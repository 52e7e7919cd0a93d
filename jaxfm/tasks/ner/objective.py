"""What a tagger minimises."""

# B batch, T tokens, C classes

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.grown_head import taught_labels
from jaxfm.core.objective import Loss, LossContext
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.models import flops
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.linear_chain import chain_loss
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.losses import ClassLoss, soft_cross_entropy, symmetric_kl, with_r_drop
from jaxfm.tasks.ner.spec import BOUNDS, CRF, NerSpec


@dataclasses.dataclass(frozen=True)
class NerObjective:
    """A tagger and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      class_loss: of each word; not read by a CRF, nor is `r_drop`.
      r_drop: weight of the disagreement of two passes; 0: one pass.
    """

    spec: NerSpec
    class_loss: ClassLoss = ClassLoss()
    r_drop: float = 0.0

    whole_batch = False

    def loss(self, model: TokenClassifier, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss summed over the words of the batch, the same all through a run; also "accuracy" over words.

        Cross-entropy; with a CRF the negative log-likelihood of the tags of each sentence, or of the words of it that
        a window owns. "accuracy" is then that of the likeliest tags given the words before them.
        """
        return self.loss_and_logits(model, batch, context)[0]

    def loss_and_logits(
        self, model: TokenClassifier, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Loss, jax.Array]:
        """Returns the loss, and the logits that it is of; with R-Drop those of the first pass."""
        if model.chain is not None:
            return self._chain_loss(model, batch, context)
        logits_BTC, loss_BT, weight_BT = with_r_drop(
            lambda key: self.spec.logits(model, batch, key),
            lambda logits_BTC: self.class_loss(logits_BTC, batch["labels"]),
            symmetric_kl,
            context.key,
            self.r_drop,
        )
        right = jnp.sum(jnp.argmax(logits_BTC, axis=-1) == batch["labels"])
        accuracy = weighted(right, jnp.sum(batch["labels"] >= 0))
        return Loss(loss_BT.sum(), weight_BT.sum(), {"accuracy": accuracy}), logits_BTC

    def _chain_loss(
        self, model: TokenClassifier, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Loss, jax.Array]:
        assert model.chain is not None
        labels_BT = batch["labels"]
        logits_BTC = self.spec.logits(model, batch, context.key)
        loss_BT, found_BT = chain_loss(logits_BTC, labels_BT, batch["segment_ids"], batch[BOUNDS], model.chain.scores())
        words = jnp.sum(labels_BT >= 0)
        accuracy = weighted(jnp.sum(found_BT == labels_BT), words)
        return Loss(loss_BT.sum(), words.astype(jnp.float32), {"accuracy": accuracy}), logits_BTC

    draws = False

    def seen(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Mapping[str, jax.Array]:
        """Returns the batch: nothing of it is drawn."""
        del model, context
        return batch

    def of_teacher(self, spec: Spec | None, encoder: EncoderConfig) -> "NerObjective":
        """Returns the objective of a teacher with the tags and the rows of this one; UserError: of another kind."""
        own = self.spec
        known = own if spec is None else spec
        if not isinstance(known, NerSpec):
            raise UserError("is of another task")
        if known.head == CRF:
            raise UserError("has a CRF, which scores whole sequences of tags (task.head=crf)")
        labels = taught_labels(known.labels, own.labels)
        read = dataclasses.replace(
            own, labels=labels, encoder=encoder, head=known.head, word_pooling=known.word_pooling
        )
        return dataclasses.replace(self, spec=read, r_drop=0.0)

    def distillation_problem(self) -> str:
        """Returns why a tagger with a CRF is refused: its scores are of whole sequences of tags."""
        return "a CRF scores whole sequences of tags (task.head=crf)" if self.spec.head == CRF else ""

    def logits(self, model: TokenClassifier, batch: Mapping[str, jax.Array], key: Any = None) -> jax.Array:
        """Returns the logits [B, T, C], those of a word at its first piece; `key` turns dropout on."""
        return self.spec.logits(model, batch, key)

    def soft_loss(
        self, logits: jax.Array, teacher: jax.Array, batch: Mapping[str, jax.Array], temperature: float
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the sum over words of how far their classes are from the teacher's, and the number of words."""
        valid_BT = batch["labels"] >= 0
        # A teacher may know the first tags alone.
        loss_BT = soft_cross_entropy(logits[..., : teacher.shape[-1]], teacher, temperature)
        return (loss_BT * valid_BT).sum(), valid_BT.sum().astype(jnp.float32)

    def fixed_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the tokens of entities [B, T]: another name might be of another type, or of none."""
        labels_BT = batch["labels"]
        index_BT = lax.broadcasted_iota(jnp.int32, labels_BT.shape, 1)
        # Only first pieces have labels; the pieces that follow are of the last word before them.
        first_BT = lax.cummax(jnp.where(labels_BT >= 0, index_BT, 0), axis=1)
        of_word_BT = jnp.take_along_axis(labels_BT, first_BT, axis=1)
        outside = jnp.asarray([label == "O" for label in self.spec.labels])
        return (of_word_BT >= 0) & ~outside[of_word_BT]

    def mixup_problem(self) -> str:
        """Returns why a CRF, words as means of pieces, and R-Drop are refused."""
        if self.spec.head == CRF:
            return "a CRF scores whole sequences of tags (config.task.head=crf)"
        if self.spec.word_pooling == "mean":
            return "words are means of pieces (config.task.word_pooling=mean), of which two examples have other numbers"
        return f"config.task.loss.r_drop is {self.r_drop:g}, for which layers are computed twice" if self.r_drop else ""

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what the model says of each row; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class and token."""
        return self.spec.row_length * len(self.spec.labels)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the head, which scores every token."""
        encoder = self.spec.encoder
        head = flops.token_head_flops(encoder, len(self.spec.labels), adapt)
        return flops.encoder_flops_per_row(encoder, self.spec.row_length, adapt) + self.spec.row_length * head
