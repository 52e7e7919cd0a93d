"""Scores of a split of labelled images, or clips; see jaxfm.evaluation.classes for what is counted."""

# S segments (images or clips in a row), C classes, E examples, N rows

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.evaluation.calibration import assess, fit_calibration, losses, probabilities
from jaxfm.evaluation.classes import Scores
from jaxfm.observe.examples import WrongExample
from jaxfm.tasks.class_balance import constant_answer_warning
from jaxfm.tasks.class_targets import described_target, predicted_targets, score_targets, target_numbers


def per_segment(rows: Any, values_NSC: np.ndarray) -> np.ndarray:
    """Returns the value [E, ...] of each example, in the order they were given; `rows` say where they lie."""
    return values_NSC[rows.example_locations[:, 0], rows.example_locations[:, 1]]


@dataclasses.dataclass(frozen=True)
class SegmentClassScorer:
    """A split's examples and their rows (implements jaxfm.core.task.Scorer).

    Attributes:
      spec: of the classifier, with `kind`, `labels` and `threshold`.
      examples: with their labels.
      rows: where they lie, in `example_locations`.
      task: name of the task.
      medium: what predictions call the file: "image".
    """

    spec: Any
    examples: Sequence[Any]
    rows: Any

    task = ""
    medium = ""

    def name_of(self, example: Any) -> str:
        """Returns what messages call the file of an example."""
        raise NotImplementedError

    def worst(self, found_EC: np.ndarray, loss_E: np.ndarray) -> tuple[tuple[WrongExample, ...], Mapping[str, Any]]:
        """Returns what is most wrong, and plots of it."""
        raise NotImplementedError

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """The metrics of the kind; the loss is that of outputs as they are."""
        scores, found = self._scores(outputs, NOT_CALIBRATED)
        return {**scores.metrics, **self._own_metrics(found)}

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature where that helps."""
        gold = targets_of(self.spec, self.examples)
        return fit_calibration(per_segment(self.rows, outputs["outputs"]), gold, self.spec.kind)

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of outputs not calibrated."""
        spec = self.spec
        scores, found = self._scores(outputs, calibration)
        gold = targets_of(spec, self.examples)
        logits_EC = per_segment(self.rows, outputs["outputs"])
        loss_E = losses(logits_EC, gold, calibration, spec.kind)  # of the probabilities that are shown
        assessed = assess(logits_EC, gold, calibration, spec.kind)
        wrong, plots = self.worst(found, loss_E)
        own = self._own_metrics(found)
        metrics = {**scores.metrics, **own}
        return Evaluation(
            metrics=metrics,
            scores={**metrics, **scores.detail, "calibration": assessed.detail},
            tables=(*scores.tables, assessed.table, *own_metrics_table(own)),
            predictions=self._records(found),
            warnings=constant_answer_warning(spec.kind, gold, scores.metrics, spec.labels),
            bootstrap_data=scores.bootstrap_data,
            plots={**scores.plots, **plots, **assessed.plots},
            wrong=wrong,
        )

    def _own_metrics(self, found_EC: np.ndarray) -> dict[str, float]:
        """Returns the registered metrics for what `_scores` says was found."""
        spec = self.spec
        found = predicted_targets(spec.kind, spec.labels, spec.threshold, found_EC)
        return own_metrics(self.task, [target(spec, each) for each in self.examples], found)

    def _scores(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> tuple[Scores, np.ndarray]:
        """Returns what is counted, and the probabilities [E, C]."""
        spec = self.spec
        logits_EC, gold = per_segment(self.rows, outputs["outputs"]), targets_of(spec, self.examples)
        identity = [(example.origin, example.labels) for example in self.examples]
        found = probabilities(logits_EC, calibration, spec.kind)
        loss_E = losses(logits_EC, gold, NOT_CALIBRATED, spec.kind)
        scores = score_targets(spec.kind, spec.labels, spec.threshold, gold, found, loss_E=loss_E, identity=identity)
        return scores, found

    def _records(self, found_EC: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields one record an example: where it was read, what was asked for and what was found."""
        spec = self.spec
        predictions = predicted_targets(spec.kind, spec.labels, spec.threshold, found_EC)
        for example, found_C, predicted in zip(self.examples, found_EC, predictions, strict=True):
            described = described_target(spec.kind, target(spec, example), predicted, spec.labels, found_C)
            yield {"origin": example.origin, self.medium: self.name_of(example), **described}


def target(spec: Any, example: Any) -> str | tuple[str, ...]:
    """Returns the class of an example, or its labels."""
    return example.labels[0] if spec.kind == "single" else example.labels


def targets_of(spec: Any, examples: Sequence[Any]) -> np.ndarray:
    """Returns class numbers int32 [E], or 0 or 1 int32 [E, C]; UserError for an unseen class."""
    found, origins = (target(spec, each) for each in examples), (each.origin for each in examples)
    return target_numbers(spec.kind, spec.labels, found, origins)


def wrong_facts(spec: Any, example: Any, found_C: np.ndarray) -> tuple[tuple[str, str | float], ...]:
    """Returns what is said of an example that is wrong; () for one that is right."""
    if spec.kind == "single":
        best, gold = int(np.argmax(found_C)), example.labels[0]
        if spec.labels[best] == gold:
            return ()
        return (
            ("gold", gold),
            ("predicted", spec.labels[best]),
            ("probability", float(found_C[best])),
            ("of the gold class", float(found_C[spec.labels.index(gold)])),
        )
    said = [label for label, share in zip(spec.labels, found_C, strict=True) if share >= spec.threshold]
    if set(said) == set(example.labels):
        return ()
    return (("gold", ", ".join(example.labels) or "(no label)"), ("predicted", ", ".join(said) or "(no label)"))
