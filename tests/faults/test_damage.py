"""Damaged files of a corpus: none is read without a word, and the suite that says so would notice."""

import pathlib

import pytest

from profiles.faults import damage, small_runs
from profiles.faults.damage import HARMLESS, REFUSED, SILENT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("damage") / "data"
    small_runs.write_all(folder)
    return folder


def test_every_file_of_a_corpus_that_matters_is_refused(folder: pathlib.Path) -> None:
    outcomes = damage.of_corpus(folder, flips=1, seed=0)
    assert {each.what for each in outcomes} == {HARMLESS, REFUSED}
    by_kind = {each.kind: {one.what for one in outcomes if one.kind == each.kind} for each in outcomes}
    # One bit of a shard whose file keeps its time is not looked for at once, and is told when the row is read.
    assert {kind for kind, found in by_kind.items() if REFUSED in found} == {
        "manifest.json",
        "rows-*.array_record",
        "token_counts.npy",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
    assert all(each.message for each in outcomes if each.what == REFUSED)


def test_what_is_not_noticed_is_told(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of the tokenizer's files their damage is silent, and the suite says so."""
    monkeypatch.setattr(damage.shards, "verify_tokenizer", lambda *_: None)
    outcomes = damage.of_corpus(folder, flips=1, seed=0)
    assert {each.kind for each in outcomes if each.what == SILENT} == {
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
