"""The interval of a score, by what the score is: exact for shares, with a prior for F1 and its like, else bootstrap.

A bootstrap draws the units of a split anew. Where hardly one of them is wrong it has hardly anything to draw: 27 right
answers of 27 give 1.0 in every sample, though a model that errs once in ten times has such a split 6 times in 100.
"""

# N units, M prior units, R rounds

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData
from jaxfm.evaluation.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    SEED,
    Interval,
    bootstrap_intervals,
    in_chunks,
    tail_probability,
)
from jaxfm.observe.tables import Table

EXACT, WITH_PRIOR, BOOTSTRAP = "exact", "bootstrap, prior", "bootstrap"


def intervals(
    bootstrap_data: BootstrapData, metrics: Mapping[str, float], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Returns the 95 % interval of each of `metrics` that `bootstrap_data` computes; NaN where there is none.

    - A share of the units that are right ("accuracy" of examples): exact, Clopper and Pearson 1934.
    - What `bootstrap_data.prior` names (F1, precision, recall): the outer ends of two intervals, the percentile
      bootstrap and the middle 95 % of the posterior under Dirichlet weights of the units and of a little of each
      outcome that may not have been seen yet (the Bayesian bootstrap of Rubin 1981 with a prior; over a confusion
      matrix alone it is that of Caelen 2017). The first is too narrow where hardly a unit is wrong, the second too low
      where few units have a class; docs/trust.md has how often both hold the truth.
    - All others (losses, correlations): the percentile bootstrap.

    Both kinds that draw are widened for few units (`tail_probability`). Registered metrics are left out: they are
    functions of predictions, not of weighted units.
    """
    method = methods(bootstrap_data, metrics)
    drawn = {name: value for name, value in metrics.items() if method[name] != EXACT}
    found = bootstrap_intervals(bootstrap_data, drawn, resamples, seed) if drawn else {}
    posterior = _posterior(bootstrap_data, resamples, seed) if WITH_PRIOR in method.values() else {}
    for name, value in metrics.items():
        if method[name] == EXACT:
            assert bootstrap_data.right is not None
            found[name] = Interval(value, *exact_share(int(bootstrap_data.right.sum()), bootstrap_data.count))
        elif method[name] == WITH_PRIOR:
            found[name] = _wider(found[name], posterior[name], bootstrap_data.count)
    return {name: found[name] for name in metrics if name in found}


def methods(bootstrap_data: BootstrapData, metrics: Mapping[str, float]) -> dict[str, str]:
    """Returns how the interval of each metric is found: EXACT, WITH_PRIOR or BOOTSTRAP."""
    prior = bootstrap_data.prior
    of_prior = () if prior is None else prior.metrics
    return {
        name: EXACT if name in bootstrap_data.shares else WITH_PRIOR if name in of_prior else BOOTSTRAP
        for name in metrics
    }


def exact_share(right: int, count: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of a share, `right` of `count` units (Clopper and Pearson 1934).

    It holds the true share at least 95 times in 100, whatever the share and the count. NaN without units.
    """
    if not count:
        return math.nan, math.nan
    from scipy import special  # not at the start: a quarter of a second

    alpha = 1 - CONFIDENCE
    low = float(special.betaincinv(right, count - right + 1, alpha / 2)) if right else 0.0
    high = float(special.betaincinv(right + 1, count - right, 1 - alpha / 2)) if right < count else 1.0
    return low, high


def interval_table(found: Mapping[str, Interval], bootstrap_data: BootstrapData) -> Table:
    """Lays out a split's metrics with their intervals."""
    units = f"{bootstrap_data.count:,} {bootstrap_data.sampling_unit}"
    title = f"Scores with {CONFIDENCE:.0%} intervals ({units})"
    method = methods(bootstrap_data, {name: each.value for name, each in found.items()})
    rows = [(name.replace("_", " "), each.value, each.low, each.high, method[name]) for name, each in found.items()]
    return Table(title, ("metric", "value", "from", "to", "interval"), rows)


def describe_intervals(found: Mapping[str, Interval], bootstrap_data: BootstrapData) -> dict[str, Any]:
    """Returns what report.json says of intervals: how they came about, and metric -> [low, high]."""
    how = {
        "confidence": CONFIDENCE,
        "unit": bootstrap_data.sampling_unit,
        "count": bootstrap_data.count,
        "resamples": RESAMPLES,
        "methods": methods(bootstrap_data, {name: each.value for name, each in found.items()}),
    }
    return how | {"metrics": {name: [interval.low, interval.high] for name, interval in found.items()}}


def _posterior(bootstrap_data: BootstrapData, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Returns each metric [R] under gamma weights of all units, which divided by their sum are Dirichlet's."""
    prior = bootstrap_data.prior
    assert prior is not None
    generator = np.random.default_rng(seed)
    shape_NM = np.concatenate([np.ones(bootstrap_data.count), prior.weights])
    both = {name: np.concatenate([values, prior.units[name]]) for name, values in bootstrap_data.units.items()}

    def draw() -> np.ndarray:
        weights = generator.standard_gamma(shape_NM)
        return weights * (len(shape_NM) / weights.sum())  # metrics may compare sums with 1

    return in_chunks(draw, lambda weight_RN: [bootstrap_data.computed(both, weight_RN)], resamples, len(shape_NM))[0]


def _wider(found: Interval, sampled_R: np.ndarray, count: int) -> Interval:
    tail, defined = tail_probability(count), sampled_R[~np.isnan(sampled_R)]
    if tail is None or not len(defined) or math.isnan(found.low):
        return found
    low, high = np.quantile(defined, [tail, 1 - tail])
    return Interval(found.value, min(float(low), found.low), max(float(high), found.high))
