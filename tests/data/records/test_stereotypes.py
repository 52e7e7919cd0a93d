"""Pairs of sentences in both forms, and what is wrong with other files."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.data.records.stereotypes import read_stereotypes
from jaxfm.errors import UserError

LABELS = ("unrelated", "stereotype", "anti-stereotype")


def item(**changes: Any) -> dict[str, Any]:
    sentences = [
        {"sentence": f"He is {word} now.", "gold_label": label} for word, label in zip("xyz", LABELS, strict=True)
    ]
    return {"bias_type": "gender", "context": "He is BLANK now.", "sentences": sentences} | changes


def write(path: pathlib.Path, items: list[Any]) -> pathlib.Path:
    path.write_text(json.dumps({"data": {"intrasentence": items}}))
    return path


def test_both_forms(tmp_path: pathlib.Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text('id,sent_more,sent_less,bias_type\n0,"She, of all,",He,gender\n1,A b,A c,age\n')
    first, second = read_stereotypes(table)
    assert (first.kind, first.more, first.less, first.unrelated, first.blank) == (
        "gender",
        "She, of all,",
        "He",
        "",
        (),
    )
    assert second.sentences == ("A b", "A c") and second.origin == f"{table}:3"
    (found,) = read_stereotypes(write(tmp_path / "set.json", [item()]))
    assert found.sentences == ("He is y now.", "He is z now.", "He is x now.")
    assert {found.more[start:end] for start, end in found.blank} == {"y"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": "He is here."}, "its context has no BLANK"),
        ({"context": "She is BLANK now."}, "is not its context with words in place of BLANK"),
        ({"sentences": []}, "has no sentence with the gold_label 'stereotype'"),
        ({"bias_type": 3}, r"intrasentence\[0\]: 3 in 'bias_type' is of type int"),
    ],
)
def test_damaged_items(tmp_path: pathlib.Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_stereotypes(write(tmp_path / "set.json", [item(**changes)]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "sent_more,bias_type\na,b\n", "form of CrowS-Pairs: no column 'sent_less'"),
        ("a.csv", "sent_more,sent_less,bias_type\na,a,b\n", "a.csv:2: sent_more and sent_less are the same"),
        ("a.csv", "sent_more,sent_less,bias_type\na, ,b\n", "a.csv:2: sent_less is blank"),
        ("a.json", "[1, 2", "is not JSON"),
        ("a.docx", "x", "is neither a table with sent_more"),
    ],
)
def test_other_files(tmp_path: pathlib.Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_stereotypes(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_stereotypes(tmp_path / "absent.csv")
