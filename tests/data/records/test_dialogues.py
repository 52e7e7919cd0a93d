"""Dialogues as pairs: the last turns, who answers, the layouts of files, what is refused."""

import json

import pytest

from jaxfm.data.records.dialogues import DialogueOptions, context_of, dialogue_tables
from jaxfm.errors import UserError

TALK = [{"speaker": "USER", "text": "a"}, {"speaker": "BOT", "text": "b"}, {"speaker": "USER", "text": "c"}]


def rows(tmp_path, records, **options):
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    table = dialogue_tables(str(tmp_path), DialogueOptions(**options)).splits["train"]()
    return [(origin.rpartition(":")[2], *values) for origin, values in table.values(("context", "response"))]


def test_every_turn_but_the_first_is_a_response(tmp_path):
    found = rows(tmp_path, [{"turns": [*TALK, {"speaker": "BOT", "text": "d"}]}], turns=2, separator="/")
    assert found == [("1[1]", "a", "b"), ("1[2]", "a/b", "c"), ("1[3]", "b/c", "d")]


def test_only_one_speaker_answers(tmp_path):
    assert rows(tmp_path, [{"turns": TALK}], separator="/", responder="BOT") == [("1[1]", "a", "b")]
    with pytest.raises(UserError, match="responder='bot' answers nothing in it. .*'BOT'"):
        rows(tmp_path, [{"turns": TALK}], responder="bot")


@pytest.mark.parametrize(
    "record",
    [
        {"dialogue": ["a", " ", "b"]},  # blank turns are left out
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
def test_layouts(tmp_path, record):
    assert [row[1:] for row in rows(tmp_path, [record])] == [("a", "b")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, r"train.jsonl:1: no list of turns .*the record has 'text'"),
        ({"turns": [3]}, r"train.jsonl:1: 3 in 'turns' is not a turn"),
        ({"turns": [{"text": 3}]}, r"train.jsonl:1: 3 in 'text' is of type int"),
    ],
)
def test_records_refused(tmp_path, record, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path, [record])


def test_a_context_has_turns(tmp_path):
    with pytest.raises(UserError, match="context_turns=0"):
        dialogue_tables(str(tmp_path), DialogueOptions(turns=0))
    assert context_of(["a", "b", "c"], DialogueOptions(turns=2, separator="-")) == "b-c"
