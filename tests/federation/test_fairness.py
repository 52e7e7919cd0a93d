"""A score over clients, by hand."""

import math

import pytest

from jaxfm.federation.fairness import summary
from jaxfm.federation.update import Scores

SCORES = [Scores(0, 10, {"f1": 0.9}), Scores(1, 30, {"f1": 0.5}), Scores(2, 5, {"f1": math.nan}), Scores(3, 0, {})]


def test_mean_worst_and_gap() -> None:
    found = summary(SCORES, "f1", more_is_better=True)
    assert found["mean"] == pytest.approx(0.7) and found["weighted_mean"] == pytest.approx(0.6)
    assert (found["worst"], found["worst_client"]) == (0.5, 1)
    assert found["gap"] == pytest.approx(0.2) and found["deviation"] == pytest.approx(0.2)
    assert found["clients"] == {"0": 0.9, "1": 0.5, "2": None, "3": None} and found["undefined"] == 2
    loss = summary(SCORES, "f1", more_is_better=False)
    assert (loss["worst"], loss["worst_client"]) == (0.9, 0)


def test_without_any_score_there_are_none() -> None:
    found = summary(SCORES[2:], "f1", more_is_better=True)
    assert found["mean"] is None and found["worst_client"] is None and found["undefined"] == 2
