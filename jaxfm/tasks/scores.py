"""Scores of whole examples: classes, labels and values, as scikit-learn and scipy define them (zero_division=0).

Nothing here warns: a ratio that is not defined is 0, as in scikit-learn, and such a correlation NaN, as in scipy.
"""

# N examples, C classes or labels, W weighted by how often an example counts

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.observe import plots
from jaxfm.observe.tables import Cell, Table
from jaxfm.tasks.resampling import Resample, Units

# Pairs of classes that a table of confusions names; the matrix itself is a picture, and whole in the detail.
_CONFUSIONS = 10


@dataclasses.dataclass(frozen=True)
class Scores:
    """What is known of a split's predictions.

    Attributes:
      metrics: name -> number.
      detail: further scores as JSON values.
      tables: for people.
      resample: the metrics as a function of the examples.
      pictures: name -> what draws it as a PNG file.
    """

    metrics: dict[str, float]
    detail: dict[str, Any]
    tables: tuple[Table, ...]
    resample: Resample
    pictures: Mapping[str, Callable[[pathlib.Path], None]] = dataclasses.field(default_factory=dict)


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
      identity: see `Resample`; by default the gold classes.
    """
    gold, predicted = np.asarray(gold_N), np.asarray(probability_NC).argmax(axis=-1)
    # In alphabetical order, so that two models that number the classes otherwise can be compared.
    order = np.argsort(np.asarray(labels, dtype=object), kind="stable")
    rank = np.argsort(order)
    units: dict[str, np.ndarray] = {"gold": rank[gold], "predicted": rank[predicted]}
    if loss_N is not None:
        units["loss"] = np.asarray(loss_N, np.float64)
    positive = int(rank[1]) if len(labels) == 2 else None
    resample = Resample(
        unit="examples",
        units=units,
        computed=functools.partial(_class_metrics, classes=len(labels), positive=positive),
        identity=[labels[index] for index in gold.tolist()] if identity is None else identity,
        classes=tuple(labels[index] for index in order),
        right=gold == predicted,
    )
    confusion_CC = _confusion(gold, predicted, np.ones(len(gold)), len(labels)).astype(np.int64)
    right_C, predicted_C, gold_C = _margins(confusion_CC)
    names = [name for name, there in zip(labels, gold_C + predicted_C > 0, strict=True) if there]
    there = np.flatnonzero(gold_C + predicted_C)
    per_class, averages = report(names, right_C[there], predicted_C[there], gold_C[there])
    metrics = resample.metrics(np.arange(len(gold)))
    return Scores(
        metrics=metrics,
        detail={"per_class": per_class, **averages, "classes": list(labels), "confusion": confusion_CC.tolist()},
        tables=(score_table("Classes", "class", per_class, averages), *_confusion_table(confusion_CC, labels)),
        resample=resample,
        pictures={"confusion": lambda path: plots.plot_confusion(confusion_CC, labels, path)},
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
      identity: see `Resample`; by default the gold labels.
    """
    gold, predicted = np.asarray(gold_NC) > 0, np.asarray(probability_NC) >= threshold
    exact = (gold == predicted).all(axis=-1)
    counts = np.concatenate([gold & predicted, predicted, gold], axis=-1)
    order = np.argsort(np.asarray(labels, dtype=object), kind="stable")
    parts = np.concatenate([order + part * len(labels) for part in range(3)])
    units = {"counts": counts[:, parts].astype(np.float64), "exact": exact.astype(np.float64)}
    if loss_N is not None:
        units["loss"] = np.asarray(loss_N, np.float64)
    if identity is None:
        identity = [tuple(labels[index] for index in np.flatnonzero(row)) for row in gold]
    classes = tuple(labels[index] for index in order)
    resample = Resample("examples", units, _label_metrics, identity, classes, right=exact)
    per_label, averages = report(labels, *counts.sum(axis=0, dtype=np.int64).reshape(3, -1))
    return Scores(
        metrics=resample.metrics(np.arange(len(gold))),
        detail={"per_label": per_label, **averages, "threshold": threshold},
        tables=(score_table(f"Labels (from a probability of {threshold:g})", "label", per_label, averages),),
        resample=resample,
        pictures={"per_label": lambda path: plots.plot_per_type(per_label, path, what="label")},
    )


def score_values(gold_N: np.ndarray, predicted_N: np.ndarray, *, identity: Sequence[Any] | None = None) -> Scores:
    """Scores predicted numbers: both correlations, mean squared and mean absolute error."""
    gold, predicted = np.asarray(gold_N, np.float64), np.asarray(predicted_N, np.float64)
    if identity is None:
        identity = gold.tolist()
    resample = Resample("examples", {"gold": gold, "predicted": predicted}, _value_metrics, identity)
    metrics = resample.metrics(np.arange(len(gold)))

    def summary(values: np.ndarray) -> dict[str, float]:
        return {"mean": values.mean(), "deviation": values.std(), "least": values.min(), "greatest": values.max()}

    rows = {name: summary(values) for name, values in (("gold", gold), ("predicted", predicted))}
    table = Table(
        "Values", ("values", *rows["gold"]), [(name, *map(float, row.values())) for name, row in rows.items()]
    )
    drawable = len(gold) > 0 and bool(np.isfinite(predicted).all())
    pictures = {"values": lambda path: plots.plot_values(gold, predicted, path)} if drawable else {}
    return Scores(metrics, {}, (table,), resample, pictures)


def report(
    names: Sequence[str], right_C: np.ndarray, predicted_C: np.ndarray, gold_C: np.ndarray
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns precision, recall, F1 and support by class, and their averages "micro", "macro" and "weighted"."""
    each = np.stack(precision_recall_f1(right_C, predicted_C, gold_C))

    def row(values: np.ndarray, support: float) -> dict[str, Any]:
        return dict(zip(("precision", "recall", "f1"), values.tolist(), strict=True)) | {"support": int(support)}

    per_class = {name: row(each[:, index], gold_C[index]) for index, name in enumerate(names)}
    micro = np.stack(precision_recall_f1(right_C.sum(), predicted_C.sum(), gold_C.sum()))
    values = {"micro": micro, "macro": _mean(each, np.ones(len(names))), "weighted": _mean(each, gold_C)}
    return per_class, {name: row(average, gold_C.sum()) for name, average in values.items()}


def score_table(title: str, what: str, items: Mapping[str, Any], averages: Mapping[str, Any]) -> Table:
    """Lays out what `report` returns: a row a class, then the averages."""
    named = {**items, **{f"{name} average": average for name, average in averages.items()}}
    rows: list[tuple[Cell, ...]] = [
        (name, score["precision"], score["recall"], score["f1"], score["support"]) for name, score in named.items()
    ]
    return Table(title, (what, "precision", "recall", "F1", "support"), tuple(rows), footer=len(averages))


def precision_recall_f1(right: Any, predicted: Any, gold: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the three ratios of counts, arrays of any one shape; 0 for a division by 0."""
    return _ratio(right, predicted), _ratio(right, gold), _ratio(2 * np.asarray(right), np.add(predicted, gold))


def _ratio(part: Any, whole: Any) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)


def _mean(values: np.ndarray, weights_C: np.ndarray) -> np.ndarray:
    return _ratio((values * weights_C).sum(axis=-1), weights_C.sum())


def _confusion(gold_N: np.ndarray, predicted_N: np.ndarray, weight_N: np.ndarray, classes: int) -> np.ndarray:
    """Returns counts [gold class, predicted class]."""
    flat = np.bincount(gold_N * classes + predicted_N, weights=weight_N, minlength=classes * classes)
    return flat.reshape(classes, classes)


def _margins(confusion_CC: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.diagonal(confusion_CC), confusion_CC.sum(axis=0), confusion_CC.sum(axis=1)


def _class_metrics(units: Units, weight_N: np.ndarray, *, classes: int, positive: int | None) -> dict[str, float]:
    right_C, predicted_C, gold_C = _margins(_confusion(units["gold"], units["predicted"], weight_N, classes))
    precision_C, recall_C, f1_C = precision_recall_f1(right_C, predicted_C, gold_C)
    there_C = (predicted_C + gold_C > 0).astype(np.float64)
    metrics = {
        "accuracy": _ratio(right_C.sum(), gold_C.sum()),
        "macro_f1": _mean(f1_C, there_C),
        "weighted_f1": _mean(f1_C, gold_C),
        "macro_precision": _mean(precision_C, there_C),
        "macro_recall": _mean(recall_C, there_C),
        "mcc": _matthews(right_C, predicted_C, gold_C),
    }
    if positive is not None:
        metrics |= {"f1": f1_C[positive], "precision": precision_C[positive], "recall": recall_C[positive]}
    return _floats(metrics) | _mean_loss(units, weight_N)


def _matthews(right_C: np.ndarray, predicted_C: np.ndarray, gold_C: np.ndarray) -> np.ndarray:
    """Returns the correlation of two labellings of any number of classes (Gorodkin 2004, equation 8)."""
    count = gold_C.sum()
    together = right_C.sum() * count - predicted_C @ gold_C
    apart = (count**2 - predicted_C @ predicted_C) * (count**2 - gold_C @ gold_C)
    return _ratio(together, np.sqrt(apart))


def _label_metrics(units: Units, weight_N: np.ndarray) -> dict[str, float]:
    right_C, predicted_C, gold_C = (weight_N @ units["counts"]).reshape(3, -1)
    f1_C = precision_recall_f1(right_C, predicted_C, gold_C)[2]
    precision, recall, f1 = precision_recall_f1(right_C.sum(), predicted_C.sum(), gold_C.sum())
    metrics = {
        "micro_f1": f1,
        "macro_f1": f1_C.mean(),
        "weighted_f1": _mean(f1_C, gold_C),
        "micro_precision": precision,
        "micro_recall": recall,
        "exact_match": _ratio(weight_N @ units["exact"], weight_N.sum()),
    }
    return _floats(metrics) | _mean_loss(units, weight_N)


def _value_metrics(units: Units, weight_N: np.ndarray) -> dict[str, float]:
    gold, predicted = units["gold"], units["predicted"]
    error = predicted - gold
    return _floats(
        {
            "pearson": _correlation(gold, predicted, weight_N),
            "spearman": _correlation(_ranks(gold, weight_N), _ranks(predicted, weight_N), weight_N),
            "mse": _ratio(weight_N @ error**2, weight_N.sum()),
            "mae": _ratio(weight_N @ np.abs(error), weight_N.sum()),
        }
    )


def _mean_loss(units: Units, weight_N: np.ndarray) -> dict[str, float]:
    return {"loss": float(_ratio(weight_N @ units["loss"], weight_N.sum()))} if "loss" in units else {}


def _correlation(left_N: np.ndarray, right_N: np.ndarray, weight_N: np.ndarray) -> float:
    """Returns Pearson's correlation; NaN where one side is constant, as scipy.stats.pearsonr."""
    counted = weight_N > 0
    left, right, weight = left_N[counted], right_N[counted], weight_N[counted]
    if not len(left) or (left == left[0]).all() or (right == right[0]).all():
        return float("nan")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("nan")
    left, right = left - weight @ left / weight.sum(), right - weight @ right / weight.sum()
    scale = np.sqrt(weight @ left**2) * np.sqrt(weight @ right**2)
    return float(np.clip(weight @ (left * right) / scale, -1.0, 1.0)) if scale else float("nan")


def _ranks(values_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
    """Returns ranks from 1, equal values sharing the mean of theirs; a value that counts twice takes two."""
    order = np.argsort(values_N, kind="stable")
    group = np.cumsum(np.diff(values_N[order], prepend=values_N[order][:1]) != 0)
    size = np.bincount(group, weights=weight_N[order])
    ranks = np.empty(len(values_N))
    ranks[order] = (np.cumsum(size) - size + (size + 1) / 2)[group]
    return ranks


def _confusion_table(confusion_CC: np.ndarray, labels: Sequence[str]) -> tuple[Table, ...]:
    """Lays out which classes are taken for which, the most frequent first; nothing where none is."""
    wrong = confusion_CC - np.diag(np.diagonal(confusion_CC))
    support = np.maximum(confusion_CC.sum(axis=1), 1)
    first = np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [(gold, predicted) for gold, predicted in zip(*np.unravel_index(first, wrong.shape), strict=True)]
    rows = [
        (labels[gold], labels[predicted], int(wrong[gold, predicted]), float(wrong[gold, predicted] / support[gold]))
        for gold, predicted in pairs
        if wrong[gold, predicted]
    ]
    columns = ("class", "taken for", "examples", "share of the class")
    return (Table("Most frequent confusions", columns, rows, formats={"share of the class": ".1%"}),) if rows else ()


def _floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
