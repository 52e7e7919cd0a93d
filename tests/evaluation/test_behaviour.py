"""Tests of behaviour: which cases fail, and by how much."""

from typing import Any

import pytest

from jaxfm.data.perturbations.behaviour_tests import BehaviourTest, Case
from jaxfm.evaluation.behaviour import behaviour_tables, judge_test
from jaxfm.evaluation.intervals import exact_share


def said(label: str, share: float = 0.9) -> dict[str, Any]:
    return {"text": "t", "label": label, "score": share, "scores": {label: share, f"not {label}": 1 - share}}


def test_a_minimum_is_an_expected_label() -> None:
    test = BehaviourTest("praise", "minimum", "t:1")
    cases = [Case((text,), "good") for text in ("a", "b", "c")]
    found = judge_test(test, cases, [[said("good")], [said("bad")], [said("good")]])
    assert (found.cases, found.failed) == (3, 1) and (found.low, found.high) == exact_share(1, 3)
    (failure,) = found.examples
    assert (failure.texts, failure.said, failure.wanted) == (("b",), ("bad (0.90)",), "good")
    several = {"labels": ["good", "long"], "scores": {}}
    assert judge_test(test, cases[:1], [[several]]).failed == 0


def test_a_minimum_may_be_entities() -> None:
    test = BehaviourTest("towns", "minimum", "t:1")
    rome = {"text": "Rome", "type": "LOC", "score": 0.8}
    case = Case(("In Rome",), (("Rome", "LOC"),))
    results = [[{"entities": [rome]}], [{"entities": []}], [{"entities": [rome, {**rome, "text": "In"}]}]]
    found = judge_test(test, [case] * 3, results)
    assert found.failed == 2 and found.examples[0].said == ("no entity",)


def test_an_answer_that_must_stay() -> None:
    test = BehaviourTest("names", "invariance", "t:1")
    case = Case(("before", "after"))
    assert judge_test(test, [case], [[said("a", 0.9), said("a", 0.6)]]).failed == 0
    assert judge_test(test, [case], [[said("a"), said("b")]]).failed == 1
    person, place = {"text": "A", "type": "PER"}, {"text": "B", "type": "LOC"}
    same = [{"entities": [person]}, {"entities": [{**person, "text": "Z"}]}]
    assert judge_test(test, [case], [same]).failed == 0  # a name is another one, its type is not
    assert judge_test(test, [case], [[{"entities": [person]}, {"entities": [place]}]]).failed == 1


@pytest.mark.parametrize(
    ("must", "after", "fails"),
    [("not fall", 0.5, True), ("not fall", 0.86, False), ("not rise", 0.94, False), ("not rise", 0.99, True)],
)
def test_a_probability_that_must_not_move(must: str, after: float, fails: bool) -> None:
    test = BehaviourTest("praise", "direction", "t:1", label="good", must=must, tolerance=0.05)
    found = judge_test(test, [Case(("x", "y"))], [[said("good", 0.9), said("good", after)]])
    assert found.failed == fails
    if fails:
        assert found.examples[0].said == ("good 0.90", f"good {after:.2f}")


def test_tables_show_shares_and_failures() -> None:
    test = BehaviourTest("praise", "minimum", "t:1")
    found = judge_test(test, [Case(("a",), "good")], [[said("bad")]])
    shares, failures = behaviour_tables([found])
    assert shares.rows[0][:5] == ("praise", "minimum", 1, 1, 1.0)
    assert failures.rows == [("praise", "a", "bad (0.90)", "good")]
    assert behaviour_tables([]) == ()
