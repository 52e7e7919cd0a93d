"""Classes as targets: labels to numbers and back, and what counts and chooses with them, of texts and of images alike.

A target is a class ("single") or a tuple of classes ("multi").
"""

# E examples, C classes

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.classes import Scores, score_classes, score_labels
from jaxfm.tasks.losses import ClassLoss, LabelLoss, LossConfig, class_weights

_SHARES = ("accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "mcc")
_OF_CLASSES = dict.fromkeys(_SHARES, True) | {"loss": False}
_OF_TWO = dict.fromkeys(("f1", "precision", "recall"), True)
_OF_LABELS = {
    **dict.fromkeys(("micro_f1", "macro_f1", "weighted_f1", "micro_precision", "micro_recall", "exact_match"), True),
    "loss": False,
}
# Settings of `config.task.loss` that a kind has no use for.
_USELESS = {
    "single": (),
    "multi": ("label_smoothing", "function"),
    "regression": ("label_smoothing", "class_weights", "focal_gamma", "function"),
}


def directions(kind: str, labels: Sequence[str]) -> Mapping[str, bool]:
    """Returns the metrics of "single" or "multi" that may choose a checkpoint -> is more better?"""
    if kind == "multi":
        return _OF_LABELS
    return _OF_CLASSES | (_OF_TWO if len(labels) == 2 else {})


def ordered_labels(kind: str, targets: Iterable[Any], source: str, last: str = "") -> tuple[str, ...]:
    """Returns the classes of the training split: numbers in their order, then names; `last`, if it occurs, at the end.

    Raises:
      UserError: too few classes to learn anything.
    """
    names: set[str] = set()
    for target in targets:
        names.update([target] if kind == "single" else target)
    if len(names) < (2 if kind == "single" else 1):
        found = f"only the class {next(iter(names))!r}" if names else "no label"
        raise UserError(f"config.data.source: the training split of {source} has {found}: nothing to learn.")

    def place(name: str) -> tuple[bool, bool, int, str]:
        number = name.removeprefix("-").isdecimal()
        return name == last, not number, int(name) if number else 0, name

    return tuple(sorted(names, key=place))


def target_numbers(kind: str, labels: Sequence[str], targets: Iterable[Any], origins: Iterable[str]) -> np.ndarray:
    """Returns class numbers int32 [E] ("single"), or 0 or 1 int32 [E, C] ("multi").

    Raises:
      UserError: a class that training did not see; `origins` say where each example was read.
    """
    index = {label: number for number, label in enumerate(labels)}

    def number(origin: str, label: Any) -> int:
        if label not in index:
            raise UserError(
                f"{origin}: the label {label!r} does not occur in the training data. {did_you_mean(str(label), labels)}"
            )
        return index[label]

    if kind == "single":
        return np.asarray([number(*each) for each in zip(origins, targets, strict=True)], np.int32)
    rows = [[number(origin, label) for label in target] for origin, target in zip(origins, targets, strict=True)]
    marks_EC = np.zeros((len(rows), len(index)), np.int32)
    for marks_C, numbers in zip(marks_EC, rows, strict=True):
        marks_C[numbers] = 1
    return marks_EC


def given_classes(numbers: np.ndarray) -> list[np.ndarray]:
    """Returns what `core.labels.LabelledRecord.classes` is of each example of what `target_numbers` gives."""
    return [each[None].astype(np.int64 if numbers.ndim == 1 else bool) for each in numbers]


def predicted_targets(kind: str, labels: Sequence[str], threshold: float, found_EC: np.ndarray) -> list[Any]:
    """Returns the class, or the classes with at least `threshold`, of each example of probabilities [E, C]."""
    if kind == "single":
        return [labels[int(index)] for index in found_EC.argmax(axis=-1)]
    return [tuple(label for label, share in zip(labels, one, strict=True) if share >= threshold) for one in found_EC]


def target_counts(kind: str, labels: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Returns how many examples have each class, [C], of what `target_numbers` gives."""
    return np.bincount(numbers, minlength=len(labels)) if kind == "single" else numbers.sum(axis=0)


def target_losses(
    kind: str, loss: LossConfig, labels: Sequence[str], counts_C: np.ndarray | None
) -> tuple[ClassLoss, LabelLoss]:
    """Reads `config.task.loss` for the kind; `counts_C` are the training targets of each class, None: not known.

    Raises:
      UserError: a setting that the kind has no use for.
    """
    for name in _USELESS[kind]:
        if value := getattr(loss, name):
            raise UserError(f"config.task.loss.{name}: is {value!r}, which config.task.kind={kind} has no use for.")
    if kind != "multi":
        return ClassLoss.of(loss, labels, counts_C), LabelLoss()
    return ClassLoss(), LabelLoss(loss.focal_gamma, class_weights(loss, labels, counts_C))


def score_targets(
    kind: str,
    labels: Sequence[str],
    threshold: float,
    gold: np.ndarray,
    found_EC: np.ndarray,
    *,
    loss_E: np.ndarray,
    identity: Sequence[Hashable],
) -> Scores:
    """Returns what is counted of probabilities [E, C] against what `target_numbers` gives."""
    if kind == "single":
        return score_classes(gold, found_EC, labels, loss_N=loss_E, identity=identity)
    return score_labels(gold, found_EC, labels, threshold, loss_N=loss_E, identity=identity)


def described_target(
    kind: str, gold: Any, predicted: Any, labels: Sequence[str], found_C: np.ndarray
) -> dict[str, Any]:
    """Returns of an example whether it was right, what was asked for, what was found, and what each class has."""
    scores = {label: round(float(share), 4) for label, share in zip(labels, found_C, strict=True)}
    correct = predicted == gold if kind == "single" else set(predicted) == set(gold)
    named = predicted if kind == "single" else list(predicted)
    return {"correct": correct, "gold": gold, "predicted": named, "scores": scores}


def undefined_metric_note(metric: str, undefined: Mapping[str, str]) -> list[str]:
    """Says where the metric that is to choose a checkpoint cannot tell one from another on the validation split."""
    why = undefined.get(metric)
    return [f"NOTE: on valid {metric} {why}; checkpoints are compared by their loss instead"] if why else []
