"""Scores of relations, as the official scorers of SemEval-2010 task 8 (macro) and TACRED (micro) count them.

A class is the name of a relation, or a relation with its direction: "Cause-Effect(e2,e1)". A pair is right where the
whole class is. A relation is one row of the scores, whatever its direction: a prediction with the wrong direction is
one of the relation's predictions, and wrong. The class of pairs without a relation (Other, no_relation) has no row.
"""

# N pairs, C classes, K relations, R rounds (of a bootstrap, say)

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Prior, Units
from jaxfm.evaluation.classes import (
    Score,
    Scores,
    add_counts,
    counts_prior,
    precision_recall_f1,
    report,
    score_classes,
    score_table,
    weighted_mean,
)

_DIRECTED = re.compile(r"(.+)\((e[12]),(e[12])\)")
METRICS = ("macro_f1", "macro_precision", "macro_recall", "micro_f1", "micro_precision", "micro_recall")


def split_direction(label: str) -> tuple[str, bool | None]:
    """Returns the relation that a class is of, and whether it goes from the tail to the head; None: it says neither."""
    match = _DIRECTED.fullmatch(label)
    if match is None or match[2] == match[3]:
        return label, None
    return match[1], match[2] == "e2"


def relations_of(labels: Sequence[str], negative: str) -> list[str]:
    """Returns the relations of the classes, in alphabetical order, the negative class left out."""
    return sorted({split_direction(label)[0] for label in labels if label != negative})


def score_relations(
    gold_N: np.ndarray,
    probability_NC: np.ndarray,
    labels: Sequence[str],
    negative: str,
    *,
    loss_N: np.ndarray | None = None,
    identity: Sequence[Any] | None = None,
) -> Scores:
    """Scores pairs that have one class each; the most probable one is the prediction.

    "macro_f1" is the mean over the relations that occur in the gold classes (the official score of SemEval-2010 task 8:
    nine relations, direction taken into account, Other left out), "micro_f1" is of all of them together (TACRED).
    "accuracy" is over all classes, the negative one included. The tables have a row a relation and a row a class.

    Args:
      gold_N: index of each pair's class.
      probability_NC: of each class.
      labels: names of the classes.
      negative: the class without a relation; "": there is none.
      loss_N: where given, its mean is the metric "loss".
      identity: see `BootstrapData`; by default the gold classes.
    """
    gold = np.asarray(gold_N)
    predicted = np.asarray(probability_NC).argmax(axis=-1)
    names = relations_of(labels, negative)
    units: dict[str, np.ndarray] = {"counts": _counts(gold, predicted, labels, names, negative)}
    units |= {"right": (gold == predicted).astype(np.float64)}
    units |= {} if loss_N is None else {"loss": np.asarray(loss_N, np.float64)}
    bootstrap_data = BootstrapData(
        sampling_unit="pairs",
        units=units,
        computed=_metrics,
        identity=[labels[index] for index in gold.tolist()] if identity is None else identity,
        classes=tuple(names),
        right=gold == predicted,
        less_is_better=("loss",),
        shares=("accuracy",),
        prior=_prior(len(names), with_loss=loss_N is not None),
    )
    by_class = score_classes(gold, probability_NC, labels)
    right_K, predicted_K, gold_K = units["counts"].sum(axis=0, dtype=np.float64).reshape(3, -1)
    there = np.flatnonzero(gold_K)
    per_relation, averages = report(
        [names[index] for index in there], right_K[there], predicted_K[there], gold_K[there]
    )
    del averages["weighted average"]
    # Of a relation that no gold class is of there is no row, but its predictions are wrong ones of micro precision.
    precision, recall, f1 = np.stack(precision_recall_f1(right_K.sum(), predicted_K.sum(), gold_K.sum())).tolist()
    averages["micro average"] = Score(precision=precision, recall=recall, f1=f1, support=int(gold_K.sum()))
    directed = any(split_direction(label)[1] is not None for label in labels)
    title = "Relations" + (", direction taken into account" if directed else "")
    title += f", without {negative}" if negative else ""
    return dataclasses.replace(
        by_class,
        metrics=bootstrap_data.metrics(np.arange(len(gold))),
        detail={"per_relation": per_relation, **by_class.detail, "negative": negative},
        tables=(score_table(title, "relation", per_relation, averages), *by_class.tables),
        bootstrap_data=bootstrap_data,
    )


def _counts(
    gold_N: np.ndarray, predicted_N: np.ndarray, labels: Sequence[str], names: Sequence[str], negative: str
) -> np.ndarray:
    """Returns whether a pair is right, predicted to be and truly is of each relation, f32 [N, 3 K]."""
    place = {name: index for index, name in enumerate(names)}
    relation_C = np.asarray([-1 if each == negative else place[split_direction(each)[0]] for each in labels])
    counts = np.zeros((3, len(gold_N), len(names)), np.float32)
    right_N = np.where(gold_N == predicted_N, relation_C[gold_N], -1)
    for part, relation_N in enumerate((right_N, relation_C[predicted_N], relation_C[gold_N])):
        of_one = np.flatnonzero(relation_N >= 0)
        counts[part, of_one, relation_N[of_one]] = 1
    return np.concatenate(list(counts), axis=-1)


def _metrics(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    counts = add_counts(units["counts"], weight_RN)
    each = precision_recall_f1(*counts)
    there_RK = (counts[2] > 0).astype(np.float64)
    together = precision_recall_f1(*counts.sum(axis=-1))
    found: dict[str, np.ndarray] = {}
    for name, per_relation_RK, micro_R in zip(("precision", "recall", "f1"), each, together, strict=True):
        found[f"macro_{name}"] = (per_relation_RK * there_RK).sum(axis=-1) / np.maximum(there_RK.sum(axis=-1), 1.0)
        found[f"micro_{name}"] = micro_R
    found = {name: found[name] for name in METRICS} | {"accuracy": weighted_mean(units["right"], weight_RN)}
    return found | ({"loss": weighted_mean(units["loss"], weight_RN)} if "loss" in units else {})


def _prior(relations: int, *, with_loss: bool) -> Prior:
    """Returns for each relation a pair that is found, one that is missed and one that is invented; see `Prior`."""
    counts, weights = counts_prior(relations)
    units = {"counts": counts, "right": np.repeat([1.0, 0.0, 0.0], relations)}
    return Prior(units | ({"loss": np.zeros(len(weights))} if with_loss else {}), weights, METRICS)
