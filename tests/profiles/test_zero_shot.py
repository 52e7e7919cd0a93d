"""What profiles/zero_shot.py counts, and its guess without a model."""

import gzip
import pathlib

import pytest

from jaxfm.errors import UserError
from profiles.zero_shot import CAPITALS, TESTED, TRAINED, capital_spans, f1_of, rows, scores, sentences_of, write_sets


def write(folder: pathlib.Path) -> None:
    text = "Yesterday\tO\nAda\tB-person\nLovelace\tI-person\nmet\tO\nUp\tB-group\n\nLeeds\tB-location\n"
    for file in (TRAINED | TESTED).values():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        with (gzip.open if file.endswith(".gz") else open)(folder / file, "wt") as opened:
            opened.write(text)


def test_runs_of_capitals_are_the_usual_type(tmp_path: pathlib.Path) -> None:
    assert capital_spans("Yesterday Ada Lovelace met Up".split(), "A") == [(1, 3, "A"), (4, 5, "A")]
    write(tmp_path)
    sources = write_sets(tmp_path, tmp_path / "made", 1, 0)
    assert len(sentences_of(tmp_path / "made" / "wikineural-en" / "train.conll")) == 1
    assert len(sentences_of(tmp_path / "made" / "wnut17" / "test.conll")) == 2
    # Of the three types that occur once the first is taken: one right, one of another type, the first word left out.
    found = scores(CAPITALS, tmp_path, sources["wnut17"])
    assert found == {"f1": pytest.approx(2 * 1 / (2 * 1 + 2 + 1)), "unseen": 0.0}


def test_a_set_that_is_not_there_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"has no wikineural-en/train.conll.gz"):
        write_sets(tmp_path, tmp_path / "made", 0, 0)


def test_f1_of_some_types() -> None:
    records = [
        {"right": [{"type": "A"}], "missed": [{"type": "B"}], "invented": []},
        {"right": [{"type": "B"}], "missed": [], "invented": [{"type": "A"}, {"type": "B"}]},
    ]
    assert f1_of(records, ["A", "B"]) == pytest.approx(4 / (4 + 1 + 2))
    assert f1_of(records, ["A"]) == pytest.approx(2 / 3) and f1_of(records, ["C"]) == 0.0


def test_rows_are_means_over_seeds() -> None:
    runs = [{"arm": "names", "set": "wnut17", "f1": f1, "unseen": None} for f1 in (0.2, 0.4)]
    assert [list(row.values()) for row in rows(runs)] == [
        ["names", "wnut17", pytest.approx(0.3), pytest.approx(0.02**0.5), "", ""]
    ]
