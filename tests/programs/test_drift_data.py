"""The records that are compared: which readers are asked, what is counted of texts, what is refused."""

import pathlib
import types
from typing import Any

import numpy as np
import pytest

from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.drift_data import Reader, count_pieces, count_words, is_source
from jaxfm.training.saved_run import open_run
from tests import tiny

QUIET = Progress(None, quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("drift_data")


@pytest.fixture(scope="module")
def reader(folder: pathlib.Path) -> Reader:
    tiny.write_examples(folder / "single", "single", pairs=False, sizes={"train": 40, "valid": 25, "test": 30})
    runs = tiny.write_runs(folder, ("classification",))
    return Reader(open_run(runs["classification"]), 0, 0)


def test_words_and_marks_are_counted_without_case() -> None:
    found = count_words(["Ada met ADA .", "don't", ""])
    table = dict(zip(found.names, np.asarray(found.counts.todense()).T.tolist(), strict=True))
    assert table["ada"] == [2, 0, 0] and table["."] == [1, 0, 0] and table["'"] == [0, 1, 0]
    assert found.counts.sum() == 4 + 3
    assert count_words(["", ""]).counts.shape == (2, 1)


def test_pieces_are_those_of_the_run(reader: Reader) -> None:
    tokenizer = load_tokenizer(reader.run.workdir / TOKENIZER_DIR)
    found = count_pieces(tokenizer, ["ada met ☃", "met met"])
    table = dict(zip(found.names, np.asarray(found.counts.todense()).T.tolist(), strict=True))
    assert table == {"a": [1, 0], "##d": [1, 0], "##a": [1, 0], "met": [1, 2], "[UNK]": [1, 0]}


def test_a_source_is_no_file(reader: Reader, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert is_source("jsonl:x") and is_source("quickstart") and not is_source("x.txt") and not is_source("/a/b:c.txt")
    (tmp_path / "new.txt").write_text("\n".join(["ada met", "", "boole"] * 12))
    new = reader.new(str(tmp_path / "new.txt"), "test", {}, QUIET, labelled=False)
    assert (len(new.records), new.available, new.texts[:2]) == (24, 24, ["ada met", "boole"])
    source = f"jsonl:{folder / 'single'}"
    labelled = reader.new(source, "test", {}, QUIET, labelled=True)
    plain = reader.new(source, "test", {}, QUIET, labelled=False)
    assert labelled.texts == plain.texts and len(plain.texts) == 30
    assert all("gold" in each for each in labelled.records) and not any("gold" in each for each in plain.records)
    memory = reader.new([{"text": "ada"}, "met"] * 10, "test", {}, QUIET, labelled=False)
    assert memory.texts == ["ada", "met"] * 10
    assert reader.of_run("valid", None).name == f"valid of {source}" and len(reader.of_run("train", None).records) == 40
    few = Reader(reader.run, 21, 3).of_run("train", None)
    assert (len(few.records), few.available) == (21, 40)


def test_texts_that_are_read_singly_are_records_by_themselves(reader: Reader) -> None:
    records: Any = [{"text": "ada", "pair": "boole", "origin": "x"}, {"text": " ", "pair": "met", "origin": "y"}]
    found = reader._flat(records)  # noqa: SLF001
    assert [each["text"] for each in found] == ["ada", "boole", "met"] and not any("pair" in each for each in found)


def test_images_are_refused() -> None:
    predictor = types.SimpleNamespace(reads_texts=True)
    run: Any = types.SimpleNamespace(
        predictor=lambda: predictor,
        workdir="runs/a",
        definition=types.SimpleNamespace(name="pictures"),
        config=types.SimpleNamespace(data=types.SimpleNamespace(source="images:x")),
    )
    with pytest.raises(UserError, match="--workdir=runs/a: is a run of the task pictures, which reads images"):
        Reader(run, 0, 0)
