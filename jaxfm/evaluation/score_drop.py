"""How much worse a score is on other data: two splits that have no unit in common, each drawn anew by itself."""

# N units, R rounds

import math

import numpy as np

from jaxfm.core.evaluation import BootstrapData
from jaxfm.evaluation.bootstrap import RESAMPLES, SEED, Interval, in_chunks, tail_probability


def score_drop(
    reference: BootstrapData, new: BootstrapData, metric: str, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Returns by how much `metric` is worse on the new units, with its 95 % percentile interval.

    Above 0: worse. NaN ends where a side has one unit, or the metric is not defined in any sample.
    """
    worse = -1.0 if metric in reference.less_is_better else 1.0
    values, samples = [], []
    for number, data in enumerate((reference, new)):
        generator = np.random.default_rng((seed, number))

        def draw(data: BootstrapData = data, generator: np.random.Generator = generator) -> np.ndarray:
            return np.bincount(generator.integers(0, data.count, data.count), minlength=data.count)

        def computed(weight_RN: np.ndarray, data: BootstrapData = data) -> list[dict[str, np.ndarray]]:
            return [{metric: data.computed(data.units, weight_RN)[metric]}]

        values.append(data.metrics(np.arange(data.count))[metric])
        samples.append(in_chunks(draw, computed, resamples, data.count)[0][metric])
    drop, drawn = worse * (values[0] - values[1]), worse * (samples[0] - samples[1])
    known, tail = drawn[np.isfinite(drawn)], tail_probability(min(reference.count, new.count))
    if tail is None or not len(known):
        return Interval(drop, math.nan, math.nan)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(drop, float(low), float(high))
