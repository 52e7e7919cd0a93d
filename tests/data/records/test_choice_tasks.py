"""Label Studio's exports of classes, as its own export writes them."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.data.records.examples import ExampleColumns, ExampleSplit, read_examples
from jaxfm.errors import UserError


def task(number: int, choices: list[str] | None, name: str = "sentiment") -> dict[str, Any]:
    result = [{"id": "x", "from_name": name, "to_name": "text", "type": "choices", "value": {"choices": choices}}]
    annotations = [] if choices is None else [{"id": 1, "was_cancelled": False, "result": result if choices else []}]
    return {"id": number, "annotations": annotations, "predictions": [], "data": {"text": f"text {number}"}}


def read(tmp_path: pathlib.Path, rows: list[dict[str, Any]], kind: str, label: str = "") -> ExampleSplit:
    (tmp_path / "train.json").write_text(json.dumps(rows))
    columns = ExampleColumns(label=label)
    return read_examples(f"jsonl:{tmp_path}", ("train",), columns=columns, kind=kind)["train"]


def test_one_choice(tmp_path: pathlib.Path) -> None:
    cancelled = task(4, ["b"])
    cancelled["annotations"][0]["was_cancelled"] = True
    found = read(tmp_path, [task(1, ["a"]), task(2, None), task(3, ["b"]), cancelled], "single")
    assert [(each.text, each.target) for each in found.examples] == [("text 1", "a"), ("text 3", "b")]


def test_several_choices_and_a_control_of_any_name(tmp_path: pathlib.Path) -> None:
    rows = [task(1, ["a", "b"], "mood"), task(2, [], "mood"), task(3, ["b"], "mood")]
    found = read(tmp_path, rows, "multi", "mood")
    assert [each.target for each in found.examples] == [("a", "b"), (), ("b",)]


def test_json_min(tmp_path: pathlib.Path) -> None:
    several = {"choices": ["a", "b"]}
    rows = [{"text": "x", "topics": "a"}, {"text": "y", "topics": several}, {"text": "z"}]
    found = read(tmp_path, rows, "multi")
    assert [each.target for each in found.examples] == [("a",), ("a", "b"), ()]


def test_what_is_no_export(tmp_path: pathlib.Path) -> None:
    broken = task(1, ["a"])
    broken["annotations"][0]["result"] = "none"
    with pytest.raises(UserError, match=r"train\.json:1: the annotation has no list 'result'"):
        read(tmp_path, [broken, task(2, ["b"])], "single")
    with pytest.raises(UserError, match="no label in 'sentiment'"):
        read(tmp_path, [task(1, ["a"]), task(2, []), task(3, ["b"])], "single")
    with pytest.raises(UserError, match=r"\['a', 'b'\] in 'sentiment' is not a class"):
        read(tmp_path, [task(1, ["a", "b"]), task(3, ["b"])], "single")
