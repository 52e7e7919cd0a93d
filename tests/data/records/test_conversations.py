"""Dialogues with speakers: who asks, who answers, and what is not a dialogue."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.data.records.conversations import conversation_of, last_request, read_conversations, read_requests
from jaxfm.errors import UserError


def spoken(*turns: tuple[str, str], **values: Any) -> dict[str, Any]:
    return {"turns": [{"speaker": speaker, "text": text} for speaker, text in turns], **values}


DIALOGUE = spoken(("USER", "a"), ("USER", " "), ("SYSTEM", "b"), ("USER", "c"), ("SYSTEM", "d"), ("SYSTEM", "e"), id=7)


def test_requests_are_turns_of_users_that_an_answer_follows() -> None:
    both = [conversation_of(DIALOGUE, "x:1"), conversation_of(spoken(("user", "q"), ("Assistant", "r")), "x:2")]
    found = read_requests(both, "", "x")
    assert [(each.dialogue, each.texts, each.response.text) for each in found] == [
        (0, ("a",), "b"),
        (0, ("a", "b", "c"), "d"),
        (1, ("q",), "r"),
    ]
    assert found[1].origin == "x:1 turn 3" and found[1].user.values == {"speaker": "USER", "text": "c"}
    named = read_requests([conversation_of(spoken(("guest", "q"), ("clerk", "r")), "x")], "clerk", "x")
    assert [each.texts for each in named] == [("q",)]


def test_the_last_turn_of_a_user() -> None:
    assert last_request(conversation_of(DIALOGUE, "x")) == ("a", "b", "c")
    assert last_request(conversation_of(["a", "b"], "x")) == ("a", "b")
    record = conversation_of({"messages": [{"role": "user", "content": "hi"}], "dialogue_id": "d"}, "x")
    assert (last_request(record), record.id) == (("hi",), "d")


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    for value, message in (
        ("hello", "x: .hello. is not a dialogue"),
        (5, "x: 5 is not a dialogue"),
        ({"text": "a"}, "x: no list of turns"),
        ([{"speaker": "USER"}], "is not a turn"),
    ):
        with pytest.raises(UserError, match=message):
            conversation_of(value, "x")
    for turns, message in (
        (spoken(("SYSTEM", "a")), "x: has no turn of a user, to answer .all are of 'SYSTEM'"),
        ([" "], "no turn that is not blank"),
    ):
        with pytest.raises(UserError, match=message):
            last_request(conversation_of(turns, "x"))
    for turns, responder, message in (
        (spoken(("guest", "q"), ("clerk", "r")), "", "its speakers are 'guest', 'clerk'.*--responder=NAME"),
        (spoken(("guest", "q"), ("clerk", "r")), "clrk", "'clrk' answers no user.*Did you mean 'clerk'"),
        (["a", "b"], "", "do not say who speaks"),
    ):
        with pytest.raises(UserError, match=message):
            read_requests([conversation_of(turns, "x")], responder, "x")


def test_files_and_splits(tmp_path: pathlib.Path) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps(DIALOGUE) + "\n" + json.dumps({"turns": 3}) + "\n")
    (tmp_path / "a.csv").write_text("x\n")
    for source in (str(tmp_path / "test.jsonl"), f"dialogue:{tmp_path}"):
        found = read_conversations(source, "test", "--evaluate")
        assert next(found).id == 7
        with pytest.raises(UserError, match=r"test.jsonl:2: no list of turns"):
            next(found)
    for source, message in (
        (f"dialogue:{tmp_path}", "--evaluate=dialogue:.* has no split 'valid'"),
        (str(tmp_path / "absent.jsonl"), "--evaluate=.*absent.jsonl: no such file"),
        (str(tmp_path / "a.csv"), "must be a file .jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            list(read_conversations(source, "valid", "--evaluate"))
