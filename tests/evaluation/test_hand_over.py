"""Shares of answers and hand-overs by hand, their intervals, and the curve of wrong answers."""

import math
from typing import Any

import numpy as np
import pytest

from jaxfm.evaluation import hand_over
from jaxfm.evaluation.hand_over import Outcomes, risk_coverage, shares

INF = float("inf")


def outcomes(**changes: Any) -> Outcomes:
    """Six requests of three dialogues: four answered, three of these rightly."""
    values = {
        "dialogues": [0, 0, 1, 1, 1, 2],
        "scores": [0.9, 0.8, -INF, 0.7, 0.6, 0.2],
        "right": [True, False, True, True, True, True],
        "answered": [True, True, False, True, True, False],
        "alone_scores": [0.9, 0.8, 0.95, 0.7, 0.7, -INF],
        "alone_right": [True, False, False, True, False, False],
        "intent_right": [True, True, False, True, False, False],
        "intent_known": [True, True, True, True, False, False],
        **changes,
    }
    return Outcomes(**{name: np.asarray(each) for name, each in values.items()})


def test_shares_by_hand() -> None:
    found = shares(outcomes())
    value = {name: each.value for name, each in found.items()}
    assert value[hand_over.ANSWERED] == pytest.approx(4 / 6)
    assert value[hand_over.RIGHT_ANSWERS] == pytest.approx(3 / 4)
    assert value[hand_over.RIGHT] == pytest.approx(3 / 6)
    assert value[hand_over.ALONE_RIGHT] == pytest.approx(2 / 6)
    # The four surest: 0.95 wrong, 0.9 right, 0.8 wrong, and of the two of 0.7 the wrong one.
    assert outcomes().alone_answered.tolist() == [True, True, True, False, True, False]
    assert value[hand_over.ALONE_RIGHT_ANSWERS] == pytest.approx(1 / 4)
    assert value[hand_over.ALONE_RIGHT_OF_ALL] == pytest.approx(1 / 6)
    assert value[hand_over.GAIN] == pytest.approx(3 / 4 - 1 / 4)
    assert value[hand_over.INTENTS] == pytest.approx(3 / 4)
    assert all(each.low <= each.value <= each.high for each in found.values())


def test_dialogues_are_drawn_whole() -> None:
    """A dialogue's requests are all alike here, so that 8 dialogues of 5 give the interval of 8 single requests."""
    draw = np.random.default_rng(0)
    right = draw.random(8) < 0.5
    one = {"scores": [1.0] * 8, "answered": [True] * 8, "alone_scores": [1.0] * 8, "intent_known": [False] * 8}
    few = outcomes(dialogues=list(range(8)), right=right, alone_right=~right, intent_right=right, **one)
    many = Outcomes(**{name: np.repeat(getattr(few, name), 5) for name in vars(few)})
    assert shares(few) == shares(many) and hand_over.INTENTS not in shares(few)
    assert shares(few)[hand_over.RIGHT].low < shares(few)[hand_over.RIGHT].high


def test_nothing_answered() -> None:
    found = shares(outcomes(answered=[False] * 6))
    assert found[hand_over.ANSWERED].value == 0 and found[hand_over.RIGHT].value == 0
    assert math.isnan(found[hand_over.RIGHT_ANSWERS].value) and math.isnan(found[hand_over.GAIN].value)


def test_the_curve_is_that_of_every_threshold() -> None:
    draw = np.random.default_rng(1)
    scores, right = draw.integers(0, 12, 50).astype(float), draw.random(50) < 0.6
    scores[:5] = -INF
    expected = []
    for threshold in sorted(set(scores[np.isfinite(scores)]), reverse=True):
        answered = scores >= threshold
        expected.append((answered.mean(), 1 - right[answered].mean()))
    np.testing.assert_allclose(risk_coverage(scores, right), expected, atol=1e-12)
    fewer = risk_coverage(scores, right, most=4)
    assert len(fewer) == 4 and {fewer[0], fewer[-1]} <= set(risk_coverage(scores, right))
    assert risk_coverage(np.full(3, -INF), np.ones(3, bool)) == []
