"""Tests of behaviour judged: how many cases fail, with an interval, and which."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.data.perturbations.behaviour_tests import DIRECTION, INVARIANCE, NOT_FALL, BehaviourTest, Case
from jaxfm.evaluation.intervals import exact_share
from jaxfm.observe.tables import Table

Result = Mapping[str, Any]
_EXAMPLES = 5
_SHOWN = 3  # in the table of examples, of each test


@dataclasses.dataclass(frozen=True)
class Failure:
    """A case that failed.

    Attributes:
      texts: of the case.
      said: what the model said of them.
      wanted: what it should have said.
    """

    texts: tuple[str, ...]
    said: tuple[str, ...]
    wanted: str


@dataclasses.dataclass(frozen=True)
class TestResult:
    """What a test found.

    Attributes:
      name: of the test.
      type: of the test.
      cases: that were tried.
      failed: that failed.
      low: lower end of the exact 95 % interval of the share that fails.
      high: its upper end.
      examples: some of the failures.
    """

    __test__ = False  # no class of pytest

    name: str
    type: str
    cases: int
    failed: int
    low: float
    high: float
    examples: tuple[Failure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return dataclasses.asdict(self)


def judge_test(test: BehaviourTest, cases: Sequence[Case], results: Sequence[Sequence[Result]]) -> TestResult:
    """Compares what a model says of the texts of each case with what the test asks for."""
    failures = [
        failure
        for case, found in zip(cases, results, strict=True)
        if (failure := _failure(test, case, found)) is not None
    ]
    low, high = exact_share(len(failures), len(cases))
    return TestResult(test.name, test.type, len(cases), len(failures), low, high, tuple(failures[:_EXAMPLES]))


def _failure(test: BehaviourTest, case: Case, found: Sequence[Result]) -> Failure | None:
    said = tuple(map(said_of, found))
    if test.type == DIRECTION:
        before, after = (probability_of(each, test.label) for each in found)
        moved = after - before if test.must == NOT_FALL else before - after
        if moved >= -test.tolerance:
            return None
        shares = tuple(f"{test.label} {share:.2f}" for share in (before, after))
        return Failure(case.texts, shares, f"{test.label} does {test.must}")
    if test.type == INVARIANCE:
        return None if answer_of(found[0]) == answer_of(found[1]) else Failure(case.texts, said, "the same answer")
    if isinstance(case.expect, str):
        right = case.expect in _labels(found[0])
        return None if right else Failure(case.texts, said, case.expect)
    entities = {(each["text"], each["type"]) for each in found[0].get("entities", ())}
    if entities == set(case.expect):
        return None
    return Failure(case.texts, said, ", ".join(f"{text} ({kind})" for text, kind in case.expect) or "no entity")


def answer_of(result: Result) -> Any:
    """Returns what of a result must not change: its label, its labels, or the types of its entities in order."""
    if "entities" in result:
        return [each["type"] for each in result["entities"]]
    return sorted(_labels(result))


def probability_of(result: Result, label: str) -> float:
    """Returns the probability of a label in a result."""
    return float(result["scores"].get(label, 0.0))


def _labels(result: Result) -> list[str]:
    return list(map(str, result["labels"] if "labels" in result else [result.get("label")]))


def said_of(result: Result) -> str:
    """Returns a result in a few words."""
    if "entities" in result:
        return ", ".join(f"{each['text']} ({each['type']})" for each in result["entities"]) or "no entity"
    named = ", ".join(map(str, _labels(result)))
    return f"{named} ({result['score']:.2f})" if isinstance(result.get("score"), float) else named


def behaviour_tables(tests: Sequence[TestResult]) -> tuple[Table, ...]:
    """Lays out results and some of the failures."""
    if not tests:
        return ()
    rows = [
        (each.name, each.type, each.cases, each.failed, each.failed / each.cases, each.low, each.high) for each in tests
    ]
    columns = ("test", "type", "cases", "failed", "share", "from", "to")
    formats: dict[str, str] = dict.fromkeys(columns[4:], ".1%")
    found = [Table("Tests of behaviour", columns, rows, formats=formats)]
    failures = [
        (test.name, " -> ".join(each.texts), " -> ".join(each.said), each.wanted)
        for test in tests
        for each in test.examples[:_SHOWN]
    ]
    if failures:
        found.append(Table("Cases that failed", ("test", "text", "said", "wanted"), failures))
    return tuple(found)
