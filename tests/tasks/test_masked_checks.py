"""Running text before pretraining: what its manifests and documents say."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.core.data_check import DataCheck
from jaxfm.programs.check import check
from tests import tiny


def checked(folder: pathlib.Path, write: Any = None, **overrides: Any) -> DataCheck:
    config = tiny.masked_lm_config(folder, **overrides)
    if write is not None:
        write(folder / "text")
    return check(config)


def levels(found: DataCheck) -> dict[str, str]:
    return {each.check: each.level for each in found.findings}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> DataCheck:
    return checked(tmp_path_factory.mktemp("masked"))


def test_sizes_are_those_of_the_rows(usual: DataCheck) -> None:
    (table,) = usual.tables
    assert table.columns[0] == "split" and [row[0] for row in table.rows][0] == "train"
    assert all(isinstance(row[1], int) and row[1] > 0 for row in table.rows)


def test_every_check_is_there_for_every_split(usual: DataCheck) -> None:
    found = levels(usual)
    for split in ("train", "valid"):
        assert {f"duplicates of {split}", f"unknown tokens of {split}", f"fill of {split}"} <= found.keys()
    assert "leaks into valid" in found and found["updates"] == "warning" and not usual.count("error")


def test_documents_of_train_in_valid_are_an_error_and_copies_a_warning(tmp_path: pathlib.Path) -> None:
    def write(folder: pathlib.Path) -> None:
        lines = (folder / "train.txt").read_text().splitlines()
        documents = [line for line in lines if line.strip()][:20]
        (folder / "valid.txt").write_text("\n\n".join(documents) + "\n")
        with open(folder / "train.txt", "a") as file:
            file.write("\n" + "\n\n".join(documents) + "\n")

    found = checked(tmp_path, write)
    by_check = {each.check: each for each in found.findings}
    assert by_check["leaks into valid"].level == "error"
    assert "valid.txt:" in by_check["leaks into valid"].examples[0]
    assert "train.txt:" in by_check["leaks into valid"].examples[0]
    assert (
        by_check["duplicates of train"].level == "warning"
        and "exact duplicate" in by_check["duplicates of train"].message
    )


def test_prepared_rows_have_no_documents_to_compare(usual: DataCheck, tmp_path: pathlib.Path) -> None:
    from jaxfm.data.corpora.pretraining import open_documents

    config = tiny.masked_lm_config(tmp_path)
    assert open_documents(config.data) is not None
    assert open_documents(dataclasses.replace(config.data, source="array_record:x")) is None
    assert np.isfinite(len(usual.findings))
