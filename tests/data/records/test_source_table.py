"""Tables: csv against the csv module, parquet against pyarrow, tsv and jsonl against files written by hand."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.source_files import find_table_files
from jaxfm.data.records.source_table import find_table
from jaxfm.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text.encode() if isinstance(text, str) else text
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def read(kind, rest, fields, split="train", **options):
    return list(find_table(kind, str(rest), **options).splits[split]().records(fields))


def values(*arguments, **options):
    return [record for _, record in read(*arguments, **options)]


def refused(message, kind, rest, fields=("a",), **options):
    with pytest.raises(UserError, match=message) as caught:
        table = find_table(kind, str(rest), **options).splits["train"]()
        list(table.records(fields))
    assert "\n" not in str(caught.value)


# --- csv ---

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL), max_size=5), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
)
def test_csv_as_the_csv_module_writes_it(tmp_path_factory, rows, quoting):
    path = tmp_path_factory.mktemp("csv") / "train.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=quoting).writerows([("a", "b", "c"), *rows])
    assert values("csv", path, ("c", "a")) == [(c, a) for a, _, c in rows]


def test_csv_lines_are_those_of_the_file(write):
    path = write("train.csv.gz", '\ufeff text , label\r\n"one, ""two""\r\nthree",x\r\n\r\n"\u2028",y\r\n')
    assert read("csv", path, ("text", "label")) == [
        (f"{path}:2", ('one, "two"\nthree', "x")),
        (f"{path}:5", ("\u2028", "y")),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", r"train\.csv:3: 3 columns, but the first line has 2 \(.*double quotes\): '1 \| 2 \| 3'"),
        ("a,b\n1\n", r"train\.csv:2: 1 column, but the first line has 2"),
        ('a,b\n"1,2\n3,4\n', r"train\.csv:2: not CSV \(a cell in quotes does not end before the file does\)"),
        ('a,b\n1,2\n"1"x,2\n', r"train\.csv:3: not CSV \('x,2' after the quote that ends a cell, not a comma\).*tsv:"),
        ("a,a\n1,2\n", r"train\.csv:1: two columns are named 'a'"),
        ("", r"train\.csv: the file is empty; its first line must name the columns"),
        ("a\tb\n1\t2\n", r"train\.csv:1: one column alone, 'a\\tb'.*tabs: write tsv:"),
        ("a;b\n1;2\n", r"train\.csv:1: one column alone, 'a;b'.*semicolons: save it with commas or tabs"),
        (b"a,b\n1,2\n\xe9,2\n", r"train\.csv:3: byte 0xE9 at position 1 of the line is not UTF-8"),
        ("b,c\n1,2\n", r"train\.csv:1: no field 'a'; there: 'b', 'c'\."),
    ],
)
def test_bad_csv(write, text, message):
    refused(message, "csv", write("train.csv", text))


def test_long_cells_and_unnamed_columns(write):
    long = "x" * 200_000  # more than the csv module's own limit
    assert values("csv", write("train.csv", f",text,\n0,{long},z\n"), ("text",)) == [(long,)]


# --- tsv ---


def test_tsv_has_no_quoting(write):
    path = write("train.tsv", 'text\tlabel\n" unbalanced\t1\n\n"a" and "b"\t0\r\nc\\\t,\n')
    assert read("tsv", path, ("label", "text")) == [
        (f"{path}:2", ("1", '" unbalanced')),
        (f"{path}:4", ("0", '"a" and "b"')),
        (f"{path}:5", (",", "c\\")),
    ]
    refused(
        r"train\.tsv:3: 2 columns, but the first line has 1 \(a cell holds no tab\)",
        "tsv",
        write("train.tsv", "a\n1\n1\t2\n"),
    )
    refused(r"train\.tsv:1: one column alone, 'a,b'.*commas: write csv:", "tsv", write("train.tsv", "a,b\n"))


@pytest.mark.parametrize(("kind", "sign"), [("csv", ","), ("tsv", "\t")])
def test_without_a_header_columns_are_numbers(write, kind, sign):
    path = write(f"train.{kind}", sign.join("ab") + "\n" + sign.join("cd") + "\n")
    assert values(kind, path, ("1", "0"), header=False) == [("b", "a"), ("d", "c")]
    refused("no field '2'; there: '0', '1'", kind, path, ("2",), header=False)
    path = write(f"train.{kind}", sign.join("01") + "\n" + sign.join("cd") + "\n")  # as pandas names columns
    assert values(kind, path, ("1",), header=False) == [("d",)]


# --- jsonl ---


def test_jsonl_fields_may_be_absent(write):
    path = write("train.jsonl", '{"a": 1}\n\n{"b": [1, null], "a": "\\u00e9"}\n{"b": NaN}\n')
    table = find_table("jsonl", str(path)).splits["train"]()
    assert table.fields == ("a", "b")
    found = list(table.records(("b", "a")))
    assert found[:2] == [(f"{path}:1", (None, 1)), (f"{path}:3", ([1, None], "é"))]
    assert str(found[2]) == f"('{path}:4', (nan, None))"
    refused(r"train\.jsonl:2: not JSON", "jsonl", write("train.jsonl", '{"a": 1}\n{"a"\n'))
    refused(r"train\.jsonl:1: a list, but each line must be one JSON object", "jsonl", write("train.jsonl", "[1]\n"))


# --- parquet ---


def test_parquet_as_pyarrow_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxfm.data.records.source_table._CHUNK", 7)
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
    refused(r"train\.parquet: no field 'a'; there: 'text', 'label', 'tags', 'kind'", "parquet", path)


@pytest.mark.parametrize("list_of", [False, True])
def test_class_names_that_datasets_writes_into_parquet(tmp_path, list_of):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"a": datasets.Value("string"), "y": datasets.List(label) if list_of else label})
    rows = {"a": ["s", "t"], "y": [[1], [0, 1]] if list_of else [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    table = find_table("parquet", str(tmp_path)).splits["train"]()
    assert table.class_names == {"y": ["no", "yes"]}
    assert [record for _, record in table.records(("y",))] == [(value,) for value in rows["y"]]


def test_files_that_are_no_parquet(write, tmp_path):
    refused(r"train\.parquet: not a parquet file that can be read", "parquet", write("train.parquet", "text\n"))
    pyarrow.parquet.write_table(pa.table({"a": [str(i) * 50 for i in range(3000)]}), tmp_path / "train.parquet")
    data = bytearray((tmp_path / "train.parquet").read_bytes())
    data[200:2000] = bytes(1800)
    refused(r"train\.parquet: the parquet data is damaged", "parquet", write("train.parquet", bytes(data)))


# --- files ---

CSV = (".csv",)


def test_files_by_name_and_one_file_alone(write, tmp_path):
    for name in ("a/train.csv", "a/dev.csv.gz", "a/test.tsv", "a/README.csv", "reviews.csv"):
        write(name, "a\n")
    folder = tmp_path / "a"
    assert find_table_files(str(folder), "csv", CSV)[0] == {
        "train": [folder / "train.csv"],
        "valid": [folder / "dev.csv.gz"],
    }
    assert find_table_files(str(folder / "*.tsv"), "tsv", CSV)[0] == {"test": [folder / "test.tsv"]}
    assert find_table_files(str(folder / "dev.csv.gz"), "csv", CSV)[0] == {"valid": [folder / "dev.csv.gz"]}
    assert find_table_files(str(tmp_path / "reviews.csv"), "csv", CSV)[0] == {"train": [tmp_path / "reviews.csv"]}
    explicit = f"train={tmp_path}/reviews.csv,test={folder}/train.csv"
    assert find_table_files(explicit, "csv", CSV)[0] == {
        "train": [tmp_path / "reviews.csv"],
        "test": [folder / "train.csv"],
    }


@pytest.mark.parametrize(
    ("names", "rest", "message"),
    [
        (("reviews.csv",), "", r"no file of a split: .* holds reviews\.csv"),
        (("train.csv", "train_old.csv"), "", r"both .*train\.csv and .*train_old\.csv could be the split 'train'"),
        (("train-00000-of-00002.csv",), "", r"train-00000-of-00002\.csv: of the 2 parts .* 1 are there"),
        (("train.csv",), "absent.csv", r"no such file or folder; the folder .* holds train\.csv"),
    ],
)
def test_files_that_are_no_splits(write, tmp_path, names, rest, message):
    for name in names:
        write(name, "a\n")
    with pytest.raises(UserError, match=message):
        find_table_files(str(tmp_path / rest), "csv", CSV)


def test_a_split_in_parts(write, tmp_path):
    for part, text in enumerate(("a,b\n1,2\n", "b,a\n3,4\n")):
        write(f"train-{part:05}-of-00002.csv", text)
    write("validation-00000-of-00001.csv", "a,b\n5,6\n")
    tables = find_table("csv", str(tmp_path))
    assert values("csv", tmp_path, ("a",)) == [("1",), ("4",)]  # by name, not by position
    assert tables.splits["train"]().place == f"{tmp_path}/train-00000-of-00002.csv and 1 more"
    assert set(tables.splits) == {"train", "valid"}
    write("train-00001-of-00002.csv", "b\n3\n")
    refused(r"train-00001-of-00002\.csv:1: no field 'a'; there: 'b'", "csv", tmp_path)
    assert json.dumps(tables.others).count("train-00000") == 1
