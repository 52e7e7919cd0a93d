"""Scores of entities whose types are labels: exact spans with their labels."""

# N rows, T tokens, K widths, C labels, S sentences

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.evaluation import entities
from jaxfm.observe import plots
from jaxfm.observe.tables import Table
from jaxfm.tasks.word_spans.errors import worst_sentences
from jaxfm.tasks.word_spans.scores import (
    GoldSpans,
    ScoredSpans,
    gold_spans,
    nothing_found,
    span_bootstrap_data,
    span_records,
)
from jaxfm.tasks.word_spans.spans import Entities, SpanRows, as_given, entities_of
from jaxfm.tasks.zero_shot_ner.decoding import candidates, find_entities, fit_threshold, sigmoid
from jaxfm.tasks.zero_shot_ner.spec import FITTED, NAME, USUAL_THRESHOLD, ZeroShotNerSpec


@dataclasses.dataclass(frozen=True)
class ZeroShotNerScorer:
    """A split's sentences and their rows (implements jaxfm.core.task.Scorer).

    Attributes:
      spec: of the model; its labels are those that the split is scored with.
      sentences: with their entities.
      gold: the entities, whose types are labels.
      encoded: the packed rows of the sentences.
    """

    spec: ZeroShotNerSpec
    sentences: tuple[TaggedSentence, ...]
    gold: tuple[Entities, ...]
    encoded: SpanRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Scores of entities by the threshold that suits these outputs best, unless the spec has one."""
        scored = self._scored(outputs, self.spec.threshold_of(self.calibrate(outputs)))
        return scored.metrics | own_metrics(NAME, [each.given for each in self.gold], scored.predicted)

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits the threshold; nothing where the spec has one."""
        if self.spec.threshold != FITTED:
            return {}
        found = candidates(self.spec, self.encoded, outputs)
        return {"threshold": fit_threshold(found, [each.in_words for each in self.gold])}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions, by the threshold of the run."""
        threshold = self.spec.threshold_of(calibration)
        scored, gold = self._scored(outputs, threshold), [each.given for each in self.gold]
        own = own_metrics(NAME, gold, scored.predicted)
        per_type = scored.spans.per_type
        read = [(each.name, each.text) for each in self.spec.named_labels]
        return Evaluation(
            metrics=scored.metrics | own,
            scores=scored.spans.to_dict()
            | own
            | {
                "loss": scored.metrics["loss"],
                "threshold": threshold,
                "labels": dict(read),
                "unreachable": self._gold().unreachable,
                "overlapping": sum(len(sentence.overlapping) for sentence in self.sentences),
            },
            tables=(
                entities.entity_table(scored.spans),
                Table("What is read of each label", ("label", "text"), read),
                *own_metrics_table(own),
            ),
            predictions=span_records(self.sentences, gold, scored.predicted, [each.scores for each in scored.found]),
            warnings=nothing_found(scored.counts, scored.spans.f1),
            bootstrap_data=span_bootstrap_data(
                self.sentences, gold, self.spec.labels, scored.counts, scored.right, scored.losses, scored.ends
            ),
            plots={"per_type": lambda path: plots.plot_per_type(per_type, path)} if per_type else {},
            wrong=worst_sentences(self.sentences, gold, scored.predicted, scored.sentence_losses),
        )

    def _gold(self) -> GoldSpans:
        return gold_spans(self.gold, self.encoded, self.spec.index, self.spec.max_width)

    def _scored(self, outputs: Mapping[str, np.ndarray], threshold: float) -> ScoredSpans:
        found = find_entities(self.spec, self.encoded, outputs, threshold)
        predicted = [as_given(sentence, each.spans) for sentence, each in zip(self.sentences, found, strict=True)]
        counts = entities.count_spans([each.given for each in self.gold], predicted, self.spec.labels)
        scores, labels, losses = (self.encoded.per_span(outputs[name]) for name in ("score", "label", "losses"))
        likely = sigmoid(np.concatenate(scores)) >= USUAL_THRESHOLD
        return ScoredSpans(
            found=found,
            predicted=predicted,
            counts=counts,
            spans=entities.sum_entities(self.spec.labels, counts),
            right=np.where(likely, np.concatenate(labels) + 1, 0) == self._gold().classes,
            losses=np.concatenate(losses),
            ends=np.cumsum([len(each) for each in losses])[:-1],
        )


def named(sentence: TaggedSentence, names: Mapping[str, str]) -> Entities:
    """Returns the entities of a sentence with the label of each in place of its type."""
    found = entities_of(sentence)
    return Entities(*([(start, end, names[kind]) for start, end, kind in spans] for spans in found))
