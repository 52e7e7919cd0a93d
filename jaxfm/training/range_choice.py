"""From a histogram of absolute values to the range that integers of 8 bits cover: three rules of calibration."""

import numpy as np

from jaxfm.errors import UserError, did_you_mean

MINMAX, PERCENTILE, ENTROPY = "minmax", "percentile", "entropy"
RULES = (MINMAX, PERCENTILE, ENTROPY)
# Of "percentile": so many of 100 values are within the range. Fewer cut the few large features of encoders' states that
# attention depends on (Wu et al. 2020, "Integer quantization", table 5: BERT needs 99.999).
SHARE = 99.999
_LEVELS = 128  # positive integers and 0
# Ranges that "entropy" tries lie so many bins apart.
_STRIDE = 16


def choose_range(counts: np.ndarray, largest: float, rule: str) -> float:
    """Returns the range by one of RULES; 1 where nothing but zeros was seen.

    "minmax" is the largest value. "percentile" cuts one value in a hundred thousand. "entropy" is the range within
    which the distribution, cut at its end and rounded to 128 levels, has the least Kullback-Leibler divergence from the
    one that is only cut (Migacz 2017, "8-bit inference with TensorRT").

    Args:
      counts: [bins], bin i counts the absolute values from i to i + 1 bins-ths of `largest`.
      largest: absolute value; it may be an upper bound.
      rule: one of RULES.

    Raises:
      UserError: an unknown rule.
    """
    if rule not in RULES:
        raise UserError(f"--calibration={rule}: {did_you_mean(rule, RULES)}")
    counts = np.asarray(counts, np.float64)
    seen = np.flatnonzero(counts)
    if not largest > 0 or not len(seen) or seen[-1] == 0:
        return largest if largest > 0 else 1.0
    end = int(seen[-1]) + 1
    if rule == PERCENTILE:
        total = np.cumsum(counts)
        end = int(np.searchsorted(total, total[-1] * SHARE / 100)) + 1
    elif rule == ENTROPY:
        ends = [*range(_LEVELS, end, _STRIDE), end]
        end = min(ends, key=lambda each: (divergence(counts, each), each)) if end > _LEVELS else end
    return float(largest * (end / len(counts)))


def divergence(counts: np.ndarray, end: int) -> float:
    """Returns KL(cut || cut and rounded to 128 levels) of a histogram whose values from bin `end` on become the last.

    A level spreads its count evenly over those of its bins that have any.
    """
    cut = counts[:end].astype(np.float64)
    inside = cut.copy()  # the levels are of the values within: what is cut is an error, not a level
    cut[-1] += counts[end:].sum()
    level = np.arange(end) * _LEVELS // end
    filled = (inside > 0).astype(np.float64)
    totals = np.bincount(level, weights=inside, minlength=_LEVELS)
    shared = np.bincount(level, weights=filled, minlength=_LEVELS)
    rounded = filled * (totals / np.maximum(shared, 1))[level]
    present = cut > 0
    p = cut[present] / cut.sum()
    # A bin that only the cut values fill has no share after rounding: a little of it, so that the logarithm is finite.
    q = np.maximum(rounded[present] / max(rounded.sum(), 1e-300), 1e-9)
    return float(np.sum(p * np.log(p / q)))
