"""Whether groups differ by more than chance: gaps of each from the others, with intervals and p-values for all at once.

The null hypothesis is that it does not matter which group a unit is in. A permutation draws the membership of units
anew; the p-value of a gap is how often the largest of all gaps, each in units of its own deviation under the null, is
at least as large (the max-T method of Westfall & Young 1993). So of many gaps that are all chance at least one has
p < 0.05 in 5 % of the cases only, however many there are.
"""

# N units, G groups, M numbers, R rounds

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxfm.evaluation.bootstrap import Interval, tail_probability


@dataclasses.dataclass(frozen=True)
class Gap:
    """How far a group is from the others in one number.

    Attributes:
      group: its name.
      number: name of what is compared: a probability, a metric.
      value: of the group.
      others: the mean of the other groups' values.
      interval: of value - others.
      p: of so large a gap, or a larger one among all that were compared, where groups do not matter.
    """

    group: str
    number: str
    value: float
    others: float
    interval: Interval
    p: float


def group_gaps(
    observed_MG: np.ndarray,
    exchanged_RMG: np.ndarray,
    resampled_RMG: np.ndarray,
    *,
    numbers: Sequence[str],
    groups: Sequence[str],
    count: int,
) -> tuple[Gap, ...]:
    """Returns the gap of each group in each number, the smallest p first.

    Of two groups only the second has a gap, as the first has the same one with the other sign. A number that a group
    lacks (NaN) has no gap there, and counts for no other group.

    Args:
      observed_MG: values of the groups.
      exchanged_RMG: values where membership is drawn anew.
      resampled_RMG: values of bootstrap samples within each group; of another R.
      numbers: M names.
      groups: G names, two at least.
      count: units of the smallest group that the bootstrap draws.
    """
    assert len(groups) > 1
    observed_MG, values_MG = gaps(observed_MG), observed_MG
    null_RMG, drawn_RMG = np.abs(gaps(exchanged_RMG)), gaps(resampled_RMG)
    spread_MG = np.sqrt(_mean(np.square(null_RMG)))
    known_MG = np.isfinite(observed_MG) & (spread_MG > 0)
    known_MG[:, 0] &= len(groups) > 2
    unit_MG = np.where(known_MG, spread_MG, np.inf)
    largest_R = np.nan_to_num(null_RMG / unit_MG).max(axis=(1, 2))
    found = []
    for row, number in enumerate(numbers):
        for column, group in enumerate(groups):
            gap = float(observed_MG[row, column])
            if (len(groups) == 2 and not column) or math.isnan(gap):
                continue
            as_large = largest_R >= abs(gap) / unit_MG[row, column] - 1e-9
            p = (1 + int(as_large.sum())) / (1 + len(largest_R)) if known_MG[row, column] else 1.0
            value = float(values_MG[row, column])
            ends = _ends(drawn_RMG[:, row, column], count)
            found.append(Gap(group, number, value, value - gap, Interval(gap, *ends), p))
    return tuple(sorted(found, key=lambda each: (each.p, -abs(each.interval.value))))


def gaps(values: np.ndarray) -> np.ndarray:
    """Returns [..., G]: each group's value less the mean of the other groups' values; NaN where either is missing."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    count = known.sum(axis=-1, keepdims=True) - known
    total = filled.sum(axis=-1, keepdims=True) - filled
    others = np.divide(total, count, out=np.full(values.shape, np.nan), where=count > 0)
    return np.where(known, values, np.nan) - others


def _mean(values_RMG: np.ndarray) -> np.ndarray:
    known = np.isfinite(values_RMG)
    count = known.sum(axis=0)
    return np.where(known, values_RMG, 0.0).sum(axis=0) / np.maximum(count, 1)


def _ends(sampled_R: np.ndarray, count: int) -> tuple[float, float]:
    tail, defined = tail_probability(count), sampled_R[np.isfinite(sampled_R)]
    if tail is None or not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
