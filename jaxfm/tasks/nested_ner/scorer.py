"""Scores of entities that may overlap: exact spans with their types."""

# N rows, T tokens, K widths, C classes, S sentences

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.text.tagging import Span
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.evaluation import entities
from jaxfm.observe import plots
from jaxfm.tasks.nested_ner.decoding import find_entities
from jaxfm.tasks.nested_ner.spec import NAME, NestedNerSpec
from jaxfm.tasks.word_spans.errors import worst_sentences
from jaxfm.tasks.word_spans.scores import nothing_found, span_bootstrap_data, span_records
from jaxfm.tasks.word_spans.spans import Entities, FoundSpans, SpanRows, as_given, entities_of, gold_classes

DIRECTIONS = {"f1": True, "precision": True, "recall": True, "macro_f1": True, "accuracy": True, "loss": False}


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What a model says of a split, and what is counted of it.

    Attributes:
      found: of each sentence.
      predicted: the same, as the source gives entities.
      counts: [S, 3 C] entities right, found and in the data, by type (`entities.count_spans`).
      spans: the same summed.
      logits: of the spans of each sentence.
      classes: gold class of each span, all sentences one after the other.
      losses: nats of each span, likewise.
      ends: where each sentence but the last ends among the spans.
    """

    found: list[FoundSpans]
    predicted: list[list[Span]]
    counts: np.ndarray
    spans: entities.EntityScores
    logits: np.ndarray
    classes: np.ndarray
    losses: np.ndarray
    ends: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether the likeliest class of each span is right."""
        return self.logits.argmax(axis=-1) == self.classes

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that may choose a checkpoint."""
        count = max(len(self.losses), 1)
        return {
            "f1": self.spans.f1,
            "precision": self.spans.precision,
            "recall": self.spans.recall,
            "macro_f1": self.spans.macro["f1"],
            "accuracy": float(self.right.sum() / count),
            "loss": float(self.losses.sum(dtype=np.float64) / count),
        }


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
        return calibration_lib.fit_calibration(np.concatenate(logits), self._gold_classes(), groups=groups)

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of logits as they are."""
        scored = self._scored(outputs, calibration)
        own, gold = self._own_metrics(scored), [each.given for each in self._entities()]
        assessed = calibration_lib.assess(scored.logits, scored.classes, calibration)
        per_type = scored.spans.per_type
        losses = np.asarray([part.sum() for part in np.split(scored.losses, scored.ends)])
        return Evaluation(
            metrics=scored.metrics | own,
            scores=scored.spans.to_dict()
            | own
            | {
                "loss": scored.metrics["loss"],
                "calibration": assessed.detail,
                "unreachable": sum(map(len, self._unreachable())),
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
            wrong=worst_sentences(self.sentences, gold, scored.predicted, losses),
        )

    def _entities(self) -> list[Entities]:
        return [entities_of(sentence) for sentence in self.sentences]

    def _unreachable(self) -> list[list[Span]]:
        """Returns of each sentence the entities that no span can say."""
        index = {label: number for number, label in enumerate(self.spec.labels)}
        return [
            gold_classes(each.in_words, index, len(sentence.words), self.spec.max_width)[1]
            for each, sentence in zip(self._entities(), self.sentences, strict=True)
        ]

    def _gold_classes(self) -> np.ndarray:
        """Returns the class of each owned span, all sentences one after the other."""
        index = {label: number for number, label in enumerate(self.spec.labels)}
        found = []
        for each, sentence, owner_WK in zip(self._entities(), self.sentences, self.encoded.owners, strict=True):
            classes_WK, _ = gold_classes(each.in_words, index, len(sentence.words), self.spec.max_width)
            found.append(classes_WK[owner_WK >= 0])
        return np.concatenate(found)

    def _own_metrics(self, scored: _Scored) -> dict[str, float]:
        """Returns the registered metrics, which get the entities of each sentence as the source gives them."""
        return own_metrics(NAME, [each.given for each in self._entities()], scored.predicted)

    def _scored(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED) -> _Scored:
        logits = self.encoded.per_span(outputs["logits"])
        found = find_entities(self.spec, self.encoded, logits, calibration)
        predicted = [as_given(sentence, each.spans) for sentence, each in zip(self.sentences, found, strict=True)]
        kinds, classes = self.spec.labels[1:], self._gold_classes()
        counts = entities.count_spans([each.given for each in self._entities()], predicted, kinds)
        every = np.concatenate(logits)
        return _Scored(
            found=found,
            predicted=predicted,
            counts=counts,
            spans=entities.sum_entities(kinds, counts),
            logits=every,
            classes=classes,
            losses=calibration_lib.losses(every, classes, NOT_CALIBRATED),
            ends=np.cumsum([len(each) for each in logits])[:-1],
        )
