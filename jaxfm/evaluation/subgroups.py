"""A split's metrics by subgroup: each group's own, with its interval, and how far it is from the others."""

# N units, G groups, M metrics, R rounds

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.evaluation import intervals
from jaxfm.evaluation.bootstrap import RESAMPLES, ROUNDS, SEED, Interval
from jaxfm.evaluation.exchange import Gap, group_gaps

LEAST = 10
"""Units of the smallest group that is compared: a metric of fewer says next to nothing."""
_CHUNK = 2_000_000  # weights at a time


@dataclasses.dataclass(frozen=True)
class Subgroups:
    """Metrics by group.

    Attributes:
      unit: what a unit is, a noun in the plural.
      counts: group -> its units, the largest group first; groups of fewer than `LEAST` units are in `left_out`.
      metrics: group -> metric -> value with its 95 % interval.
      gaps: of each group from the mean of the others, the smallest p first.
      left_out: group -> its units.
    """

    unit: str
    counts: Mapping[str, int]
    metrics: Mapping[str, Mapping[str, Interval]]
    gaps: tuple[Gap, ...]
    left_out: Mapping[str, int]


def by_group(data: BootstrapData, group_N: Sequence[str], metrics: Sequence[str]) -> Subgroups | None:
    """Returns the metrics of each group of units; None where fewer than two groups have `LEAST` units.

    Under the null hypothesis all units may change groups, the sizes of the groups staying. The interval of a gap is a
    bootstrap within each group.

    Args:
      data: the metrics as a function of units.
      group_N: the group of each unit.
      metrics: names of those that are compared; others are left out.
    """
    assert len(group_N) == data.count
    names, number_N, count_G = np.unique(np.asarray(group_N, dtype=str), return_inverse=True, return_counts=True)
    order = sorted(range(len(names)), key=lambda each: (-count_G[each], names[each]))
    kept = [each for each in order if count_G[each] >= LEAST]
    left_out = {str(names[each]): int(count_G[each]) for each in order if count_G[each] < LEAST}
    if len(kept) < 2:
        return None
    groups = [str(names[each]) for each in kept]
    members = [np.flatnonzero(number_N == each) for each in kept]
    known = data.metrics(np.arange(data.count))
    numbers = [name for name in metrics if name in known]
    counts = dict(zip(groups, map(len, members), strict=True))
    found = {group: _intervals(data, index, numbers) for group, index in zip(groups, members, strict=True)}
    generator = np.random.default_rng(SEED)
    everyone, sizes = np.concatenate(members), [len(index) for index in members]

    def observed() -> list[np.ndarray]:
        return members

    def exchanged() -> list[np.ndarray]:
        return np.split(generator.permutation(everyone), np.cumsum(sizes)[:-1])

    def resampled() -> list[np.ndarray]:
        return [generator.choice(index, len(index)) for index in members]

    gaps = group_gaps(
        _values(data, observed, 1, numbers)[0],
        _values(data, exchanged, ROUNDS, numbers),
        _values(data, resampled, RESAMPLES, numbers),
        numbers=numbers,
        groups=groups,
        count=min(sizes),
    )
    return Subgroups(data.sampling_unit, counts, found, gaps, left_out)


def _values(
    data: BootstrapData, draw: Callable[[], list[np.ndarray]], rounds: int, numbers: Sequence[str]
) -> np.ndarray:
    """Returns metrics [R, M, G] of the units that `draw` gives each group, some perhaps several times."""
    groups, parts = len(draw()), []
    size = max(1, _CHUNK // (groups * data.count))
    for first in range(0, rounds, size):
        drawn = [draw() for _ in range(min(size, rounds - first))]
        weight_RGN = np.asarray(
            [[np.bincount(index, minlength=data.count) for index in each] for each in drawn], np.float64
        )
        computed = [data.computed(data.units, weight_RGN[:, group]) for group in range(groups)]
        parts.append(np.asarray([[each[name] for each in computed] for name in numbers]).transpose(2, 0, 1))
    return np.concatenate(parts)


def _units(units: Units, index: np.ndarray) -> Units:
    return {name: values[index] for name, values in units.items()}


def _intervals(data: BootstrapData, index: np.ndarray, numbers: Sequence[str]) -> dict[str, Interval]:
    part = dataclasses.replace(
        data,
        units=_units(data.units, index),
        identity=[data.identity[each] for each in index.tolist()],
        right=None if data.right is None else data.right[index],
    )
    found = part.metrics(np.arange(part.count))
    return intervals.intervals(part, {name: found[name] for name in numbers})
