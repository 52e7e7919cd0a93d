"""The fall of a score on other data, beside the normal distribution's interval of two shares."""

import math

import numpy as np
import pytest

from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.evaluation.score_drop import score_drop


def data(right: np.ndarray, *, less: bool = False) -> BootstrapData:
    def computed(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        return {"share": weight_RN @ units["right"] / weight_RN.sum(axis=-1)}

    less_is_better = ("share",) if less else ()
    return BootstrapData(
        "texts", {"right": right.astype(np.float64)}, computed, list(range(len(right))), less_is_better=less_is_better
    )


def test_the_interval_is_that_of_two_independent_shares() -> None:
    before, after = np.arange(400) < 360, np.arange(300) < 210
    found = score_drop(data(before), data(after), "share", resamples=4000)
    error = math.sqrt(0.9 * 0.1 / 400 + 0.7 * 0.3 / 300)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error), abs=0.004)
    less = score_drop(data(before, less=True), data(after, less=True), "share", resamples=50)
    assert less.value == pytest.approx(-0.2)


def test_one_unit_has_no_interval() -> None:
    found = score_drop(data(np.ones(5)), data(np.zeros(1)), "share", resamples=10)
    assert found.value == 1.0 and math.isnan(found.low)
