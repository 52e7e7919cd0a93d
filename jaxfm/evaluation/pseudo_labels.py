"""Which of a model's own labels to learn from: self-training (Yarowsky 1995; Lee 2013, pseudo-labels)."""

# N records, U units (words of a record, or 1), C classes

import collections
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

OVER = MIN, MEAN = ("min", "mean")
NOTHING = "(none)"  # the class of a record without label or entity


def confidence(probabilities_UC: np.ndarray, probability: str, over: str) -> float:
    """Returns how sure a model is of all that it says of a record: 0 to 1.

    The probability of the likeliest class of a unit; of labels ("sigmoid") that of each label's likelier side. Of
    several units, or labels, it is the least ("min") or the mean. Nothing is learned from a record without units: 0.
    """
    assert over in OVER, over
    if probability == "sigmoid":
        sure = np.maximum(probabilities_UC, 1.0 - probabilities_UC).reshape(-1)
    else:
        sure = probabilities_UC.max(axis=-1)
    if not len(sure):
        return 0.0
    return float(sure.min() if over == MIN else sure.mean())


def choose(
    confidence_N: np.ndarray,
    classes: Sequence[Sequence[str]],
    threshold: float,
    *,
    per_class: int = 0,
    balance: bool = False,
) -> list[int]:
    """Returns the numbers, in order, of the records whose labels are learned from.

    Records are taken from the surest on. One with several classes is taken while any of them has room.

    Args:
      confidence_N: of each record.
      classes: that each has; none counts as a class too.
      threshold: the least confidence.
      per_class: most records of a class; 0: any number.
      balance: no class has more than the rarest of those that are sure enough.
    """
    classes = [tuple(dict.fromkeys(each)) or (NOTHING,) for each in classes]
    sure = [number for number in np.argsort(-confidence_N, kind="stable") if confidence_N[number] >= threshold]
    room: float = per_class or np.inf
    if balance and sure:
        room = min(room, *collections.Counter(name for number in sure for name in classes[number]).values())
    taken, counts = [], collections.Counter[str]()
    for number in sure:
        if any(counts[name] < room for name in classes[number]):
            counts.update(classes[number])
            taken.append(int(number))
    return sorted(taken)


def label_digest(line: Mapping[str, Any]) -> str:
    """Returns a short hash of a record with its label, by which those of two rounds are compared."""
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:12]


def agreement(before: Sequence[str], after: Sequence[str]) -> float:
    """Returns the share of records that two rounds label alike, from the digests of both."""
    assert len(before) == len(after)
    return sum(map(str.__eq__, before, after)) / max(len(before), 1)
