"""Evaluation texts in training data: whole short ones, thirteen words of longer ones, of sources of every kind."""

import json
import pathlib

import pytest

from jaxfm.data.corpora.overlap import TrainingText, texts_of
from jaxfm.errors import UserError
from tests import tiny

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def test_what_counts_as_the_same() -> None:
    training = TrainingText([LONG, "a short text of six words"])
    found = training.overlap(
        [
            f"So: {LONG.upper()}!",  # case and signs play no part
            " ".join(LONG.split()[:12]) + " and then others",  # twelve words alone
            "A short text, of six words.",
            "short text of six words",  # a part of a short text
            "too short",
        ]
    )
    assert (found.texts, found.parts, found.whole) == (4, 1, 1)
    assert found.share == 0.5 and len(found.examples) == 2


def test_texts_of_every_kind_of_source(tmp_path: pathlib.Path) -> None:
    assert list(texts_of(tiny.write_corpus(tmp_path / "conll"), ("test",)))[0].split()
    assert list(texts_of(tiny.write_text(tmp_path / "text"), ("valid", "test")))
    (tmp_path / "rows").mkdir()
    rows = [{"tokens": ["a", "b"], "text": "c d", "label": 3}, {"text": "e"}]
    (tmp_path / "rows" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert list(texts_of(f"jsonl:{tmp_path / 'rows'}", ("valid", "test"))) == ["a b", "c d", "e"]
    with pytest.raises(UserError, match="has none of the splits train"):
        list(texts_of(f"jsonl:{tmp_path / 'rows'}", ("train",)))
