"""Scores of a split of labelled images; see jaxfm.evaluation.classes for what is counted."""

# S segments (images in a row), C classes, E images, N rows

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.images.examples import ImageExample
from jaxfm.data.images.rows import ImageRows
from jaxfm.evaluation.calibration import assess, fit_calibration, losses, probabilities
from jaxfm.evaluation.classes import Scores
from jaxfm.tasks.class_balance import constant_answer_warning
from jaxfm.tasks.class_targets import described_target, predicted_targets, score_targets, target_numbers
from jaxfm.tasks.image_classification.errors import sheet, worst_images
from jaxfm.tasks.image_classification.spec import NAME, ImageClassifierSpec


def per_image(rows: ImageRows, values_NSC: np.ndarray) -> np.ndarray:
    """Returns the value [E, ...] of each image, in the order they were given."""
    return values_NSC[rows.example_locations[:, 0], rows.example_locations[:, 1]]


@dataclasses.dataclass(frozen=True)
class ImageClassifierScorer:
    """A split's images and their rows (implements jaxfm.core.task.Scorer)."""

    spec: ImageClassifierSpec
    examples: tuple[ImageExample, ...]
    rows: ImageRows

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
        return fit_calibration(per_image(self.rows, outputs["outputs"]), gold, self.spec.kind)

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of outputs not calibrated."""
        spec = self.spec
        scores, found = self._scores(outputs, calibration)
        gold = targets_of(spec, self.examples)
        logits_EC = per_image(self.rows, outputs["outputs"])
        loss_E = losses(logits_EC, gold, calibration, spec.kind)  # of the probabilities that are shown
        assessed = assess(logits_EC, gold, calibration, spec.kind)
        worst, own = worst_images(spec, self.examples, found, loss_E), self._own_metrics(found)
        metrics = {**scores.metrics, **own}
        return Evaluation(
            metrics=metrics,
            scores={**metrics, **scores.detail, "calibration": assessed.detail},
            tables=(*scores.tables, assessed.table, *own_metrics_table(own)),
            predictions=_records(spec, self.examples, found),
            warnings=constant_answer_warning(spec.kind, gold, scores.metrics, spec.labels),
            bootstrap_data=scores.bootstrap_data,
            plots={**scores.plots, **sheet(worst, self.rows), **assessed.plots},
            wrong=tuple(example for _, example in worst),
        )

    def _own_metrics(self, found_EC: np.ndarray) -> dict[str, float]:
        """Returns the registered metrics for what `_scores` says was found."""
        spec = self.spec
        found = predicted_targets(spec.kind, spec.labels, spec.threshold, found_EC)
        return own_metrics(NAME, [target(spec, each) for each in self.examples], found)

    def _scores(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> tuple[Scores, np.ndarray]:
        """Returns what is counted, and the probabilities [E, C]."""
        spec = self.spec
        logits_EC, gold = per_image(self.rows, outputs["outputs"]), targets_of(spec, self.examples)
        identity = [(example.origin, example.labels) for example in self.examples]
        found = probabilities(logits_EC, calibration, spec.kind)
        loss_E = losses(logits_EC, gold, NOT_CALIBRATED, spec.kind)
        scores = score_targets(spec.kind, spec.labels, spec.threshold, gold, found, loss_E=loss_E, identity=identity)
        return scores, found


def target(spec: ImageClassifierSpec, example: ImageExample) -> str | tuple[str, ...]:
    """Returns the class of an image, or its labels."""
    return example.labels[0] if spec.kind == "single" else example.labels


def targets_of(spec: ImageClassifierSpec, examples: Sequence[ImageExample]) -> np.ndarray:
    """Returns class numbers int32 [E], or 0 or 1 int32 [E, C]; UserError for an unseen class."""
    found, origins = (target(spec, each) for each in examples), (each.origin for each in examples)
    return target_numbers(spec.kind, spec.labels, found, origins)


def _records(
    spec: ImageClassifierSpec, examples: Sequence[ImageExample], found_EC: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yields one record an image: where it was read, what was asked for and what was found."""
    predictions = predicted_targets(spec.kind, spec.labels, spec.threshold, found_EC)
    for example, found_C, predicted in zip(examples, found_EC, predictions, strict=True):
        described = described_target(spec.kind, target(spec, example), predicted, spec.labels, found_C)
        yield {"origin": example.origin, "image": example.image.origin, **described}
