"""Scores of entities that may overlap: exact spans with their types."""

# N rows, T tokens, K widths, C classes, S sentences

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.evaluation import entities
from jaxfm.observe import plots
from jaxfm.tasks.nested_ner.decoding import find_entities
from jaxfm.tasks.nested_ner.spec import NAME, NestedNerSpec
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scored(ScoredSpans):
    """What a span classifier says of a split.

    Attributes:
      logits: of all spans, all sentences one after the other.
      classes: gold class of each span, likewise.
    """

    logits: np.ndarray
    classes: np.ndarray


@dataclasses.dataclass(frozen=True)
class NestedNerScorer:
    """A split's sentences and their rows (implements jaxfm.core.task.Scorer).

    Attributes:
      spec: of the model.
      sentences: with their entities.
      encoded: their packed rows.
    """

    spec: NestedNerSpec
    sentences: tuple[TaggedSentence, ...]
    encoded: SpanRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Scores of entities, the share of the spans that are right, and the mean cross-entropy of a span."""
        scored = self._scored(outputs)
        return scored.metrics | self._own_metrics(scored)

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature to the spans, where that helps on sentences held out."""
        logits = self.encoded.per_span(outputs["logits"])
        groups = np.repeat(np.arange(len(logits)), [len(each) for each in logits])
        return calibration_lib.fit_calibration(np.concatenate(logits), self._gold().classes, groups=groups)

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of logits as they are."""
        scored = self._scored(outputs, calibration)
        own, gold = self._own_metrics(scored), [each.given for each in self._entities()]
        assessed = calibration_lib.assess(scored.logits, scored.classes, calibration)
        per_type = scored.spans.per_type
        return Evaluation(
            metrics=scored.metrics | own,
            scores=scored.spans.to_dict()
            | own
            | {
                "loss": scored.metrics["loss"],
                "calibration": assessed.detail,
                "unreachable": self._gold().unreachable,
                "overlapping": sum(len(sentence.overlapping) for sentence in self.sentences),
            },
            tables=(entities.entity_table(scored.spans), assessed.table, *own_metrics_table(own)),
            predictions=span_records(self.sentences, gold, scored.predicted, [each.scores for each in scored.found]),
            warnings=nothing_found(scored.counts, scored.spans.f1),
            bootstrap_data=span_bootstrap_data(
                self.sentences, gold, self.spec.labels[1:], scored.counts, scored.right, scored.losses, scored.ends
            ),
            plots=dict(assessed.plots)
            | ({"per_type": lambda path: plots.plot_per_type(per_type, path)} if per_type else {}),
            wrong=worst_sentences(self.sentences, gold, scored.predicted, scored.sentence_losses),
        )

    def _entities(self) -> list[Entities]:
        return [entities_of(sentence) for sentence in self.sentences]

    def _gold(self) -> GoldSpans:
        return gold_spans(self._entities(), self.encoded, self.spec.index, self.spec.max_width)

    def _own_metrics(self, scored: _Scored) -> dict[str, float]:
        """Returns the registered metrics, which get the entities of each sentence as the source gives them."""
        return own_metrics(NAME, [each.given for each in self._entities()], scored.predicted)

    def _scored(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED) -> _Scored:
        logits = self.encoded.per_span(outputs["logits"])
        found = find_entities(self.spec, self.encoded, logits, calibration)
        predicted = [as_given(sentence, each.spans) for sentence, each in zip(self.sentences, found, strict=True)]
        kinds, classes = self.spec.labels[1:], self._gold().classes
        counts = entities.count_spans([each.given for each in self._entities()], predicted, kinds)
        every = np.concatenate(logits)
        return _Scored(
            found=found,
            predicted=predicted,
            counts=counts,
            spans=entities.sum_entities(kinds, counts),
            right=every.argmax(axis=-1) == classes,
            logits=every,
            classes=classes,
            losses=calibration_lib.losses(every, classes, NOT_CALIBRATED),
            ends=np.cumsum([len(each) for each in logits])[:-1],
        )
