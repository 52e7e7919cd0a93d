"""The rules by which drift is judged, one by one: each fires where it should, and not where it should not."""

import math

import numpy as np
import pytest

from jaxfm.evaluation.bootstrap import Interval
from jaxfm.evaluation.drift_rules import (
    AREA,
    ERROR,
    FAR,
    LOOK,
    NOTHING,
    SCORE,
    SHIFT,
    TRAIN_AGAIN,
    Drop,
    Thresholds,
    judge,
    measures,
)
from jaxfm.evaluation.two_samples import PermutationTest

NULL = np.linspace(0.0, 0.1, 999)
USUAL = Thresholds(alpha=0.01, least=0.1, max_drop=0.05, far=0.9)


def drop(value: float, low: float, high: float) -> Drop:
    return Drop("accuracy", Interval(value, low, high))


@pytest.mark.parametrize(
    ("fallen", "verdict"),
    [
        (drop(0.2, 0.1, 0.3), TRAIN_AGAIN),
        (drop(0.2, 0.04, 0.3), LOOK),
        (drop(0.2, -0.01, 0.4), NOTHING),  # no fall is shown
        (drop(0.2, math.nan, math.nan), NOTHING),
        (drop(0.04, 0.01, 0.3), NOTHING),
        (drop(-0.2, -0.3, -0.1), NOTHING),
    ],
)
def test_a_fall_counts_where_it_is_sure(fallen: Drop, verdict: str) -> None:
    for name, sides in ((ERROR, (fallen, None)), (SCORE, (None, fallen))):
        found, rules = judge((), *sides, USUAL)
        assert found == verdict and [each.name for each in rules] == ([] if verdict == NOTHING else [name])
    assert judge((), drop(0.9, 0.8, 1.0), drop(0.0, -0.1, 0.1), USUAL)[0] == NOTHING  # labels know better


def test_a_difference_has_to_be_sure_and_large() -> None:
    tests = [
        ("words", "distance", PermutationTest(0.5, NULL)),
        ("length", "distance", PermutationTest(0.12, NULL)),  # sure, of no consequence
        ("pieces", "distance", PermutationTest(0.09, NULL)),  # large as far as it goes, by chance
    ]
    found = measures(tests, USUAL)
    assert [each.differs for each in found] == [True, False, False]
    assert found[0].p == pytest.approx(3 / 1000) and found[0].beyond == pytest.approx(0.45)
    verdict, (rule,) = judge(found, None, None, USUAL)
    assert (verdict, rule.name, rule.verdict) == (LOOK, SHIFT, LOOK) and rule.why.startswith("words: 0.450 beyond")
    strict = Thresholds(alpha=0.001, least=0.1)
    assert judge(measures(tests, strict), None, None, strict)[0] == NOTHING
    assert judge(measures(tests, Thresholds(least=0.5)), None, None, USUAL)[0] == NOTHING


def test_far_texts_are_trained_on_unless_labels_say_that_it_does_not_matter() -> None:
    tests = [("vectors", AREA, PermutationTest(0.95, 0.5 + NULL))]
    found = measures(tests, USUAL)
    assert found[0].beyond == pytest.approx(0.8)  # doubled, as half is chance
    verdict, rules = judge(found, None, None, USUAL)
    assert verdict == TRAIN_AGAIN and {each.name for each in rules} == {FAR, SHIFT}
    verdict, rules = judge(found, None, drop(0.0, -0.1, 0.1), USUAL)
    assert verdict == LOOK and [each.name for each in rules] == [SHIFT]
    assert judge(found, None, None, Thresholds(far=0.96))[0] == LOOK
    assert judge((), None, None, USUAL) == (NOTHING, ())
