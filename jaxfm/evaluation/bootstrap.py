"""How sure a score is: the units of a split that can be drawn anew (bootstrap) or exchanged between two models."""

# N units, R rounds

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxfm.core.evaluation import BootstrapData
from jaxfm.errors import UserError
from jaxfm.observe.tables import Cell, Table

RESAMPLES, ROUNDS, CONFIDENCE, SEED = 1000, 2000, 0.95, 0
HOW_TO_READ = f"""\
B - A: the difference, and the interval that would hold the true one in {CONFIDENCE:.0%} of such comparisons (paired
bootstrap, {RESAMPLES:,} resamples). p: how often a difference at least as large comes about where it does not matter
which of the two models a result is of (approximate randomisation, {ROUNDS:,} rounds, or all exchanges of few units;
McNemar's test: exact). least p: the smallest that these data can give, however large the difference. Where it is not
below 0.05, there are too few units that tell the two apart, and no interval is given either. On the border: interval
and p disagree.
Both are about these two sets of weights on data like this: other seeds of the same recipe may differ by more."""
_SHARED = 8  # rounds
_CHUNK = 200_000  # weights at a time: few enough for the cache


@dataclasses.dataclass(frozen=True)
class Interval:
    """A metric and the interval that 95 of 100 like it would have their true value in; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two models over the same units.

    Attributes:
      a: of the first.
      b: of the second.
      interval: b - a with its paired bootstrap interval.
      p: how often a difference at least as large comes about where the models are interchangeable.
      least_p: the least p that these units can give: that of the largest difference among all exchanges.
    """

    a: float
    b: float
    interval: Interval
    p: float
    least_p: float = 0.0

    @property
    def verdict(self) -> Literal["too few", "different", "border", "same"]:
        """What interval and p say together; "too few": nothing, whatever the difference."""
        if self.least_p >= 1 - CONFIDENCE and self.interval.value != 0:
            return "too few"
        outside = not self.interval.low <= 0 <= self.interval.high
        if math.isnan(self.interval.low) or outside == (self.p < 1 - CONFIDENCE):
            return "different" if self.p < 1 - CONFIDENCE else "same"
        return "border"


@dataclasses.dataclass(frozen=True)
class McNemar:
    """How often one of two models is right where the other is not, and the exact two-sided p-value of that."""

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models over the same units.

    Attributes:
      names: of the two models.
      unit: what a unit is, a noun in the plural.
      count: how many there are.
      differences: by metric.
      mcnemar: over units wholly right; None where a unit is not right or wrong.
      less_is_better: names of the metrics of which less is better.
      groups: the same of metrics over groups of the units (queries), where both have them.
    """

    names: tuple[str, str]
    unit: str
    count: int
    differences: Mapping[str, Difference]
    mcnemar: McNemar | None
    less_is_better: tuple[str, ...] = ()
    groups: "Comparison | None" = None

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        metrics = {}
        for name, found in self.differences.items():
            interval = [found.interval.low, found.interval.high]
            metrics[name] = {"a": found.a, "b": found.b, "difference": found.interval.value, "interval": interval}
            metrics[name] |= {"p": found.p, "least_p": found.least_p}
        return {
            "a": self.names[0],
            "b": self.names[1],
            "unit": self.unit,
            "count": self.count,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "rounds": ROUNDS,
            "metrics": metrics,
            "mcnemar": None if self.mcnemar is None else dataclasses.asdict(self.mcnemar),
            **({} if self.groups is None else {"groups": self.groups.to_dict()}),
        }


def bootstrap_intervals(
    bootstrap_data: BootstrapData, metrics: Mapping[str, float], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Returns the 95 % percentile interval of each of `metrics` over bootstrap samples of the units.

    Efron & Tibshirani 1993, section 13.3, widened for few units (Hesterberg 2015, section 5.2: without that 10 units
    give intervals a fifth too narrow). Samples in which a metric is not defined are left out; the interval is NaN where
    it is so in all of them, and where there is one unit alone. `jaxfm/evaluation/intervals.py` says for which metrics
    it is used.
    """
    samples = _bootstrap([bootstrap_data], resamples, seed)[0]
    # Registered metrics are functions of predictions, not of weighted units: they have no interval.
    known = {name: value for name, value in metrics.items() if name in samples}
    return _percentiles(known, samples, dict.fromkeys(known, float(bootstrap_data.count)))


def compare(
    a: BootstrapData,
    b: BootstrapData,
    names: tuple[str, str] = ("A", "B"),
    *,
    resamples: int = RESAMPLES,
    rounds: int = ROUNDS,
    seed: int = SEED,
) -> Comparison:
    """Compares two models unit by unit: interval of each difference, and how likely it is between equal models.

    The p-value is that of a randomisation test (Noreen 1989): in each round every unit's two results change sides with
    probability 1/2; where there are no more than `rounds` ways to do so, each of them is taken once and p is exact.
    Of m units in which the two differ the least p is 2 ** (1 - m). There is no interval where that is not below 5 %:
    a bootstrap of so few units would give one that says more than they can (four rows that agree give an interval
    without 0, but a p of 0.125). Few units that differ widen the interval as few units do.

    Raises UserError where the two were not scored on the same units in the same way.
    """
    _check_pair(a, b, names)
    index_N = np.arange(a.count)
    of_a, of_b = a.metrics(index_N), b.metrics(index_N)
    shared = [name for name in of_a if name in of_b]
    observed = {name: of_b[name] - of_a[name] for name in shared}
    exact = a.count <= math.log2(rounds)
    exchanged = _apart(_exchange(a, b, rounds, seed, exact=exact))
    least = {name: _least_p(observed[name], exchanged[name], exact=exact) for name in shared}
    # A least p that many rounds share is known well, and with it how many units differ.
    few = {name: p for name, p in least.items() if p < 1 and (p * len(exchanged[name]) >= _SHARED or exact)}
    counts = {name: min(1 - math.log2(few[name]), a.count) if name in few else float(a.count) for name in shared}
    found = _percentiles(observed, _apart(_bootstrap([a, b], resamples, seed)), counts)
    differences = {}
    for name in shared:
        interval = found[name]
        if least[name] >= 1 - CONFIDENCE and observed[name] != 0:
            interval = Interval(observed[name], math.nan, math.nan)
        p = _p_value(observed[name], exchanged[name], exact=exact)
        differences[name] = Difference(of_a[name], of_b[name], interval, p, least[name])
    return Comparison(names, a.sampling_unit, a.count, differences, _mcnemar(a.right, b.right), a.less_is_better)


def comparison_tables(comparison: Comparison, split: str) -> tuple[Table, ...]:
    """Lays out a comparison for people who were not there."""
    a, b = comparison.names
    rows: list[tuple[Cell, ...]] = []
    for name, found in comparison.differences.items():
        interval = found.interval
        ends = [None if math.isnan(end) else end for end in (interval.low, interval.high)]
        verdict = _verdict(found, comparison.unit, less_is_better=name in comparison.less_is_better)
        scores = (found.a, found.b, interval.value)
        rows.append((name.replace("_", " "), *scores, *ends, found.p, found.least_p, verdict))
    columns = ("metric", "A", "B", "B - A", "95% from", "to", "p", "least p", "at p < 0.05")
    formats = {"B - A": "+.4f", "95% from": "+.4f", "to": "+.4f", "least p": ".2g"}
    title = f"{split}, {comparison.count:,} {comparison.unit}: A = {a}, B = {b}"
    tables = [Table(title, columns, rows, formats=formats)]
    if (mcnemar := comparison.mcnemar) is not None:
        columns = (f"{comparison.unit} wholly right", "both", "only A", "only B", "neither", "p")
        counts = (mcnemar.both, mcnemar.only_a, mcnemar.only_b, mcnemar.neither)
        tables.append(Table("McNemar's exact test", columns, [("count", *counts, mcnemar.p)]))
    if comparison.groups is not None:
        tables += comparison_tables(comparison.groups, split)
    return tuple(tables)


def _bootstrap(systems: Sequence[BootstrapData], resamples: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Returns each system's metrics over the same samples of the units, arrays [R]."""
    generator, count = np.random.default_rng(seed), systems[0].count

    def draw() -> np.ndarray:
        return np.bincount(generator.integers(0, count, count), minlength=count)

    def chunk(weight_RN: np.ndarray) -> list[dict[str, np.ndarray]]:
        return [system.computed(system.units, weight_RN) for system in systems]

    return in_chunks(draw, chunk, resamples, count)


def _exchange(
    a: BootstrapData, b: BootstrapData, rounds: int, seed: int, *, exact: bool
) -> list[dict[str, np.ndarray]]:
    """Returns the metrics [R] of both sides when each unit changes sides with probability 1/2; exact: in every way."""
    generator, ways = np.random.default_rng(seed), iter(range(2**a.count if exact else 0))
    both = {name: np.concatenate([values, b.units[name]]) for name, values in a.units.items()}

    def draw() -> np.ndarray:
        stays_N = (next(ways) >> np.arange(a.count)) & 1 == 0 if exact else generator.random(a.count) < 0.5
        return np.concatenate([stays_N, ~stays_N])

    def chunk(weight_RM: np.ndarray) -> list[dict[str, np.ndarray]]:
        return [a.computed(both, weight_RM), b.computed(both, 1.0 - weight_RM)]

    return in_chunks(draw, chunk, 2**a.count if exact else rounds, 2 * a.count)


def in_chunks(
    draw: Callable[[], np.ndarray],
    computed: Callable[[np.ndarray], list[dict[str, np.ndarray]]],
    rounds: int,
    units: int,
) -> list[dict[str, np.ndarray]]:
    """Computes many rounds at a time, as many as do not take much memory, and joins what comes out.

    Args:
      draw: makes the weights of one round.
      computed: (weights [R, units]) -> for each system metric -> [R].
      rounds: how many.
      units: how many weights a round has.
    """
    size = max(1, _CHUNK // units)
    parts = []
    for first in range(0, rounds, size):
        weight_RN = np.stack([draw() for _ in range(min(size, rounds - first))]).astype(np.float64)
        parts.append(computed(weight_RN))
    return [
        {name: np.concatenate([part[system][name] for part in parts]) for name in parts[0][system]}
        for system in range(len(parts[0]))
    ]


def _apart(pair: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    a, b = pair
    return {name: b[name] - a[name] for name in a if name in b}


def _percentiles(
    values: Mapping[str, float], samples: Mapping[str, np.ndarray], counts: Mapping[str, float]
) -> dict[str, Interval]:
    """Returns the interval of each value; `counts` says how many units each of them rests on."""
    found = {}
    for name, value in values.items():
        defined = samples[name][~np.isnan(samples[name])]
        tail = tail_probability(counts[name])
        ends = np.quantile(defined, [tail, 1 - tail]) if len(defined) and tail is not None else [math.nan] * 2
        found[name] = Interval(value, float(ends[0]), float(ends[1]))
    return found


def tail_probability(count: float) -> float | None:
    """Returns the share of resamples outside either end of an interval over so many units; None for one unit.

    A bootstrap's spread is too small by sqrt((n - 1) / n), and the normal distribution's tails are thinner than those
    of Student's t (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.2).
    """
    if count <= 1:
        return None
    from scipy import special  # not at the start: a quarter of a second

    t = special.stdtrit(count - 1, (1 + CONFIDENCE) / 2)
    return float(special.ndtr(-math.sqrt(count / (count - 1)) * t))


def _as_large(exchanged_R: np.ndarray, difference: float) -> int:
    """Counts the differences at least as large; what is equal but for rounding is as large."""
    return int((np.abs(exchanged_R) >= abs(difference) - 1e-12 * max(1.0, abs(difference))).sum())


def _p_value(observed: float, exchanged_R: np.ndarray, *, exact: bool) -> float:
    """Share of the differences at least as large as the observed one, which counts as one of them (Noreen 1989)."""
    if math.isnan(observed):
        return math.nan
    count = _as_large(exchanged_R, observed)
    return count / len(exchanged_R) if exact else (1 + count) / (1 + len(exchanged_R))


def _least_p(observed: float, exchanged_R: np.ndarray, *, exact: bool) -> float:
    """Returns the p-value of the largest difference that an exchange gives."""
    defined = exchanged_R[~np.isnan(exchanged_R)]
    if math.isnan(observed):
        return math.nan
    return _p_value(float(np.abs(np.append(defined, observed)).max()), exchanged_R, exact=exact)


def _mcnemar(a_N: np.ndarray | None, b_N: np.ndarray | None) -> McNemar | None:
    """McNemar 1947, exact: of the units that one model alone has right, each model has half by chance."""
    if a_N is None or b_N is None:
        return None
    only_a, only_b = int((a_N & ~b_N).sum()), int((b_N & ~a_N).sum())
    fewer, total = min(only_a, only_b), only_a + only_b
    # Whole numbers: 0.5 ** 2000 is no float.
    ways, term = 0, 1
    for k in range(fewer + 1):
        ways += term
        term = term * (total - k) // (k + 1)
    p = min(1.0, 2 * ways / 2**total)
    return McNemar(int((a_N & b_N).sum()), only_a, only_b, int((~a_N & ~b_N).sum()), p)


def _verdict(found: Difference, unit: str, *, less_is_better: bool) -> str:
    if found.verdict == "too few":
        return f"too few {unit} differ"
    if found.verdict == "same":
        return "no difference shown"
    if found.verdict == "border":
        return "on the border"
    return "B better" if (found.interval.value > 0) != less_is_better else "A better"


def _check_pair(a: BootstrapData, b: BootstrapData, names: tuple[str, str]) -> None:
    def refuse(of_a: object, of_b: object) -> UserError:
        return UserError(
            f"--compare={names[0]},{names[1]}: the two were not scored on the same data, so that no difference means "
            f"anything: {names[0]} {of_a}, {names[1]} {of_b}. Give a --source and --split that both can be scored on."
        )

    if (a.count, a.sampling_unit) != (b.count, b.sampling_unit):
        raise refuse(f"on {a.count:,} {a.sampling_unit}", f"on {b.count:,} {b.sampling_unit}")
    for number, (of_a, of_b) in enumerate(zip(a.identity, b.identity, strict=True)):
        if of_a != of_b:
            where = f"has at number {number + 1} of the {a.sampling_unit}"
            raise refuse(f"{where} {_shortened(of_a)}", f"{where} {_shortened(of_b)}")
    if a.classes != b.classes and sorted(a.classes) == sorted(b.classes):
        raise UserError(
            f"--compare={names[0]},{names[1]}: the positive class is {a.classes[-1]!r} in {names[0]} and "
            f"{b.classes[-1]!r} in {names[1]}. Compare models that agree on it."
        )
    if a.classes != b.classes:
        only_a, only_b = sorted(set(a.classes) - set(b.classes)), sorted(set(b.classes) - set(a.classes))
        raise UserError(
            f"--compare={names[0]},{names[1]}: the two know other classes: {names[0]} alone {only_a}, {names[1]} alone "
            f"{only_b}. Compare models of the same classes."
        )
    shapes = [{name: values.shape for name, values in system.units.items()} for system in (a, b)]
    if shapes[0] != shapes[1]:
        raise refuse(f"by {', '.join(shapes[0])}", f"by {', '.join(shapes[1])}")


def _shortened(identity: object) -> str:
    text = repr(identity)
    return text if len(text) <= 120 else f"{text[:119]}…"
