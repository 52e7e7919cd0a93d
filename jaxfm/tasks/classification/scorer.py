"""Scores of a split of labelled texts; see jaxfm.evaluation.classes for what is counted."""

# S segments (examples in a row), C classes, E examples, N rows

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.examples import Example
from jaxfm.evaluation import ensembles
from jaxfm.evaluation.calibration import assess, fit_calibration, losses, probabilities
from jaxfm.evaluation.classes import Scores, score_values
from jaxfm.evaluation.coverage import describe_answers, fit_threshold
from jaxfm.observe.tables import Table
from jaxfm.tasks import class_targets
from jaxfm.tasks.class_balance import constant_answer_warning
from jaxfm.tasks.class_targets import described_target, predicted_targets, score_targets, target_numbers
from jaxfm.tasks.classification.errors import worst_examples
from jaxfm.tasks.classification.groups import METRICS, best_scores, can_rank, ranking_of_pairs
from jaxfm.tasks.classification.spec import NAME, ClassifierSpec, EncodedExamples

# What may choose a checkpoint -> is more better?
_OF_VALUES = {"pearson": True, "spearman": True, "loss": False, "mse": False, "mae": False}


def directions(spec: ClassifierSpec) -> Mapping[str, bool]:
    """Returns the metrics that may choose a checkpoint -> is more better?"""
    of_kind = _OF_VALUES if spec.kind == "regression" else class_targets.directions(spec.kind, spec.labels)
    return {**of_kind, **(dict.fromkeys(METRICS, True) if can_rank(spec) else {})}


@dataclasses.dataclass(frozen=True)
class ClassifierScorer:
    """A split's examples and their rows (implements Scorer and ComparesModels of core.task, and CountsErrors)."""

    spec: ClassifierSpec
    examples: tuple[Example, ...]
    encoded: EncodedExamples

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """The metrics of the kind, and of pairs those of rankings; the loss is that of outputs as they are."""
        scores, found = self._scores(outputs, NOT_CALIBRATED)
        return scores.metrics | _means(self._ranking(found)) | self._own_metrics(found)

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature where that helps, and of rankings the score from which on a first text is answered.

        That score, for `jaxfm.retrieve`, is one of `pair_scores` of the predictor. A number has no probability to fit.
        """
        spec, fitted = self.spec, dict[str, float]()
        outputs_EC = self.encoded.per_example(outputs["outputs"])
        if spec.kind != "regression":
            fitted = fit_calibration(outputs_EC, targets_of(spec, self.examples), spec.kind)
        if not can_rank(spec):
            return fitted
        found = outputs_EC if spec.kind == "regression" else probabilities(outputs_EC, fitted, spec.kind)
        return fitted | fit_threshold(best_scores(spec, self.examples, found[:, -1]))

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of outputs not calibrated."""
        spec = self.spec
        scores, found = self._scores(outputs, calibration)
        gold = targets_of(spec, self.examples)
        outputs_EC = self.encoded.per_example(outputs["outputs"])
        if spec.kind == "regression":
            loss_E = (found - gold) ** 2
        else:
            loss_E = losses(outputs_EC, gold, calibration, spec.kind)  # of the probabilities that are shown
        if spec.kind != "regression":
            assessed = assess(outputs_EC, gold, calibration, spec.kind)
            scores = dataclasses.replace(
                scores,
                detail={**scores.detail, "calibration": assessed.detail},
                tables=(*scores.tables, assessed.table),
                plots={**scores.plots, **assessed.plots},
            )
        own, ranked = self._own_metrics(found), self._ranking(found)
        metrics = {**scores.metrics, **_means(ranked), **own}
        answers, answer_tables = self._answers(found, ranked, calibration)
        return Evaluation(
            metrics=metrics,
            scores={**metrics, **scores.detail, **answers},
            tables=(*scores.tables, *answer_tables, *own_metrics_table(own)),
            predictions=_records(spec, self.examples, found, self.encoded.cut),
            warnings=constant_answer_warning(spec.kind, targets_of(spec, self.examples), scores.metrics, spec.labels),
            bootstrap_data=scores.bootstrap_data,
            group_data=ranked,
            plots=scores.plots,
            wrong=worst_examples(spec, self.examples, found, loss_E),
        )

    def disagreement(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
        """See core.task.ComparesModels."""
        of_models = [self.encoded.per_example(each["outputs"]) for each in outputs]
        return ensembles.disagreement(of_models, self.spec.kind, self.spec.threshold)

    def error_shares(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> np.ndarray:
        """See core.exits.CountsErrors: 0 or 1 of one class, of several labels the share that is wrong."""
        spec, gold = self.spec, targets_of(self.spec, self.examples)
        found_EC = probabilities(self.encoded.per_example(outputs["outputs"]), calibration, spec.kind)
        if spec.kind == "single":
            return (found_EC.argmax(axis=-1) != gold).astype(np.float64)
        return ((found_EC >= spec.threshold) != (gold == 1)).mean(axis=-1)

    def _own_metrics(self, found: np.ndarray) -> dict[str, float]:
        """Returns the registered metrics for what `_scores` says was found."""
        return own_metrics(NAME, [example.target for example in self.examples], predictions(self.spec, found))

    def _answers(
        self, found: np.ndarray, ranked: BootstrapData | None, calibration: Mapping[str, float]
    ) -> tuple[dict[str, Any], tuple[Table, ...]]:
        """Returns how many first texts have a right best second text, all or answered: see `describe_answers`."""
        if ranked is None:
            return {}, ()
        best_Q = best_scores(self.spec, self.examples, found if found.ndim == 1 else found[:, -1])
        assert ranked.right is not None and ranked.count == len(best_Q)  # each has a candidate that is relevant
        values, tables = describe_answers(best_Q, ranked.right, calibration)
        return {"answers": values}, tables

    def _ranking(self, found: np.ndarray) -> BootstrapData | None:
        """Returns how second texts are ranked by what `pair_scores` of the predictor gives: see `ranking_of_pairs`."""
        if not can_rank(self.spec):
            return None
        return ranking_of_pairs(self.spec, self.examples, found if found.ndim == 1 else found[:, -1])

    def _scores(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> tuple[Scores, np.ndarray]:
        """Returns what is counted, and what was found: probabilities [E, C] or numbers float64 [E]."""
        spec, examples = self.spec, self.examples
        outputs_EC = self.encoded.per_example(outputs["outputs"])
        gold = targets_of(spec, examples)
        identity = [(example.text, example.pair, example.target) for example in examples]
        if spec.kind == "regression":
            values_E = outputs_EC[:, 0].astype(np.float64)
            return score_values(gold, values_E, identity=identity), values_E
        found = probabilities(outputs_EC, calibration, spec.kind)
        loss_E = losses(outputs_EC, gold, NOT_CALIBRATED, spec.kind)
        scores = score_targets(spec.kind, spec.labels, spec.threshold, gold, found, loss_E=loss_E, identity=identity)
        return scores, found


def _means(data: BootstrapData | None) -> dict[str, float]:
    return {} if data is None else data.metrics(np.arange(data.count))


def targets_of(spec: ClassifierSpec, examples: Sequence[Example]) -> np.ndarray:
    """Returns class numbers int32 [E], 0 or 1 int32 [E, C], or numbers f32 [E]; UserError for an unseen class."""
    if spec.kind == "regression":
        return np.asarray([example.target for example in examples], np.float32)
    targets, origins = (example.target for example in examples), (example.origin for example in examples)
    return target_numbers(spec.kind, spec.labels, targets, origins)


def predictions(spec: ClassifierSpec, found: np.ndarray) -> list[Any]:
    """Returns the class, the classes (a tuple) or the number of each example.

    `found` are probabilities [E, C] or numbers [E].
    """
    if spec.kind == "regression":
        return [float(one) for one in found]
    return predicted_targets(spec.kind, spec.labels, spec.threshold, found)


def _records(
    spec: ClassifierSpec, examples: Sequence[Example], found: np.ndarray, cut_E: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yields one record an example: the texts, whether they were cut, what was asked for and what was found."""
    said = predictions(spec, found)
    for example, one, predicted, is_cut in zip(examples, found, said, cut_E, strict=True):
        texts = {"text": example.text} | ({} if example.pair is None else {"pair": example.pair})
        start = {"origin": example.origin, **texts, **({"truncated": True} if is_cut else {})}
        if spec.kind == "regression":
            yield {**start, "gold": example.target, "predicted": round(float(one), 4)}
            continue
        yield {**start, **described_target(spec.kind, example.target, predicted, spec.labels, one)}
