"""Texts of a corpus from files of every form, each with an id of its own."""

import json
import pathlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from jaxfm.data.records.corpus_texts import CorpusText, corpus_file, corpus_in_memory, from_dict, portions
from jaxfm.errors import UserError

ROWS = [
    {"id": "a", "title": "Tea", "text": "How to make it."},
    {"id": "b", "title": "", "text": "Coffee, hot."},
    {"id": "c", "title": "", "text": "  "},
]


def jsonl(path: pathlib.Path, rows: list[dict[str, Any]]) -> pathlib.Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_form_gives_the_same(tmp_path: pathlib.Path) -> None:
    delimited = {",": "a.csv", "\t": "a.tsv"}
    for mark, name in delimited.items():
        lines = [mark.join(ROWS[0]), *(mark.join(f'"{value}"' for value in row.values()) for row in ROWS)]
        (tmp_path / name).write_text(
            "\n".join(lines if mark == "," else (line.replace('"', "") for line in lines)) + "\n"
        )
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    found = {}
    for path in (jsonl(tmp_path / "a.jsonl", ROWS), *(tmp_path / name for name in ("a.csv", "a.tsv", "a.parquet"))):
        corpus = corpus_file(path)
        texts = [(each.id, each.title, each.text, each.answer) for each in corpus]
        assert texts == [("a", "Tea", "How to make it.", None), ("b", "", "Coffee, hot.", None)]
        found[path.name] = corpus.check()
        assert (found[path.name].count, found[path.name].blank) == (2, 1)
        assert [each.searched for each in corpus] == ["Tea How to make it.", "Coffee, hot."]
    assert len({facts.sha256 for facts in found.values()}) == 1
    assert corpus_in_memory(ROWS).check() == found["a.csv"]
    changed = corpus_in_memory([{**ROWS[0], "title": "tea"}, *ROWS[1:]])
    assert changed.check().sha256 != found["a.csv"].sha256


def test_lines_go_by_number(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\nthree\n")
    assert [(each.id, each.text) for each in corpus_file(tmp_path / "a.txt")] == [(1, "one"), (3, "three")]
    assert [len(portion) for portion in portions(corpus_in_memory("abcde"), 2)] == [2, 2, 1]


def test_questions_and_answers(tmp_path: pathlib.Path) -> None:
    rows = [{"text": "long", "question": "Where?", "answer": "Here."}, {"question": "When?", "answer": "Now."}]
    asked = list(corpus_file(jsonl(tmp_path / "faq.jsonl", rows), answers=True))
    assert [(each.text, each.answer) for each in asked] == [("Where?", "Here."), ("When?", "Now.")]
    assert [from_dict(each.to_dict()) for each in asked] == [
        CorpusText(each.id, each.text, answer=each.answer) for each in asked
    ]
    by_text = list(corpus_file(jsonl(tmp_path / "b.jsonl", [{"text": "Where?", "answer": "Here."}]), answers=True))
    assert by_text[0].text == "Where?"
    in_memory = corpus_in_memory([{"question": "Q", "answer": "A"}], answers=True)
    assert [(each.text, each.answer) for each in in_memory] == [("Q", "A")]
    with pytest.raises(UserError, match=r"b.jsonl:2: has no answer"):
        list(corpus_file(jsonl(tmp_path / "b.jsonl", [*rows[:1], {"question": "x", "answer": " "}]), answers=True))
    with pytest.raises(UserError, match=r"--answer needs a column 'answer' \(columns: 'id', 'title', 'text'\)"):
        corpus_file(jsonl(tmp_path / "c.jsonl", ROWS), answers=True)
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(UserError, match="it is plain text"):
        corpus_file(tmp_path / "d.txt", answers=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"id": 7, "text": "x"}, {"id": "8", "text": "y"}, {"id": "7", "text": "z"}],
            r":3: the id 7 is that of .*:1 too",
        ),
        ([{"id": 1, "text": "x"}, {"text": "y"}], ":2: has no id, but those before it have one"),
        ([{"text": "y"}, {"id": 1, "text": "x"}], ":2: has an id, but the records before it have none"),
        ([{"text": " "}], r"--corpus=.*: has no text: there is nothing to find"),
        ([{"text": "x", "title": 7}], ":1: 7 in 'title' is of type int"),
        ([{"text": 3}], ":1: the text is 3"),
        ([{"body_of_text": "x"}], ":1: no column for the text"),
    ],
)
def test_what_is_refused(tmp_path: pathlib.Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        corpus_file(jsonl(tmp_path / "a.jsonl", rows)).check()


def test_files_that_cannot_be_a_corpus(tmp_path: pathlib.Path) -> None:
    for name, message in (
        ("none.jsonl", "--corpus=.*no such file"),
        ("a.pdf", "--corpus=.*the ending of the name"),
        ("a.conll", "holds words"),
    ):
        if name != "none.jsonl":
            (tmp_path / name).write_text("x")
        with pytest.raises(UserError, match=message):
            corpus_file(tmp_path / name)
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="there is nothing to find"):
        corpus_file(tmp_path / "empty.txt").check()
    assert [
        each.text for each in corpus_file(jsonl(tmp_path / "x.jsonl", [{"note": "x"}]), columns={"text_column": "note"})
    ] == ["x"]
