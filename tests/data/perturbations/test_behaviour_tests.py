"""Files of tests of behaviour: what they become, and what is refused with file and line."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.data.perturbations.behaviour_tests import BehaviourTest, Case, read_behaviour_tests, slots_of
from jaxfm.data.perturbations.names import ORIGINS
from jaxfm.errors import UserError


def read(tmp_path: pathlib.Path, *tests: dict[str, Any]) -> list[BehaviourTest]:
    path = tmp_path / "tests.jsonl"
    path.write_text("\n".join(map(json.dumps, tests)) + "\n")
    return read_behaviour_tests(path, "--tests")


def test_a_template_is_filled_with_all_words(tmp_path: pathlib.Path) -> None:
    (found,) = read(
        tmp_path,
        {
            "name": "praise",
            "type": "minimum",
            "template": "The {what} was {how} .",
            "slots": {"what": ["film", "book"], "how": ["good", "bad"]},
            "expect": "{how}",
        },
    )
    assert found.cases == tuple(
        Case((f"The {what} was {how} .",), how) for what in ("film", "book") for how in ("good", "bad")
    )


def test_slots_that_vary_are_compared_with_the_first(tmp_path: pathlib.Path) -> None:
    (found,) = read(
        tmp_path,
        {
            "name": "names",
            "type": "invariance",
            "template": "{name} liked the {what} .",
            "slots": {"name": ["Ada", "Bo", "Cy"], "what": ["film", "book"]},
            "vary": ["name"],
        },
    )
    assert [each.texts for each in found.cases] == [
        (f"Ada liked the {what} .", f"{name} liked the {what} .") for what in ("film", "book") for name in ("Bo", "Cy")
    ]


def test_pairs_of_templates_entities_and_lists_that_ship(tmp_path: pathlib.Path) -> None:
    moved = {"type": "direction", "template": ["{a} .", "not {a} ."], "slots": {"a": ["x"]}, "label": "p"}
    towns = {"type": "minimum", "template": "In {t} .", "slots": {"t": "@places:turkish"}, "expect": [["{t}", "LOC"]]}
    names = {"type": "invariance", "template": "{n} .", "slots": {"n": "@given"}, "vary": ["n"], "most": 7}
    first, second, third = read(
        tmp_path, {"name": "1", "must": "not rise", **moved}, {"name": "2", **towns}, {"name": "3", **names}
    )
    assert first.cases == (Case(("x .", "not x .")),) and first.must == "not rise"
    assert {case.expect for case in second.cases} == {((town, "LOC"),) for town in ORIGINS["turkish"].places}
    assert len(third.cases) == 7 and len({case.texts for case in third.cases}) == 7


def test_toml_holds_the_same(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tests.toml"
    path.write_text(
        '[[test]]\nname = "a"\ntype = "minimum"\ntexts = ["x"]\nexpect = "p"\n'
        '[[test]]\nname = "b"\ntype = "invariance"\nchange = "typos"\nseverity = 3\n'
    )
    first, second = read_behaviour_tests(path, "--tests")
    assert first.cases == (Case(("x",), "p"),)
    assert (second.change, second.severity, second.cases) == ("typos", 3, ()) and slots_of([first, second]) == ["typos"]


MINIMUM = {"name": "a", "type": "minimum", "texts": ["x"], "expect": "p"}
VARIED = {"name": "a", "type": "invariance", "template": "{n}", "slots": {"n": ["x", "y"]}, "vary": ["n"]}


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({**MINIMUM, "expected": "p"}, "tests.jsonl:1: unknown field 'expected'. Did you mean 'expect'?"),
        ({**MINIMUM, "type": "minimal"}, "type='minimal': Did you mean 'minimum'?"),
        ({**MINIMUM, "name": ""}, "a test has a name"),
        ({"name": "a", "type": "minimum", "texts": ["x"]}, "minimum expects something"),
        ({**MINIMUM, "texts": []}, "has no case"),
        ({**MINIMUM, "texts": "x"}, "texts is a list of texts"),
        ({**MINIMUM, "pairs": [["x", "y"]]}, "give one of template, texts, pairs and change"),
        ({**MINIMUM, "label": "p"}, "label goes with type='direction'"),
        ({**MINIMUM, "expect": 3}, "expect is a label, or"),
        ({**MINIMUM, "change": "typos"}, "texts and change"),
        ({"name": "a", "type": "invariance", "pairs": [["x"]]}, "a list of [before, after]"),
        ({"name": "a", "type": "invariance", "texts": ["x"]}, "invariance compares pairs"),
        ({"name": "a", "type": "direction", "pairs": [["x", "y"]]}, "direction is of the probability of a label"),
        ({"name": "a", "type": "direction", "pairs": [["x", "y"]], "label": "p", "must": "rise"}, "must='rise'"),
        ({**VARIED, "template": "{m}"}, "the slot {m} has no words"),
        ({**VARIED, "vary": ["m"]}, "vary: the template has no {m}"),
        ({**VARIED, "slots": {"n": "@givn"}}, "Did you mean '@given'?"),
        ({**VARIED, "slots": {"n": "@given:turkey"}}, "unknown origin. Did you mean 'turkish'?"),
        ({**VARIED, "slots": {"n": []}}, "slots.n has no word"),
        ({"name": "a", "type": "invariance", "template": "{n}", "slots": {"n": ["x"]}}, "which slots must not change"),
        ({"name": "a", "type": "invariance", "change": "negation"}, "change='negation'"),
        ({"name": "a", "type": "invariance", "change": "typo"}, "Did you mean 'typos'?"),
        ({"name": "a", "type": "invariance", "change": "typos", "severity": 6}, "severity=6: is 1 to 5"),
        ({**MINIMUM, "most": 0}, "most=0"),
        ({**MINIMUM, "most": "3"}, "most='3' has the wrong type"),
    ],
)
def test_a_test_that_is_wrong_is_refused(test: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, test)
    assert message in str(caught.value)


def test_files_that_are_wrong_are_refused(tmp_path: pathlib.Path) -> None:
    for name, content, message in (
        ("a.jsonl", "{", "a.jsonl:1: is not JSON"),
        ("a.jsonl", "[]", "a.jsonl:1: a test is an object"),
        ("a.jsonl", "\n", "has no test"),
        ("a.toml", "x = ", "is not TOML"),
        ("a.toml", "x = 1", "[[test]]"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError) as caught:
            read_behaviour_tests(tmp_path / name, "--tests")
        assert message in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        read_behaviour_tests(tmp_path / "absent.jsonl", "--tests")
    with pytest.raises(UserError, match=r"another test has the name 'a' too"):
        read(tmp_path, MINIMUM, MINIMUM)
