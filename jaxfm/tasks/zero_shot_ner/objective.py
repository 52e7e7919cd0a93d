"""What a comparison of spans with labels minimises."""

# B batch, T tokens, K widths, D model, C labels, L tokens of a label, S sources

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text.packing import PackedRows
from jaxfm.models import flops
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.label_spans import LabelSpanScorer
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.word_spans.encoding import SOURCES
from jaxfm.tasks.zero_shot_ner.spec import USUAL_THRESHOLD, ZeroShotNerSpec

_FIELDS = ("tokens", "segment_ids", "positions")  # of a row of a label that the encoder reads


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShotNerObjective:
    """Spans compared with labels, and the loss (implements jaxfm.core.objective.Objective).

    The labels are read once a batch, in the same step as its sentences. They are the same for all rows, so the loss is
    a sum over spans, and micro-batches and devices add up.

    Attributes:
      spec: what is trained.
      labels: rows of the spec's labels, its negatives after them.
      annotated_SC: bool, labels that sentences of each source are compared with.
      vectors_CD: of the labels, where they are known; None: they are computed of `labels`.
    """

    spec: ZeroShotNerSpec
    labels: PackedRows
    annotated_SC: np.ndarray
    vectors_CD: np.ndarray | None = None

    whole_batch = False

    def loss(self, model: LabelSpanScorer, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Binary cross-entropy of spans and labels (Zaratiana et al. 2024, "GLiNER"), summed, by spans.

        Counted are the spans that windows own, each with the labels that its sentence's source annotates. "accuracy" is
        the share of the spans whose likeliest label, or none of them, is right.
        """
        logits_BTKC = self.logits(model, batch, context.key)
        losses_BTK = self.losses(logits_BTKC, batch)
        owned_BTK = batch["labels"] >= 0
        best_BTK, label_BTK = self.best(logits_BTKC, batch)
        found_BTK = jnp.where(jax.nn.sigmoid(best_BTK) >= USUAL_THRESHOLD, label_BTK + 1, 0)
        spans = jnp.sum(owned_BTK)
        right = jnp.sum((found_BTK == batch["labels"]) & owned_BTK)
        return Loss(losses_BTK.sum(), spans.astype(jnp.float32), {"accuracy": weighted(right, spans)})

    def logits(
        self, model: LabelSpanScorer, batch: Mapping[str, jax.Array], key: DropoutKey | None = None
    ) -> jax.Array:
        """Returns logits [B, T, K, C] of all spans and labels; `key` turns dropout on."""
        label_key, own = split_key(key, 2)
        if self.vectors_CD is not None:
            labels_CD = jnp.asarray(self.vectors_CD)
        else:
            rows = self.labels.take(np.arange(len(self.labels)))
            labels_CD = model.label_vectors({name: jnp.asarray(rows[name]) for name in _FIELDS}, key=label_key)
        return model(batch, labels_CD, key=own)

    def losses(self, logits_BTKC: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the loss [B, T, K] of each span, summed over labels; 0 of spans that no window owns."""
        labels_BTK = batch["labels"]
        gold_BTKC = jax.nn.one_hot(labels_BTK - 1, logits_BTKC.shape[-1], dtype=logits_BTKC.dtype)
        losses_BTKC = jax.nn.softplus(logits_BTKC) - gold_BTKC * logits_BTKC
        losses_BTK = jnp.sum(jnp.where(self._annotated(batch), losses_BTKC, 0.0), axis=-1)
        return jnp.where(labels_BTK >= 0, losses_BTK, 0.0)

    def best(self, logits_BTKC: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns of each span the greatest logit [B, T, K] and the number of its label, negatives left out."""
        count = len(self.spec.labels)
        allowed = self._annotated(batch)[..., :count]
        masked_BTKC = jnp.where(allowed, logits_BTKC[..., :count], -jnp.inf)
        return masked_BTKC.max(axis=-1), masked_BTKC.argmax(axis=-1).astype(jnp.int32)

    def _annotated(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns bool [B, T, 1, C]: labels that each slot's sentence is compared with; of padding, any."""
        return jnp.asarray(self.annotated_SC)[batch[SOURCES]][:, :, None]

    def outputs(self, model: LabelSpanScorer, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns of all spans, [B, T, K] each: the greatest "score" (a logit), its "label" and the loss, "losses"."""
        logits_BTKC = self.logits(model, batch)
        best_BTK, label_BTK = self.best(logits_BTKC, batch)
        return {"score": best_BTK, "label": label_BTK, "losses": self.losses(logits_BTKC, batch)}

    def found(self, model: LabelSpanScorer, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "score" and "label" of `outputs`: two numbers a span, however many labels there are."""
        best_BTK, label_BTK = self.best(self.logits(model, batch), batch)
        return {"score": best_BTK, "label": label_BTK}

    def logits_per_row(self) -> float:
        """A number a label and span, and the vectors of spans."""
        spec = self.spec
        return spec.row_length * spec.max_width * (len(self.labels) + spec.encoder.hidden_size)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, of both ends of spans, of their vectors and of the comparison.

        Labels are read once a batch, a small part of it.
        """
        spec, width = self.spec, self.spec.encoder.hidden_size
        ends = 2 * flops.dense_flops(width, spec.span_size, input_gradient=adapt.train != "head")
        spans = spec.max_width * (flops.dense_flops(spec.span_size, width) + flops.dense_flops(width, len(self.labels)))
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + spec.row_length * (ends + spans)
