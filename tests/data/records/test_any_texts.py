"""Texts of any source, whatever its labels."""

import json
import pathlib

import pytest

from jaxfm.data.records.any_texts import read_any_texts
from jaxfm.errors import UserError
from tests import tiny


def test_tables_and_tagged_sentences_are_texts(tmp_path: pathlib.Path) -> None:
    rows = [{"text": "one", "anything": [1]}, {"text": " "}, {"text": "two"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_any_texts(f"jsonl:{tmp_path}", "test")
    assert [(each.text, each.pair, each.words) for each in found] == [("one", "", ()), ("two", "", ())]
    source = tiny.write_corpus(tmp_path / "corpus")
    tagged = read_any_texts(source, "valid")
    assert len(tagged) == tiny.SIZES["valid"] and all(each.text.split() == list(each.words) for each in tagged)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "test.csv").write_text("premise,hypothesis\na,b\n")
    assert [(each.text, each.pair) for each in read_any_texts(f"csv:{tmp_path / 'pairs'}", "test")] == [("a", "b")]


def test_what_is_not_there_is_said(tmp_path: pathlib.Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match="its split 'test' has no text"):
        read_any_texts(f"jsonl:{tmp_path}", "test")
    with pytest.raises(UserError, match="has no split 'train'; it has: test"):
        read_any_texts(f"jsonl:{tmp_path}", "train")
    with pytest.raises(UserError, match="unknown data source"):
        read_any_texts("nowhere", "test")
