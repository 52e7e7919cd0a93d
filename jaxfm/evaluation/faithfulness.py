"""Methods of attribution beside random orders of words: intervals, and how likely a difference is by chance."""

# N records, R rounds

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.evaluation.bootstrap import Difference, Interval, bootstrap_intervals, compare
from jaxfm.observe.tables import Cell, Table

RANDOM = "random order"
SCORES = ("comprehensiveness", "sufficiency")


@dataclasses.dataclass(frozen=True)
class Faithfulness:
    """Scores of one order of words over records.

    Attributes:
      intervals: of `SCORES` -> mean over records with its 95 % interval.
      against_random: of `SCORES` -> the paired difference to random orders; None for these themselves.
    """

    intervals: Mapping[str, Interval]
    against_random: Mapping[str, Difference] | None

    @property
    def better(self) -> bool:
        """Whether both scores are better than random at p < 0.01."""
        if self.against_random is None:
            return False
        more, less = (self.against_random[name] for name in SCORES)
        return more.interval.value > 0 > less.interval.value and max(more.p, less.p) < 0.01


def measure(scores: Mapping[str, np.ndarray]) -> dict[str, Faithfulness]:
    """Returns the faithfulness of methods, the random orders first.

    Args:
      scores: method -> f64 [N, 2], comprehensiveness and sufficiency of each record; `RANDOM` is one of them. Records
        without a score (NaN) are left out.
    """
    kept_N = ~np.isnan(scores[RANDOM]).any(axis=-1)
    data = {name: _data(values_N2[kept_N]) for name, values_N2 in scores.items()}
    found = {}
    for name in sorted(data, key=lambda name: name != RANDOM):
        intervals = bootstrap_intervals(data[name], data[name].metrics(np.arange(data[name].count)))
        differences = None if name == RANDOM else compare(data[RANDOM], data[name], (RANDOM, name)).differences
        found[name] = Faithfulness(intervals, differences)
    return found


def faithfulness_table(found: Mapping[str, Faithfulness], records: int) -> Table:
    """Lays the scores out for people."""
    rows: list[Sequence[Cell]] = []
    for name, each in found.items():
        cells: list[Cell] = [name.replace("_", " ")]
        for score in SCORES:
            interval = each.intervals[score]
            cells += [interval.value, f"{interval.low:.4f} to {interval.high:.4f}"]
            cells.append(None if each.against_random is None else each.against_random[score].p)
        rows.append(cells)
    columns = ("words by", SCORES[0], "its 95 %", "its p", SCORES[1], "95 %", "p")
    return Table(f"Faithfulness, {records:,} records", columns, rows)


def to_values(found: Mapping[str, Faithfulness]) -> dict[str, Any]:
    """Returns everything as JSON values."""
    values: dict[str, Any] = {}
    for name, each in found.items():
        values[name] = {
            score: {"value": interval.value, "interval": [interval.low, interval.high]}
            for score, interval in each.intervals.items()
        }
        for score, difference in (each.against_random or {}).items():
            ends = [difference.interval.low, difference.interval.high]
            values[name][score]["against_random"] = {"difference": difference.interval.value, "interval": ends}
            values[name][score]["against_random"] |= {"p": difference.p, "least_p": difference.least_p}
    return values


def _data(values_N2: np.ndarray) -> BootstrapData:
    def computed(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        total_R = weight_RN.sum(axis=-1)
        return {name: weight_RN @ units[name] / total_R for name in SCORES}

    units: dict[str, np.ndarray] = {name: values_N2[:, number] for number, name in enumerate(SCORES)}
    return BootstrapData("records", units, computed, range(len(values_N2)), less_is_better=SCORES[1:])
