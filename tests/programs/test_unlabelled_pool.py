"""Which unlabelled records a run is asked about."""

import json
import pathlib

import pytest

from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.unlabelled_pool import Given, Pool, read_pool
from jaxfm.training.saved_run import open_run
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_runs(tmp_path_factory.mktemp("pool"), ("classification",))["classification"]


def read(run: pathlib.Path, given: Given, **options: object) -> Pool:
    opened = open_run(run)
    return read_pool(given, opened, opened.predictor(), progress=Progress(None, quiet=True), **options)  # type: ignore[arg-type]


def test_what_is_left_out(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    known = [json.loads((run.parent / "single" / f"{split}.jsonl").read_text().splitlines()[0])["text"]
             for split in ("train", "valid", "test")]  # fmt: skip
    texts = [*(text.upper() for text in known), "something new", "Something  new!", " ", "out for labelling", "last"]
    (tmp_path / "out.txt").write_text("out for labelling\n\n")
    pool = read(run, Given(texts=texts), exclude=[tmp_path / "out.txt"])
    assert [record["text"] for record in pool.records] == ["something new", "last"]
    assert pool.left_out == {"labelled already": 4, "given twice": 1, "blank": 1}
    assert pool.note() == "pool: 2 records; left out: 4 labelled already, 1 given twice, 1 blank"
    assert len(pool.labelled) == tiny.SIZES["train"]


def test_files_have_ids_and_columns(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps({"id": n, "body": f"text {n}", "label": "x"}) + "\n" for n in range(9)))
    pool = read(run, Given(input=path, columns={"text_column": "body"}), limit=4, seed=1)
    assert len(pool.records) == 4 and pool.left_out == {"not drawn": 5}
    assert all(record["text"] == f"text {record['id']}" for record in pool.records)
    assert pool.records == read(run, Given(input=path, columns={"text_column": "body"}), limit=4, seed=1).records
    with pytest.raises(UserError, match="--config.data.text_column='boddy' is absent"):
        read(run, Given(input=path, columns={"text_column": "boddy"}))


def test_labelled_examples_that_are_gone(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (run.parent / "single").rename(tmp_path / "moved")
    try:
        with pytest.raises(UserError, match="which are not to be chosen again, cannot be read: .* --labelled=URI"):
            read(run, Given(texts=["a"]))
        assert read(run, Given(texts=["a"]), labelled=f"jsonl:{tmp_path / 'moved'}").records[0]["text"] == "a"
    finally:
        (tmp_path / "moved").rename(run.parent / "single")


def test_exactly_one_place(run: pathlib.Path) -> None:
    for given in (Given(), Given(input="a.txt", source="csv:a")):
        with pytest.raises(UserError, match="--input, --source: give one of them"):
            read(run, given)
    with pytest.raises(UserError, match="no such file"):
        read(run, Given(input="absent.txt"))
