"""parquet against pyarrow, and the class names that `datasets` writes."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from jaxfm.data.records.registry import open_tables
from tests.data.records.formats.reading import read, refused


def test_parquet_as_pyarrow_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxfm.data.records.formats.parquet._CHUNK", 7)
    columns = {
        "text": [f"t{i}" for i in range(20)],
        "label": pa.array([None if i == 3 else i % 3 for i in range(20)], pa.int8()),
        "tags": [[f"x{j}" for j in range(i % 3)] for i in range(20)],
        "kind": pa.array(["p", "q"] * 10).dictionary_encode(),
    }
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=6)
    expected = pyarrow.parquet.read_table(path).to_pylist()
    found = read("parquet", path, ("kind", "tags", "label", "text"))
    assert [record for _, record in found] == [(r["kind"], r["tags"], r["label"], r["text"]) for r in expected]
    assert [origin for origin, _ in found] == [f"{path}[{i}]" for i in range(20)]
    refused(r"train\.parquet: no column 'a'; columns: 'text', 'label', 'tags', 'kind'", "parquet", path)


@pytest.mark.parametrize("list_of", [False, True])
def test_class_names_that_datasets_writes_into_parquet(tmp_path, list_of):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"a": datasets.Value("string"), "y": datasets.List(label) if list_of else label})
    rows = {"a": ["s", "t"], "y": [[1], [0, 1]] if list_of else [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    table = open_tables("parquet", str(tmp_path)).splits["train"]()
    assert table.class_names == {"y": ["no", "yes"]}
    assert [record for _, record in table.values(("y",))] == [(value,) for value in rows["y"]]


def test_files_that_are_no_parquet(write, tmp_path):
    refused(r"train\.parquet: not a parquet file that can be read", "parquet", write("train.parquet", "text\n"))
    pyarrow.parquet.write_table(pa.table({"a": [str(i) * 50 for i in range(3000)]}), tmp_path / "train.parquet")
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[200:2000] = bytes(1800)
    refused(r"train\.parquet: the parquet data is damaged", "parquet", write("train.parquet", bytes(data)))
