"""Running text before pretraining: what its manifests and documents say."""

import dataclasses
import pathlib

import pytest

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.corpora.pretraining import open_documents
from jaxfm.tasks.masked_checks import check_text
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> DataCheck:
    config = tiny.masked_lm_config(tmp_path_factory.mktemp("masked"))
    return check_text(config, resolve(config.model))


def by_check(found: DataCheck) -> dict[str, Finding]:
    return {each.check: each for each in found.findings}


def test_sizes_are_those_of_the_rows(usual: DataCheck) -> None:
    (table,) = usual.tables
    assert [row[0] for row in table.rows][0] == "train"
    sizes = dict(zip(table.columns, table.rows[0], strict=True))
    assert sizes["documents"] > 0 and sizes["rows"] > 0 and 0.5 < sizes["filled"] <= 1.0
    assert by_check(usual)["size"].message.startswith(f"train has {sizes['rows']:,} rows, ")


def test_every_check_is_there_for_every_split(usual: DataCheck) -> None:
    found = by_check(usual)
    for split in ("train", "valid"):
        assert {f"duplicates of {split}", f"unknown tokens of {split}", f"fill of {split}"} <= found.keys()
    assert "leaks into valid" in found and "leaks into train" not in found and not usual.count("error")


def test_documents_of_train_in_valid_are_an_error_and_copies_are_counted(tmp_path: pathlib.Path) -> None:
    config = tiny.masked_lm_config(tmp_path)
    lines = (tmp_path / "text" / "train.txt").read_text().splitlines()
    documents = [line for line in lines if line.strip()][:20]
    for name, mode in (("valid.txt", "w"), ("train.txt", "a")):
        copies = 2 if name == "train.txt" else 1
        with open(tmp_path / "text" / name, mode) as file:
            file.write("\n\n" + "\n\n".join(documents * copies) + "\n")
    found = by_check(check_text(config, resolve(config.model)))
    leaks = found["leaks into valid"]
    assert leaks.level == "error" and "among the 20 of valid" in leaks.message
    assert "valid.txt:" in leaks.examples[0] and "train.txt:" in leaks.examples[0]
    assert "were left out: exact duplicate" in found["duplicates of train"].message


def test_prepared_rows_have_no_documents_to_compare(tmp_path: pathlib.Path) -> None:
    config = tiny.masked_lm_config(tmp_path)
    assert open_documents(config.data) is not None
    assert open_documents(dataclasses.replace(config.data, source="array_record:x")) is None
