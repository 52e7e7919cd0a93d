"""Answers as data sets write them, checked against the context that they are in."""

from typing import Any

import pytest

from jaxfm.data.records.question_answers import Answer, answers_of
from jaxfm.errors import UserError

CONTEXT = "Ada met Ada's friend Zoé \U0001f642 in London."


@pytest.mark.parametrize(
    ("value", "start", "expected"),
    [
        ({"text": ["London", "Ada"], "answer_start": [30, 8]}, None, [("London", 30), ("Ada", 8)]),
        ({"text": ["London", "London"], "answer_start": [30, 30]}, None, [("London", 30)]),
        ({"text": "London", "answer_start": 30}, None, [("London", 30)]),
        ({"text": ["London"]}, None, [("London", 30)]),
        ([{"text": "London", "answer_start": 30}], None, [("London", 30)]),
        ([{"text": "Zoé", "start": 21}], None, [("Zoé", 21)]),
        ("London", 30, [("London", 30)]),
        ("friend", None, [("friend", 14)]),
        (["friend", "London"], [14, 30], [("friend", 14), ("London", 30)]),
        *((value, None, []) for value in (None, "", [], {}, {"text": [], "answer_start": []})),
    ],
)
def test_every_form(value: Any, start: Any, expected: list[tuple[str, int]]) -> None:
    found, by_text = answers_of(value, start, CONTEXT, "answers", "a.json:1")
    assert found == tuple(Answer(*each) for each in expected)
    assert all(CONTEXT[answer.start : answer.end] == answer.text for answer in found)
    assert by_text == ((value, start) in (("friend", None), ({"text": ["London"]}, None)))


@pytest.mark.parametrize(
    ("value", "start", "message"),
    [
        (
            "London",
            31,
            "the answer 'London' in 'answers' is not at its offset 31: there is 'ondon.'; the nearest place",
        ),
        ("London", 31, "of it is 30. Offsets count characters of the context from 0, not bytes, nor UTF-16"),
        ("Ada", 7, "the nearest place of it is 8"),
        ("Paris", 3, "it is nowhere in the context"),
        ("London", 999, "the context has 37 characters"),
        ("London", -7, "the context has 37 characters"),
        ("London", "30", "the offset of the answer 'London' is '30', but must be a whole number"),
        ("London", True, "the offset of the answer 'London' is True"),
        ("Ada", None, "has no offset and is 2 times in the context: give answer_start"),
        ("Paris", None, "has no offset and is nowhere in the context"),
        ([" "], None, "an answer in 'answers' is ' ', but must be text that is not empty"),
        ({"text": ["a"], "answer_start": [1, 2]}, None, "but must be {"),
        (3, None, "the answers in 'answers' are 3, but must be"),
    ],
)
def test_what_is_refused(value: Any, start: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        answers_of(value, start, CONTEXT, "answers", "a.json:1")
    assert str(caught.value).startswith("a.json:1: ") and message in str(caught.value)
