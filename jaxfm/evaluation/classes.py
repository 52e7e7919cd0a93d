"""Scores of whole examples: classes, labels and values, as scikit-learn and scipy define them (zero_division=0).

Nothing here warns: a ratio that is not defined is 0, as in scikit-learn, and such a correlation NaN, as in scipy.
"""

# N examples, C classes or labels, K columns of counts, R rounds (of a bootstrap, say), G groups of equal values

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxfm.core.evaluation import PRIOR_WEIGHT, BootstrapData, Prior, Units
from jaxfm.observe import plots
from jaxfm.observe.tables import Cell, Table

# Pairs of classes that a table of confusions names; the matrix itself is a picture, and whole in the detail.
_CONFUSIONS = 10
_CORRELATIONS = ("pearson", "spearman")
_ROWS = 50  # classes in a table, the most frequent ones; all of them are in the detail
_OF_CLASSES = ("macro_f1", "weighted_f1", "macro_precision", "macro_recall", "mcc", "f1", "precision", "recall")
_OF_LABELS = ("micro_f1", "macro_f1", "weighted_f1", "micro_precision", "micro_recall")
_WIDE, _SPARSE = 256, 32  # from so many columns with so few counts that are not 0, only these are added up


class Score(TypedDict):
    """Fractions of 1 and the number of gold items they are of; a division by zero counts as 0."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclasses.dataclass(frozen=True)
class Scores:
    """What is known of a split's predictions.

    Attributes:
      metrics: name -> number.
      detail: further scores as JSON values.
      tables: for people.
      bootstrap_data: the metrics as a function of the examples.
      plots: name -> what draws it as a PNG file.
    """

    metrics: dict[str, float]
    detail: dict[str, Any]
    tables: tuple[Table, ...]
    bootstrap_data: BootstrapData
    plots: Mapping[str, Callable[[pathlib.Path], None]] = dataclasses.field(default_factory=dict)


def score_classes(
    gold_N: np.ndarray,
    probability_NC: np.ndarray,
    labels: Sequence[str],
    *,
    loss_N: np.ndarray | None = None,
    identity: Sequence[Any] | None = None,
) -> Scores:
    """Scores examples that have one class each; the most probable one is the prediction.

    Averages are over the classes that occur in either side. Of two classes the second is the positive one, that
    "f1", "precision" and "recall" are of.

    Args:
      gold_N: index of each example's class.
      probability_NC: of each class.
      labels: names of the classes.
      loss_N: where given, its mean is the metric "loss".
      identity: see `BootstrapData`; by default the gold classes.
    """
    gold, predicted = np.asarray(gold_N), np.asarray(probability_NC).argmax(axis=-1)
    # Of two classes the second is the positive one; more have no order, and two models may number them otherwise.
    order = list(range(len(labels))) if len(labels) == 2 else _alphabetical(labels)
    place = np.argsort(order)
    bootstrap_data = BootstrapData(
        sampling_unit="examples",
        units={"gold": place[gold], "predicted": place[predicted]} | _losses(loss_N),
        computed=functools.partial(_class_metrics, classes=len(labels)),
        identity=[labels[index] for index in gold.tolist()] if identity is None else identity,
        classes=tuple(labels[index] for index in order),
        right=gold == predicted,
        less_is_better=("loss",),
        shares=("accuracy",),
        prior=_class_prior(len(labels), with_loss=loss_N is not None),
    )
    confusion_CC = np.bincount(gold * len(labels) + predicted, minlength=len(labels) ** 2).reshape(len(labels), -1)
    right_C, predicted_C, gold_C = np.diagonal(confusion_CC), confusion_CC.sum(axis=0), confusion_CC.sum(axis=1)
    names = [name for name, there in zip(labels, gold_C + predicted_C > 0, strict=True) if there]
    there = np.flatnonzero(gold_C + predicted_C)
    per_class, averages = report(names, right_C[there], predicted_C[there], gold_C[there])
    metrics = bootstrap_data.metrics(np.arange(len(gold)))
    return Scores(
        metrics=metrics,
        detail={
            "per_class": per_class,
            **_short(averages),
            "classes": list(labels),
            "confusion": confusion_CC.tolist(),
        },
        tables=(score_table("Classes", "class", per_class, averages), *_confusion_table(confusion_CC, labels)),
        bootstrap_data=bootstrap_data,
        plots={"confusion": lambda path: plots.plot_confusion(confusion_CC, labels, path)},
    )


def score_labels(
    gold_NC: np.ndarray,
    probability_NC: np.ndarray,
    labels: Sequence[str],
    threshold: float = 0.5,
    *,
    loss_N: np.ndarray | None = None,
    identity: Sequence[Any] | None = None,
) -> Scores:
    """Scores examples that have any number of labels; those of at least the threshold's probability are predicted.

    Averages are over all labels. "exact_match" is the share of examples with all labels right.

    Args:
      gold_NC: 1 where an example has the label, else 0.
      probability_NC: of each label.
      labels: their names.
      threshold: between 0 and 1.
      loss_N: where given, its mean is the metric "loss".
      identity: see `BootstrapData`; by default the gold labels.
    """
    gold, predicted = np.asarray(gold_NC) > 0, np.asarray(probability_NC) >= threshold
    exact = (gold == predicted).all(axis=-1)
    order = _alphabetical(labels)
    each = (gold & predicted, predicted, gold)
    counts = np.concatenate([part[:, order] for part in each], axis=-1).astype(np.float32)
    if identity is None:
        identity = [tuple(labels[index] for index in np.flatnonzero(row).tolist()) for row in gold]
    bootstrap_data = BootstrapData(
        sampling_unit="examples",
        units={"counts": counts, "exact": exact.astype(np.float64)} | _losses(loss_N),
        computed=_label_metrics,
        identity=identity,
        classes=tuple(labels[index] for index in order),
        right=exact,
        less_is_better=("loss",),
        shares=("exact_match",),
        prior=_label_prior(len(labels), with_loss=loss_N is not None),
    )
    per_label, averages = report(labels, *(part.sum(axis=0) for part in each))
    return Scores(
        metrics=bootstrap_data.metrics(np.arange(len(gold))),
        detail={"per_label": per_label, **_short(averages), "threshold": threshold},
        tables=(score_table(f"Labels (from a probability of {threshold:g})", "label", per_label, averages),),
        bootstrap_data=bootstrap_data,
        plots={"per_label": lambda path: plots.plot_per_type(per_label, path, what="label")},
    )


def score_values(gold_N: np.ndarray, predicted_N: np.ndarray, *, identity: Sequence[Any] | None = None) -> Scores:
    """Scores predicted numbers: both correlations, mean squared error (which is also the loss) and mean absolute error.

    A correlation is left out where it is not defined: one side is constant, or not finite.
    """
    gold, predicted = np.asarray(gold_N, np.float64), np.asarray(predicted_N, np.float64)
    units = {"gold": gold, "predicted": predicted}
    bootstrap_data = BootstrapData(
        sampling_unit="examples",
        units=units,
        computed=_value_metrics,
        identity=gold.tolist() if identity is None else identity,
        less_is_better=("loss", "mse", "mae"),
    )
    metrics = bootstrap_data.metrics(np.arange(len(gold)))

    def summary(values: np.ndarray) -> dict[str, float]:
        return {"mean": values.mean(), "deviation": values.std(), "least": values.min(), "greatest": values.max()}

    rows = {name: summary(values) for name, values in (("gold", gold), ("predicted", predicted))}
    table = Table(
        "Values", ("values", *rows["gold"]), [(name, *map(float, row.values())) for name, row in rows.items()]
    )
    drawable = len(gold) > 0 and bool(np.isfinite(predicted).all())
    drawings = {"values": lambda path: plots.plot_values(gold, predicted, path)} if drawable else {}
    defined = {name: value for name, value in metrics.items() if not math.isnan(value) or name not in _CORRELATIONS}
    return Scores(defined, {}, (table,), bootstrap_data, drawings)


def undefined_metrics(kind: str, gold: np.ndarray) -> dict[str, str]:
    """Returns metric -> why it says nothing of any predictions for these targets.

    Args:
      kind: "single", "multi" or "regression".
      gold: [N] class numbers or numbers, [N, C] 0 or 1 (multi).
    """
    if kind == "regression":
        if len(np.unique(gold)) > 1:
            return {}
        return dict.fromkeys(_CORRELATIONS, f"is not defined: all {len(gold):,} scores are {gold[0]:g}")
    if kind == "multi":
        never = f"is 0 for all predictions: none of the {len(gold):,} examples has a label"
        return {} if gold.any() else dict.fromkeys(("micro_f1", "macro_f1", "weighted_f1", "micro_recall"), never)
    found = {}
    if len(np.unique(gold)) < 2:
        found["mcc"] = f"is 0 for all predictions: the {len(gold):,} examples have one class"
    if not (gold == 1).any():
        why = f"is 0 for all predictions: none of the {len(gold):,} examples is of the second class"
        found |= dict.fromkeys(("f1", "precision", "recall"), why)
    return found


def report(
    names: Sequence[str], right_C: np.ndarray, predicted_C: np.ndarray, gold_C: np.ndarray
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Returns precision, recall, F1 and support by class, and "micro", "macro" and "weighted average"."""
    each = np.stack(precision_recall_f1(right_C, predicted_C, gold_C))

    def row(values: np.ndarray, support: float) -> Score:
        precision, recall, f1 = values.tolist()
        return Score(precision=precision, recall=recall, f1=f1, support=int(support))

    per_class = {name: row(each[:, index], gold_C[index]) for index, name in enumerate(names)}
    micro = np.stack(precision_recall_f1(right_C.sum(), predicted_C.sum(), gold_C.sum()))
    values = {"micro": micro, "macro": _mean(each, np.ones(len(names))), "weighted": _mean(each, gold_C)}
    return per_class, {f"{name} average": row(average, gold_C.sum()) for name, average in values.items()}


def score_table(title: str, what: str, items: Mapping[str, Score], averages: Mapping[str, Score]) -> Table:
    """Lays out what `report` returns: a row a class, of many classes the most frequent, then the averages."""
    shown = set(sorted(items, key=lambda name: -items[name]["support"])[:_ROWS])

    def laid(scores: Mapping[str, Score]) -> list[tuple[Cell, ...]]:
        return [(name, s["precision"], s["recall"], s["f1"], s["support"]) for name, s in scores.items()]

    rows = laid({name: score for name, score in items.items() if name in shown})
    if len(shown) < len(items):
        rest = [score["support"] for name, score in items.items() if name not in shown]
        rows.append((f"and {len(rest):,} more", None, None, None, sum(rest)))
    rows += laid(averages)
    return Table(title, (what, "precision", "recall", "F1", "support"), tuple(rows), footer=len(averages))


def precision_recall_f1(right: Any, predicted: Any, gold: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the three ratios of counts, arrays of any one shape; 0 for a division by 0."""
    return _ratio(right, predicted), _ratio(right, gold), _ratio(2 * np.asarray(right), np.add(predicted, gold))


def _ratio(part: Any, whole: Any) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _ratio((values * weights).sum(axis=-1), weights.sum(axis=-1))


def _short(averages: Mapping[str, Score]) -> dict[str, Score]:
    return {name.removesuffix(" average"): score for name, score in averages.items()}


def _alphabetical(labels: Sequence[str]) -> list[int]:
    return sorted(range(len(labels)), key=lambda index: labels[index])


def _losses(loss_N: np.ndarray | None) -> dict[str, np.ndarray]:
    return {} if loss_N is None else {"loss": np.asarray(loss_N, np.float64)}


def _class_prior(classes: int, *, with_loss: bool) -> Prior:
    """Returns for each class an example that is right, one taken for the next class and one for the class before."""
    gold = np.arange(classes)
    units = {
        "gold": np.concatenate([gold, gold, gold]),
        "predicted": np.concatenate([gold, np.roll(gold, 1), np.roll(gold, -1)]),
    }
    # Two ways of being wrong: a confusion of each class with its neighbours stands for that with any other.
    weights = np.repeat([PRIOR_WEIGHT, PRIOR_WEIGHT / 2, PRIOR_WEIGHT / 2], classes) / classes
    return Prior(units | _no_losses(len(weights), with_loss), weights, _OF_CLASSES)


def _label_prior(labels: int, *, with_loss: bool) -> Prior:
    """Returns for each label an example that has it and is given it, that has it alone, and that is given it alone."""
    counts, weights = counts_prior(labels)
    units = {"counts": counts, "exact": np.repeat([1.0, 0.0, 0.0], labels)}
    return Prior(units | _no_losses(len(weights), with_loss), weights, _OF_LABELS)


def counts_prior(kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns counts float32 [3 K, 3 K] of what is found, missed and invented, one of each kind, and weights [3 K].

    The columns are those of `add_counts`: right, predicted and gold of each kind.
    """
    one, none = np.eye(kinds, dtype=np.float32), np.zeros((kinds, kinds), np.float32)
    found, missed, invented = ([one, one, one], [none, none, one], [none, one, none])
    counts = np.concatenate([np.concatenate(row, axis=1) for row in (found, missed, invented)])
    return counts, np.repeat([PRIOR_WEIGHT, PRIOR_WEIGHT / 2, PRIOR_WEIGHT / 2], kinds) / max(kinds, 1)


def _no_losses(count: int, with_loss: bool) -> dict[str, np.ndarray]:
    return {"loss": np.zeros(count)} if with_loss else {}


def add_counts(counts_NK: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """Returns weighted sums float64 [3, R, K / 3] of right, predicted and gold counts float32 [N, K] (up to 2**24)."""
    filled = np.flatnonzero(counts_NK != 0) if counts_NK.shape[1] > _WIDE else []
    if 0 < len(filled) < counts_NK.size / _SPARSE:  # thousands of classes: almost all of them in no unit at all
        unit, column = np.divmod(filled, counts_NK.shape[1])
        order = np.argsort(column, kind="stable")
        unit, column = unit[order], column[order]
        starts = np.flatnonzero(np.diff(column, prepend=-1))
        sums_RK = np.zeros((len(weight_RN), counts_NK.shape[1]))
        sums_RK[:, column[starts]] = np.add.reduceat(weight_RN[:, unit] * counts_NK[unit, column], starts, axis=1)
    else:
        sums_RK = (weight_RN.astype(np.float32) @ counts_NK).astype(np.float64)
    return np.stack(np.split(sums_RK, 3, axis=-1))


def weighted_mean(values_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """Returns means [R]; 0 where nothing counts."""
    return _ratio(weight_RN @ values_N, weight_RN.sum(axis=-1))


def _class_metrics(units: Units, weight_RN: np.ndarray, *, classes: int) -> dict[str, np.ndarray]:
    def count(class_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
        # Not a product with [N, C] zeros and ones: there may be thousands of classes.
        return np.stack([np.bincount(class_N, weights=weight_N, minlength=classes) for weight_N in weight_RN])

    right_N = units["gold"] == units["predicted"]
    right_RC = count(units["gold"][right_N], weight_RN[:, right_N])
    predicted_RC, gold_RC = count(units["predicted"], weight_RN), count(units["gold"], weight_RN)
    precision_RC, recall_RC, f1_RC = precision_recall_f1(right_RC, predicted_RC, gold_RC)
    there_RC = (predicted_RC + gold_RC > 0).astype(np.float64)
    metrics = {
        "accuracy": _ratio(right_RC.sum(axis=-1), gold_RC.sum(axis=-1)),
        "macro_f1": _mean(f1_RC, there_RC),
        "weighted_f1": _mean(f1_RC, gold_RC),
        "macro_precision": _mean(precision_RC, there_RC),
        "macro_recall": _mean(recall_RC, there_RC),
        "mcc": _matthews(right_RC, predicted_RC, gold_RC),
    }
    if classes == 2:
        metrics |= {"f1": f1_RC[:, 1], "precision": precision_RC[:, 1], "recall": recall_RC[:, 1]}
    return metrics | _mean_loss(units, weight_RN)


def _matthews(right_RC: np.ndarray, predicted_RC: np.ndarray, gold_RC: np.ndarray) -> np.ndarray:
    """Returns the correlation of two labellings of any number of classes (Gorodkin 2004, equation 8)."""
    square = gold_RC.sum(axis=-1) ** 2
    together = right_RC.sum(axis=-1) * gold_RC.sum(axis=-1) - (predicted_RC * gold_RC).sum(axis=-1)
    apart = (square - (predicted_RC**2).sum(axis=-1)) * (square - (gold_RC**2).sum(axis=-1))
    return _ratio(together, np.sqrt(apart))


def _label_metrics(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    counts = add_counts(units["counts"], weight_RN)
    f1_RC = precision_recall_f1(*counts)[2]
    precision, recall, f1 = precision_recall_f1(*counts.sum(axis=-1))
    metrics = {
        "micro_f1": f1,
        "macro_f1": f1_RC.mean(axis=-1),
        "weighted_f1": _mean(f1_RC, counts[2]),
        "micro_precision": precision,
        "micro_recall": recall,
        "exact_match": weighted_mean(units["exact"], weight_RN),
    }
    return metrics | _mean_loss(units, weight_RN)


def _value_metrics(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    gold, predicted = units["gold"], units["predicted"]
    error = predicted - gold
    return {
        "pearson": _correlation(gold[None], predicted[None], weight_RN),
        "spearman": _correlation(_ranks(gold, weight_RN), _ranks(predicted, weight_RN), weight_RN),
        "loss": weighted_mean(error**2, weight_RN),
        "mse": weighted_mean(error**2, weight_RN),
        "mae": weighted_mean(np.abs(error), weight_RN),
    }


def _mean_loss(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    return {"loss": weighted_mean(units["loss"], weight_RN)} if "loss" in units else {}


def spearman(left_N: np.ndarray, right_N: np.ndarray) -> float:
    """Returns the correlation of the ranks of two lists of numbers; NaN where one is constant."""
    ones_1N = np.ones((1, len(left_N)))
    return float(_correlation(_ranks(left_N, ones_1N), _ranks(right_N, ones_1N), ones_1N)[0])


def _correlation(left_RN: np.ndarray, right_RN: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlations [R]; NaN where one side is constant or not finite, as scipy.stats.pearsonr."""
    count_R1 = weight_RN.sum(axis=-1, keepdims=True)
    undefined_R = np.zeros(len(weight_RN), bool)
    centred = []
    for values_RN in (left_RN, right_RN):
        finite_RN = np.where(np.isfinite(values_RN), values_RN, 0.0)
        least = np.min(np.where(weight_RN > 0, finite_RN, np.inf), axis=-1)
        greatest = np.max(np.where(weight_RN > 0, finite_RN, -np.inf), axis=-1)
        undefined_R |= (least >= greatest) | ((weight_RN > 0) & ~np.isfinite(values_RN)).any(axis=-1)
        centred.append(finite_RN - (weight_RN * finite_RN).sum(axis=-1, keepdims=True) / np.maximum(count_R1, 1.0))
    left, right = centred
    spread = [np.sqrt((weight_RN * side**2).sum(axis=-1)) for side in centred]
    correlation = _ratio((weight_RN * left * right).sum(axis=-1), spread[0] * spread[1])
    return np.where(undefined_R, np.nan, np.clip(correlation, -1.0, 1.0))


def _ranks(values_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """Returns ranks [R, N] from 1, equal values sharing the mean of theirs; a value that counts twice takes two."""
    if not np.isfinite(values_N).all():
        return np.full(weight_RN.shape, np.nan)
    order = np.argsort(values_N, kind="stable")
    is_first = np.diff(values_N[order], prepend=-np.inf) > 0
    size_RG = np.add.reduceat(weight_RN[:, order], np.flatnonzero(is_first), axis=-1)
    rank_RG = np.cumsum(size_RG, axis=-1) - size_RG + (size_RG + 1.0) / 2.0
    ranks_RN = np.empty(weight_RN.shape)
    ranks_RN[:, order] = rank_RG[:, np.cumsum(is_first) - 1]
    return ranks_RN


def _confusion_table(confusion_CC: np.ndarray, labels: Sequence[str]) -> tuple[Table, ...]:
    """Lays out which classes are taken for which, the most frequent first; nothing where none is."""
    wrong = confusion_CC - np.diag(np.diagonal(confusion_CC))
    support = np.maximum(confusion_CC.sum(axis=1), 1)
    first = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs: list[tuple[int, int]] = [divmod(place, len(labels)) for place in first.tolist()]
    rows: list[tuple[Cell, ...]] = [
        (labels[gold], labels[predicted], int(wrong[gold, predicted]), float(wrong[gold, predicted] / support[gold]))
        for gold, predicted in pairs
        if wrong[gold, predicted]
    ]
    columns = ("class", "taken for", "examples", "share of the class")
    return (Table("Most frequent confusions", columns, rows, formats={"share of the class": ".1%"}),) if rows else ()
