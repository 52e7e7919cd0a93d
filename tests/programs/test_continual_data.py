"""The data of stages: joined, replayed, and what a store keeps, read again as a source."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.core.task import GivesRecords, WritesExamples
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError
from jaxfm.programs import continual_data
from jaxfm.programs.continual_data import (
    Kept,
    fill_by_herding,
    fill_reservoir,
    over,
    read_store,
    write_joint,
    write_replayed,
    write_store,
)
from tests import tiny


class Splits:
    """Stands for the task over a split of a run's own source: two sentences a document, of a class each."""

    def __init__(self, name: str, split: str, label: bool = False):
        """Makes the examples of a run's split."""
        self.lines: list[dict[str, Any]] = [
            {"text": f"{name} {split} {number}", "label": "AB"[number % 2]}
            if label
            else {"tokens": [name, split, str(number)], "ner_tags": ["O", "O", "B-X"], "document": number // 2}
            for number in range(6 if split == "train" else 2)
        ]

    def example_lines(self, split: str) -> list[dict[str, Any]]:
        del split
        return [dict(line) for line in self.lines]

    def predicted_lines(self, split: str, results: Any) -> list[dict[str, Any]]:
        raise NotImplementedError

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        return self.example_lines(split)


@pytest.fixture
def _runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continual_data, "splits_of", lambda run: ["train", *(["valid"] if run.name == "a" else [])])
    monkeypatch.setattr(continual_data, "open_split", lambda run, split: Splits(run.name, split, run.name == "c"))
    assert isinstance(Splits("a", "train"), WritesExamples) and isinstance(Splits("a", "train"), GivesRecords)


def lines(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("_runs")
def test_joint_data_keep_documents_apart(tmp_path: pathlib.Path) -> None:
    write_joint(tmp_path / "joint", [pathlib.Path("a"), pathlib.Path("b")])
    made = lines(tmp_path / "joint" / "train.jsonl")
    assert [line["document"] for line in made] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [line["tokens"][0] for line in made] == ["a"] * 6 + ["b"] * 6
    assert len(lines(tmp_path / "joint" / "valid.jsonl")) == 2
    found = read_tagged(f"jsonl:{tmp_path / 'joint'}", None)
    assert [len(found[split].sentences) for split in ("train", "valid")] == [12, 2]
    before = (tmp_path / "joint" / "train.jsonl").stat().st_mtime_ns
    write_joint(tmp_path / "joint", [pathlib.Path("a")])  # what is there stays
    assert (tmp_path / "joint" / "train.jsonl").stat().st_mtime_ns == before


@pytest.mark.usefixtures("_runs")
def test_replayed_data_have_the_store_in_training_alone(tmp_path: pathlib.Path) -> None:
    fill_reservoir(None, tmp_path / "store1", pathlib.Path("a"), "one", 4, (0, 0))
    kept, seen = read_store(tmp_path / "store1")
    assert len(kept) == 4 and seen == 6 and {each.group for each in kept} == {"one"}
    assert kept == read_store_again(tmp_path)
    write_replayed(tmp_path / "data", pathlib.Path("b"), kept, times=2)
    made = lines(tmp_path / "data" / "train.jsonl")
    assert [line["tokens"] for line in made[6:]] == 2 * [each.line["tokens"] for each in kept]
    assert [line["document"] for line in made] == [0, 0, 1, 1, 2, 2, *range(3, 11)]  # each a document of its own
    assert not (tmp_path / "data" / "valid.jsonl").exists()
    fill_reservoir(tmp_path / "store1", tmp_path / "store2", pathlib.Path("b"), "two", 4, (0, 1))
    later, seen = read_store(tmp_path / "store2")
    assert seen == 12 and len(later) == 4 and {each.group for each in later} == {"one", "two"}


def read_store_again(folder: pathlib.Path) -> list[Kept]:
    """The store of the first stage, filled anew by the same seed."""
    fill_reservoir(None, folder / "again", pathlib.Path("a"), "one", 4, (0, 0))
    return read_store(folder / "again")[0]


@pytest.mark.usefixtures("_runs")
def test_herding_keeps_equal_shares(tmp_path: pathlib.Path) -> None:
    vectors = np.eye(6, 4) + 0.1

    def see(records: Any) -> np.ndarray:
        return vectors[: len(records)]

    old = [Kept("A", {"text": f"old {number}", "label": "A"}) for number in range(4)]
    write_store(tmp_path / "before", [*old, Kept("Z", {"text": "z", "label": "Z"})], 20)
    run = pathlib.Path("c")
    fill_by_herding(tmp_path / "before", tmp_path / "after", run, see, "two", 7)
    kept, seen = read_store(tmp_path / "after")
    assert seen == 26
    assert [each.group for each in kept] == ["A", "A", "Z", "B", "B"]  # 7 // 3 of each, Z has but one
    assert kept[0] == old[0] and kept[1].line["text"].startswith("c train")  # old and new in turns
    with pytest.raises(UserError, match="--store=2: has less than one place for each of 3 classes or stages"):
        fill_by_herding(tmp_path / "before", tmp_path / "no", run, see, "two", 2)
    assert not (tmp_path / "no").exists()


def test_written_data_have_the_usual_columns(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, data__text_column="t", data__label_column="l", task__shots=2)
    made = over(config, tmp_path / "data")
    assert made.data.source == f"jsonl:{tmp_path / 'data'}" and made.task.shots == 0
    assert made.data.text_column == made.data.label_column == ""
