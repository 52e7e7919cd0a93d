"""Scores of a split of related entities; see jaxfm.evaluation.relations for what is counted."""

# S segments (pairs in a row), C classes, E pairs, N rows

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.relations import RelationExample
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.calibration import assess, fit_calibration, losses, probabilities
from jaxfm.evaluation.classes import Scores
from jaxfm.evaluation.relations import METRICS, score_relations
from jaxfm.tasks.relations.errors import worst_pairs
from jaxfm.tasks.relations.spec import NAME, EncodedPairs, RelationSpec

# What may choose a checkpoint -> is more better?
DIRECTIONS: Mapping[str, bool] = dict.fromkeys((*METRICS, "accuracy"), True) | {"loss": False}


@dataclasses.dataclass(frozen=True)
class RelationScorer:
    """A split's pairs and their rows (implements jaxfm.core.task.Scorer)."""

    spec: RelationSpec
    examples: tuple[RelationExample, ...]
    encoded: EncodedPairs

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Returns the metrics of relations; the loss is that of outputs as they are."""
        scores, found_EC = self._scores(outputs, NOT_CALIBRATED)
        return scores.metrics | self._own_metrics(found_EC)

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature where that helps."""
        return fit_calibration(self.encoded.per_pair(outputs["outputs"]), targets_of(self.spec, self.examples))

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of outputs not calibrated."""
        spec = self.spec
        scores, found_EC = self._scores(outputs, calibration)
        gold_E, logits_EC = targets_of(spec, self.examples), self.encoded.per_pair(outputs["outputs"])
        assessed = assess(logits_EC, gold_E, calibration)
        own = self._own_metrics(found_EC)
        shown_loss_E = losses(logits_EC, gold_E, calibration)  # of the probabilities that are shown
        return Evaluation(
            metrics={**scores.metrics, **own},
            scores={**scores.metrics, **own, **scores.detail, "calibration": assessed.detail},
            tables=(*scores.tables, assessed.table, *own_metrics_table(own)),
            predictions=_records(spec, self.examples, found_EC, self.encoded.cut),
            warnings=_constant_answer(spec, gold_E, scores.metrics),
            bootstrap_data=scores.bootstrap_data,
            plots={**scores.plots, **assessed.plots},
            wrong=worst_pairs(spec, self.examples, found_EC, shown_loss_E),
        )

    def _own_metrics(self, found_EC: np.ndarray) -> dict[str, float]:
        """Returns the registered metrics of the likeliest classes."""
        predicted = [self.spec.labels[index] for index in found_EC.argmax(axis=-1).tolist()]
        return own_metrics(NAME, [example.relation for example in self.examples], predicted)

    def _scores(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> tuple[Scores, np.ndarray]:
        """Returns what is counted, and the probabilities [E, C]."""
        logits_EC, gold_E = self.encoded.per_pair(outputs["outputs"]), targets_of(self.spec, self.examples)
        found_EC = probabilities(logits_EC, calibration)
        scores = score_relations(
            gold_E,
            found_EC,
            self.spec.labels,
            self.spec.negative,
            loss_N=losses(logits_EC, gold_E, NOT_CALIBRATED),
            identity=[(each.text, each.head, each.tail, each.relation) for each in self.examples],
        )
        return scores, found_EC


def targets_of(spec: RelationSpec, examples: Sequence[RelationExample]) -> np.ndarray:
    """Returns class numbers int32 [E]; UserError for a relation that training did not see."""
    index = {label: number for number, label in enumerate(spec.labels)}
    for example in examples:
        if example.relation not in index:
            raise UserError(
                f"{example.origin}: the relation {example.relation!r} does not occur in the training data. "
                f"{did_you_mean(str(example.relation), spec.labels)}"
            )
    return np.asarray([index[str(example.relation)] for example in examples], np.int32)


def _constant_answer(spec: RelationSpec, gold_E: np.ndarray, metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Returns a sentence where the model is no better than one answer to every pair; () where it is."""
    counts_C = np.bincount(gold_E, minlength=len(spec.labels))
    index = int(counts_C.argmax())
    share = float(counts_C[index] / max(len(gold_E), 1))
    if metrics["accuracy"] > share + 1e-9:
        return ()
    return (
        f"the model is no better than always answering {spec.labels[index]!r}, the most frequent relation: accuracy "
        f"{metrics['accuracy']:.4f}, always {spec.labels[index]!r} {share:.4f}. Train longer "
        "(--config.train.min_steps, --config.train.epochs), or look at the data: python -m jaxfm.check.",
    )


def _records(
    spec: RelationSpec, examples: Sequence[RelationExample], found_EC: np.ndarray, cut_E: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yields one record a pair: text, entities, whether the text was cut, what was asked for and what was found."""
    for example, row, is_cut in zip(examples, found_EC, cut_E.tolist(), strict=True):
        predicted = spec.labels[int(row.argmax())]
        yield {
            "origin": example.origin,
            "text": example.text,
            "head": entity_record(example.text, example.head),
            "tail": entity_record(example.text, example.tail),
            **({"truncated": True} if is_cut else {}),
            "correct": predicted == example.relation,
            "gold": example.relation,
            "predicted": predicted,
            "scores": {label: round(float(score), 4) for label, score in zip(spec.labels, row, strict=True)},
        }


def entity_record(text: str, entity: Any) -> dict[str, Any]:
    """Returns an entity as JSON has it."""
    found = {"text": text[entity.start : entity.end], "start": entity.start, "end": entity.end}
    return found | ({"type": entity.type} if entity.type else {})
