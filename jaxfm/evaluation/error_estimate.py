"""How often a model is right on data without labels, estimated from how sure it is, with intervals.

- Average thresholded confidence (Garg et al. 2022, section 4): the confidence below which there are as many labelled
  units as are wrong; the estimate is the share of the new units that reach it.
- Difference of confidences (Guillory et al. 2021, section 3): the accuracy of labelled data less the fall of the mean
  confidence.

Both suppose that how sure a model is means for new data what it means for the labelled data of the reference. A change
of that kind cannot be seen without labels (Garg et al. 2022, section 3). Intervals are of sampling alone.
"""

# N records, U units (a record, its words or its labels), R rounds

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from jaxfm.evaluation.bootstrap import RESAMPLES, SEED, Interval, tail_probability

ATC, DOC = "average thresholded confidence", "difference of confidences"
ESTIMATES = {"atc": ATC, "doc": DOC}
REAL = "with labels"
_CELLS = 4_000_000  # numbers at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What a model says of the units of some records.

    Attributes:
      confidence: f64 [U] probability of what the model says.
      record: int [U] number of the record of each unit, from 0.
      count: records, N.
      right: bool [U] whether that is true; None where it is not known.
    """

    confidence: np.ndarray
    record: np.ndarray
    count: int
    right: np.ndarray | None = None

    def of_records(self) -> np.ndarray:
        """Returns the mean confidence of each record [N]; 1 of a record without units."""
        units = np.bincount(self.record, minlength=self.count)
        sums = np.bincount(self.record, weights=self.confidence, minlength=self.count)
        return np.where(units > 0, sums / np.maximum(units, 1), 1.0)


@dataclasses.dataclass(frozen=True)
class ErrorEstimate:
    """Accuracies of new data beside that of the labelled ones.

    Attributes:
      reference: accuracy of the labelled data.
      accuracy: of the new data, by each estimate; and `REAL` where they have labels.
      drop: of the reference less each of these.
    """

    reference: Interval
    accuracy: Mapping[str, Interval]
    drop: Mapping[str, Interval]


def estimate_error(reference: Judged, new: Judged, resamples: int = RESAMPLES, seed: int = SEED) -> ErrorEstimate:
    """Estimates the accuracy of new data; intervals by a bootstrap of the records of both.

    `reference.right` has to be known; both have one unit at least.
    """
    assert reference.right is not None and len(reference.confidence) and len(new.confidence)
    sides = (_Side(reference), _Side(new))
    whole = _accuracies(*sides, *(np.ones((1, each.judged.count)) for each in sides))
    generator, parts = np.random.default_rng(seed), []
    size = max(1, _CELLS // max(len(reference.confidence), len(new.confidence)))
    for first in range(0, resamples, size):
        rounds = min(size, resamples - first)
        drawn = [
            generator.multinomial(each.judged.count, np.full(each.judged.count, 1 / each.judged.count), size=rounds)
            for each in sides
        ]
        parts.append(_accuracies(*sides, *drawn))
    samples = {name: np.concatenate([part[name] for part in parts]) for name in whole}
    tail = tail_probability(min(reference.count, new.count))

    def interval(value: float, drawn_R: np.ndarray) -> Interval:
        known = drawn_R[np.isfinite(drawn_R)]
        if tail is None or not len(known):
            return Interval(value, math.nan, math.nan)
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(value, float(low), float(high))

    base, base_R = float(whole[""][0]), samples[""]
    names = [name for name in whole if name]
    return ErrorEstimate(
        interval(base, base_R),
        {name: interval(float(whole[name][0]), samples[name]) for name in names},
        {name: interval(base - float(whole[name][0]), base_R - samples[name]) for name in names},
    )


class _Side:
    """Units in the order of their confidence."""

    def __init__(self, judged: Judged):
        self.judged = judged
        order = np.argsort(judged.confidence, kind="stable")
        self.confidence, self.record = judged.confidence[order], judged.record[order]
        self.right = None if judged.right is None else judged.right[order].astype(np.float64)


def _accuracies(
    reference: _Side, new: _Side, weight_RN: np.ndarray, new_weight_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the accuracy of the reference under "", and those of the new data, each [R]; NaN without a unit."""
    weight_RU, new_RU = (
        weight_RN[:, reference.record].astype(np.float64),
        new_weight_RN[:, new.record].astype(np.float64),
    )
    total_R, new_total_R = (np.where(each.sum(axis=-1) > 0, each.sum(axis=-1), np.nan) for each in (weight_RU, new_RU))
    assert reference.right is not None
    accuracy_R = weight_RU @ reference.right / total_R
    wrong_R = weight_RU @ (1 - reference.right)
    below_RU = np.cumsum(weight_RU, axis=-1)
    # The first unit before which as much weight lies as is wrong; where all is wrong none reaches the threshold.
    first_R = (below_RU <= wrong_R[:, None] * (1 + 1e-12)).sum(axis=-1)
    threshold_R = np.append(reference.confidence, np.inf)[first_R]
    from_R = np.searchsorted(new.confidence, threshold_R, side="left")
    new_below_RU = np.pad(np.cumsum(new_RU, axis=-1), ((0, 0), (1, 0)))
    under_R = np.take_along_axis(new_below_RU, from_R[:, None], axis=-1)[:, 0]
    fall_R = weight_RU @ reference.confidence / total_R - new_RU @ new.confidence / new_total_R
    found = {"": accuracy_R, ATC: 1 - under_R / new_total_R, DOC: np.clip(accuracy_R - fall_R, 0.0, 1.0)}
    return found if new.right is None else found | {REAL: new_RU @ new.right / new_total_R}
