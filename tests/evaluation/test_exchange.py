"""Gaps between groups: their sizes, p-values under a null without differences, and what is missing."""

import numpy as np
import pytest

from jaxfm.evaluation.exchange import gaps, group_gaps


def test_a_gap_is_the_value_less_the_mean_of_the_others() -> None:
    found = gaps(np.array([[1.0, 2.0, 6.0], [0.5, np.nan, 0.1]]))
    np.testing.assert_allclose(found[0], [1 - 4, 2 - 3.5, 6 - 1.5])
    np.testing.assert_allclose(found[1], [0.4, np.nan, -0.4])
    assert np.isnan(gaps(np.array([[1.0, np.nan]]))).all()


def test_p_values_are_those_of_the_largest_standardised_gap() -> None:
    draw = np.random.default_rng(0)
    observed = np.array([[0.5, 0.1, 0.3], [10.0, 12.0, 15.0]])
    null = draw.normal(size=(400, 2, 3)) * np.array([0.1, 2.0])[None, :, None]
    resampled = observed + draw.normal(size=(300, 2, 3)) * 0.01
    found = group_gaps(observed, null, resampled, numbers=["p", "n"], groups=list("abc"), count=50)
    assert len(found) == 6 and [each.p for each in found] == sorted(each.p for each in found)
    null_gaps = np.abs(null - (null.sum(axis=-1, keepdims=True) - null) / 2)
    spread = np.sqrt((null_gaps**2).mean(axis=0))
    largest = (null_gaps / spread).max(axis=(1, 2))
    for each in found:
        row, column = ["p", "n"].index(each.number), "abc".index(each.group)
        size = abs(gaps(observed)[row, column])
        assert each.p == pytest.approx((1 + (largest >= size / spread[row, column]).sum()) / 401)
        assert (
            each.value - each.others == pytest.approx(each.interval.value) == pytest.approx(gaps(observed)[row, column])
        )
        assert each.interval.low < each.interval.value < each.interval.high


def test_of_two_groups_one_is_shown_and_what_never_varies_has_no_p_below_one() -> None:
    observed = np.array([[1.0, 1.0]])
    same = np.ones((50, 1, 2))
    (found,) = group_gaps(observed, same, same, numbers=["x"], groups=["a", "b"], count=5)
    assert (found.group, found.p, found.interval.value) == ("b", 1.0, 0.0)


def test_one_in_twenty_sets_without_differences_is_accused_however_many_gaps_are_looked_at() -> None:
    draw, accused = np.random.default_rng(1), 0
    for _ in range(200):
        values = draw.normal(size=(40, 12))  # of units with 12 numbers each
        order = np.stack([draw.permutation(40) for _ in range(200)])
        null = np.stack([values[order[:, part]].mean(axis=1) for part in np.split(np.arange(40), 4)], axis=-1)
        observed = np.stack([values[part].mean(axis=0) for part in np.split(np.arange(40), 4)], axis=-1)
        found = group_gaps(observed, null, null, numbers=list("abcdefghijkl"), groups=list("wxyz"), count=10)
        accused += found[0].p < 0.05
    assert 2 <= accused <= 20  # 10 are expected of 200; with 48 tests each by itself it would be nearly all
