"""Ranges of inputs from histograms, against the values themselves and a loop over all ranges."""

import math

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.training.range_choice import ENTROPY, MINMAX, PERCENTILE, SHARE, choose_range, divergence

BINS = 2048
RNG = np.random.default_rng(0)
# A bell, and a few values far outside.
VALUES = np.abs(np.concatenate([RNG.normal(size=400_000), RNG.uniform(8, 20, size=8)]))
LARGEST = VALUES.max()
COUNTS = np.bincount(np.minimum((VALUES / LARGEST * BINS).astype(int), BINS - 1), minlength=BINS)


def test_minmax_is_the_largest_value() -> None:
    assert choose_range(COUNTS, LARGEST, MINMAX) == LARGEST
    # Where the limit is an upper bound, it is the end of the last bin that has any.
    wider = np.bincount((VALUES / (3 * LARGEST) * BINS).astype(int), minlength=BINS)
    assert LARGEST <= choose_range(wider, 3 * LARGEST, MINMAX) <= LARGEST * (1 + 3 / BINS)


def test_percentile_cuts_its_share() -> None:
    found = choose_range(COUNTS, LARGEST, PERCENTILE)
    assert abs(found - np.percentile(VALUES, SHARE)) <= 2 * LARGEST / BINS
    assert 0 < (VALUES > found).sum() <= len(VALUES) * (1 - SHARE / 100) + 1
    assert found < LARGEST


def by_loop(counts: np.ndarray, end: int) -> float:
    """The divergence bin by bin."""
    cut = [float(count) for count in counts[:end]]
    inside, cut[-1] = list(cut), cut[-1] + float(counts[end:].sum())
    rounded = [0.0] * end
    for level in range(128):
        of_level = [index for index in range(end) if index * 128 // end == level]
        filled = [index for index in of_level if inside[index] > 0]
        for index in filled:
            rounded[index] = sum(inside[each] for each in of_level) / len(filled)
    total, kept = sum(cut), sum(rounded)
    return sum(
        count / total * math.log((count / total) / max(rounded[index] / kept, 1e-9))
        for index, count in enumerate(cut)
        if count > 0
    )


def test_entropy_is_the_least_divergence() -> None:
    for end in (128, 200, 777, BINS):
        assert divergence(COUNTS, end) == pytest.approx(by_loop(COUNTS, end), rel=1e-9)
    found = choose_range(COUNTS, LARGEST, ENTROPY)
    at = round(found / LARGEST * BINS)
    tried = [*range(128, BINS, 16), BINS]
    assert at == min(tried, key=lambda end: by_loop(COUNTS, end)) and 128 <= at < BINS


def test_few_or_no_values_have_a_range_too() -> None:
    for rule in (MINMAX, PERCENTILE, ENTROPY):
        assert choose_range(np.zeros(BINS), 0.0, rule) == 1.0
        only_zeros = np.eye(1, BINS, 0)[0]
        assert choose_range(only_zeros, 0.0, rule) == 1.0
        assert choose_range(np.eye(1, BINS, BINS - 1)[0], 3.0, rule) == pytest.approx(3.0)
    with pytest.raises(UserError, match=r"--calibration=minmix.*minmax"):
        choose_range(COUNTS, LARGEST, "minmix")
