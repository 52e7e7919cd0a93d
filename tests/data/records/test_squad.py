"""SQuAD's nested JSON: a record a question, whatever a question lacks; other JSON is left alone."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.data.records.formats.jsonl import open_jsonl
from jaxfm.data.records.squad import questions_of

FILE: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Ada",
            "paragraphs": [
                {
                    "context": "Ada met Charles.",
                    "qas": [
                        {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]},
                        {"id": "2", "question": "Where?", "answers": [], "is_impossible": True, "plausible": 1},
                    ],
                }
            ],
        },
        {"title": "Empty", "paragraphs": []},
    ],
}


def test_a_record_a_question() -> None:
    shared = {"title": "Ada", "context": "Ada met Charles."}
    assert questions_of(FILE) == [
        {**shared, "id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]},
        {**shared, "id": "2", "question": "Where?", "answers": [], "is_impossible": True},
    ]


@pytest.mark.parametrize(
    "value", [{}, {"data": []}, {"data": 3}, {"data": [{"paragraphs": 3}]}, {"data": [{"paragraphs": [{"qas": [3]}]}]}]
)
def test_other_json_is_none_of_it(value: dict[str, Any]) -> None:
    assert questions_of(value) is None


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_on_one_line_or_on_many(tmp_path: pathlib.Path, indent: int | None) -> None:
    (path := tmp_path / "train.json").write_text(json.dumps(FILE, indent=indent))
    rows = list(open_jsonl([path]).read(None))
    assert [row.origin for row in rows] == [f"{path}:1[0]", f"{path}:1[1]"]
    assert rows[1].values["question"] == "Where?"


def test_a_record_with_a_field_called_data_stays_one(tmp_path: pathlib.Path) -> None:
    (path := tmp_path / "train.jsonl").write_text('{"data": [1], "text": "a"}\n{"data": {}, "text": "b"}\n')
    assert [row.values["text"] for row in open_jsonl([path]).read(None)] == ["a", "b"]
