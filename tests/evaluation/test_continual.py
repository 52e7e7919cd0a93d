"""Measures of learning in stages, on matrices whose measures are computed by hand."""

import math

import numpy as np
import pytest

from jaxfm.evaluation.continual import average_score, backward_transfer, forgetting, forward_transfer, measures

# After stage 1, 2 and 3 (rows), on the data of stage 1, 2 and 3.
MATRIX = np.asarray([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.5, 0.85, 0.7]])
UNTRAINED = (0.1, 0.15, 0.25)


def test_measures_by_hand() -> None:
    found = measures(MATRIX, UNTRAINED)
    assert found == {
        "average": pytest.approx((0.5 + 0.85 + 0.7) / 3),
        "forgetting": pytest.approx(((0.9 - 0.5) + (0.8 - 0.85)) / 2),
        "backward_transfer": pytest.approx(((0.5 - 0.9) + (0.85 - 0.8)) / 2),
        "forward_transfer": pytest.approx(((0.2 - 0.15) + (0.3 - 0.25)) / 2),
    }


def test_measures_after_an_earlier_stage() -> None:
    assert average_score(MATRIX, 0) == pytest.approx(0.9)
    assert average_score(MATRIX, 1) == pytest.approx(0.7)
    assert forgetting(MATRIX, 1) == pytest.approx(0.3)
    assert math.isnan(forgetting(MATRIX, 0))


def test_forgetting_is_of_the_best_score_before_not_of_the_stages_own() -> None:
    better_later = np.asarray([[0.5, 0.0, 0.0], [0.8, 0.6, 0.0], [0.4, 0.6, 0.9]])
    assert forgetting(better_later) == pytest.approx(((0.8 - 0.4) + 0.0) / 2)
    assert backward_transfer(better_later) == pytest.approx(((0.4 - 0.5) + 0.0) / 2)


def test_scores_that_are_not_defined() -> None:
    above = np.where(np.triu(np.ones((3, 3), bool), 1), np.nan, MATRIX)
    assert measures(above, UNTRAINED)["average"] == measures(MATRIX, UNTRAINED)["average"]
    assert measures(above, UNTRAINED)["forgetting"] == measures(MATRIX, UNTRAINED)["forgetting"]
    assert math.isnan(forward_transfer(above, UNTRAINED))
    above[0, 1] = 0.2
    assert forward_transfer(above, UNTRAINED) == pytest.approx(0.05)
    alone = np.asarray([[0.9]])
    assert average_score(alone) == 0.9 and math.isnan(backward_transfer(alone)) and math.isnan(forgetting(alone))
