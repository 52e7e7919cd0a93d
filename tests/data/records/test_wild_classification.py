"""Classification files as people have them: read, or refused in one message that names the place and the way out.

Most are exports of spreadsheets, notebooks and labelling tools, or sets as published.
"""

import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.examples import ExampleColumns, ExampleSplit, read_examples
from jaxfm.errors import UserError

POS_NEG = ["pos", "neg"]
# name -> (file, its bytes, options of the reader, the targets or a part of the message)
FILES: dict[str, tuple[str, bytes | str, dict[str, str], list | str]] = {
    "space after comma": (
        "train.csv",
        'text, label\n"a fine day", "pos"\n"a bad day", "neg"\n"so good", pos\n"so bad", neg\n',
        {},
        POS_NEG * 2,
    ),
    "space before comma": ("train.csv", '"text" ,"label" \n"a, b" ,"pos"\n"c" ,"neg" \n', {}, POS_NEG),
    "kaggle index column": ("train.csv", ",text,label\n0,a,pos\n1,b,neg\n", {}, POS_NEG),
    "kaggle id and quotes": ("train.csv", '"id","comment_text","sentiment"\n7,"a ""b""","pos"\n8,c,neg\n', {}, POS_NEG),
    "spam.csv": ("train.csv", "v1,v2,,,\npos,a,,,\nneg,b,,,\n", {"text": "v2", "label": "v1"}, POS_NEG),
    "quoted newlines": ("train.csv", 'text,label\n"a\nb\n\nc",pos\n"d",neg\n', {}, POS_NEG),
    "crlf": ("train.csv", "text,label\r\na,pos\r\nb,neg\r\n", {}, POS_NEG),
    "crlf in quotes": ("train.csv", 'text,label\r\n"a\r\nb",pos\r\nc,neg\r\n', {}, POS_NEG),
    "bom": ("train.csv", b"\xef\xbb\xbftext,label\na,pos\nb,neg\n", {}, POS_NEG),
    "bom and quotes": ("train.csv", b'\xef\xbb\xbf"text","label"\na,pos\nb,neg\n', {}, POS_NEG),
    "utf-16 of Notepad": ("train.csv", "text,label\r\na,pos\r\nb,neg\r\n".encode("utf-16"), {}, POS_NEG),
    "utf-16 tabs of Excel": ("train.tsv", "text\tlabel\r\na\tpos\r\nb\tneg\r\n".encode("utf-16"), {}, POS_NEG),
    "empty lines": ("train.csv", "\n\ntext,label\n\na,pos\n   \nb,neg\n\t\n\n", {}, POS_NEG),
    "no line end at the end": ("train.csv", "text,label\na,pos\nb,neg", {}, POS_NEG),
    "very long cell": ("train.csv", f"text,label\n{'x' * 300_000},pos\nb,neg\n", {}, POS_NEG),
    "labels with spaces": ("train.csv", "text,label\na,New York\nb, Old Town \n", {}, ["New York", "Old Town"]),
    "labels with accents": (
        "train.csv",
        "text,label\na,stra\u00dfe\nb,\u4e2d\u6587\n",
        {},
        ["stra\u00dfe", "\u4e2d\u6587"],
    ),
    "float labels": ("train.csv", "text,label\na,1.0\nb,0.0\n", {}, ["1.0", "0.0"]),
    "header in capitals": ("train.csv", "Text,Label\na,pos\nb,neg\n", {}, "no column for the text (looked for text"),
    "gzip": ("train.csv.gz", gzip.compress(b"text,label\na,pos\nb,neg\n", mtime=0), {}, POS_NEG),
    "ag news": ("train.csv", '"3","Wall St.","Short, text"\n"1","b","c"\n', {"text": "2", "label": "0"}, ["3", "1"]),
    "sentiment140": (
        "train.csv",
        '"0","1467810369","Mon","NO_QUERY","x","a, b"\n"4","2","Tue","NO_QUERY","y","c"\n',
        {"text": "5", "label": "0"},
        ["0", "4"],
    ),
    "cola": (
        "train.tsv",
        "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tBad the.\n",
        {"text": "3", "label": "1"},
        ["1", "0"],
    ),
    "sst-2": ("train.tsv", "sentence\tlabel\nit 's \" a charm\t1\nbleak\t0\n", {}, ["1", "0"]),
    "tsv with tabs at the end": ("train.tsv", "text\tlabel\t\na\tpos\t\nb\tneg\t\n", {}, POS_NEG),
    "semicolons": (
        "train.csv",
        "text;label\na;pos\n",
        {},
        "train.csv:1: only one column, 'text;label'. Its cells seem",
    ),
    "tabs in csv": ("train.csv", "text\tlabel\na\tpos\n", {}, "seem to be separated by tabs: write tsv:"),
    "commas in tsv": ("train.tsv", "text,label\na,pos\n", {}, "seem to be separated by commas: write csv:"),
    "one column": ("train.csv", "text\na\nb\n", {}, "no column for the label"),
    "no header": ("train.csv", "a fine day,pos\na bad day,neg\n", {}, "no column for the text"),
    "duplicate header": ("train.csv", "text,label,text\na,pos,b\n", {}, "train.csv:1: two columns are named 'text'"),
    "missing label": ("train.csv", "text,label\na,pos\nb,\nc,neg\n", {}, "train.csv:3: no label in 'label'"),
    "missing text": ("train.csv", 'text,label\na,pos\n"",neg\n', {}, "train.csv:3: the text in 'text' is empty"),
    "comma not quoted": ("train.csv", "text,label\na, b,pos\n", {}, "train.csv:2: 3 columns, but the first line has 2"),
    "quote not closed": ("train.csv", 'text,label\na,pos\n"b,neg\nc,pos\n', {}, "train.csv:3: not CSV (a cell in quo"),
    "backslash quotes": ("train.csv", 'text,label\n"a \\"b\\" c",pos\n', {}, "train.csv:2: not CSV ('b"),
    "latin-1": ("train.csv", b"text,label\ncaf\xe9,pos\n", {}, "train.csv:2: byte 0xE9 at position 4"),
    "nul": ("train.csv", b"text,label\na\0b,pos\nc,neg\n", {}, "train.csv:2: a NUL byte"),
    "printed lists": (
        "train.csv",
        "text,label\na,['x']\nb,['y']\n",
        {},
        "train.csv:2: \"['x']\" in 'label' is not a class",
    ),
    "jsonl": ("train.jsonl", '{"text": "a", "label": "pos"}\n\n{"label": "neg", "text": "b"}\n', {}, POS_NEG),
    "jsonl numbers": ("train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0.0}\n', {}, ["1", "0"]),
    "jsonl nan": (
        "train.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": NaN}\n',
        {},
        "train.jsonl:2: no label",
    ),
    "ndjson": ("train.ndjson", '{"text": "a", "label": true}\n{"text": "b", "label": false}\n', {}, ["true", "false"]),
    "a list as json": (
        "train.json",
        '[{"text": "a", "label": "pos"},\n {"text": "b", "label": "neg"}]\n',
        {},
        POS_NEG,
    ),
    "one-hot": (
        "train.jsonl",
        '{"text": "a", "label": [0, 1]}\n',
        {},
        "train.jsonl:1: [0, 1] in 'label' is not a class",
    ),
    "empty file": ("train.csv", "", {}, "train.csv: the file is empty"),
    "header alone": ("train.csv", "text,label\n", {}, "the split 'train' is empty"),
    "scores as classes": ("train.csv", "text,label\na,0.5\nb,1\n", {}, "these are not classes. Train a regression"),
}


def split_of(path: pathlib.Path, kind: str = "single", **columns: str) -> ExampleSplit:
    name = path.name.removesuffix(".gz").rpartition(".")[2]
    source = {"ndjson": "jsonl", "json": "jsonl"}.get(name, name) + f":{path}"
    return read_examples(source, ["train"], columns=ExampleColumns(**columns), kind=kind)["train"]


def outcome(path: pathlib.Path, kind: str = "single", **columns: str) -> ExampleSplit | str:
    try:
        return split_of(path, kind, **columns)
    except UserError as error:
        assert "\n" not in str(error) and str(path.parent) in str(error)
        return str(error)


@pytest.mark.parametrize("name", FILES)
def test_files_in_the_wild(tmp_path, name):
    file, content, columns, wanted = FILES[name]
    path = tmp_path / file
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    found = outcome(path, **columns)
    if isinstance(wanted, str):
        assert isinstance(found, str) and wanted in found
    else:
        assert not isinstance(found, str), found
        assert [example.target for example in found.examples] == wanted


def test_classes_that_differ_in_writing_alone_are_said(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,label\na,Pos\nb,pos\nc,neg \nd,neg\ne,New  York\nf,New York\ng,1\nh,1.0\n")
    note = split_of(path).note
    for pair in ("'Pos' and 'pos'", "'New  York' and 'New York'", "'1' and '1.0'"):
        assert f"NOTE: {pair} are different classes, though they differ in the way they are written alone" in note
    assert "white space around 1 labels is left out" in note and "neg 2" in note
    path.write_text("text,label\na,pos\nb,neg\n")
    assert "NOTE" not in split_of(path).note and "white space" not in split_of(path).note


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.list_(pa.float32()), pa.list_(pa.bool_()), pa.list_(pa.int8(), 3)]
)
def test_vectors_in_parquet(tmp_path, kind):
    rows = [[0, 1, 0], [1, 1, 0], [0, 0, 0]]
    table = pa.table(
        {
            "text": ["a", "b", "c"],
            "labels": pa.array(rows).cast(kind)
            if kind != pa.list_(pa.bool_())
            else pa.array([[bool(bit) for bit in row] for row in rows]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    split = split_of(tmp_path / "train.parquet", "multi")
    assert [example.target for example in split.examples] == [("label_1",), ("label_0", "label_1"), ()]
    assert split.classes == ("label_0", "label_1", "label_2")
    assert "'labels' holds lists of 0 and 1, for 3 classes: label_0, label_1, label_2" in split.note
    assert "NOTE: no training example has 'label_2'" in split.note


def test_structs_and_gaps_in_parquet(tmp_path):
    table = pa.table({"text": ["a", "b"], "labels": [{"x": 1, "y": 0}, {"x": 0, "y": 1}]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert [example.target for example in split_of(tmp_path / "train.parquet", "multi").examples] == [("x",), ("y",)]
    pyarrow.parquet.write_table(
        pa.table({"text": ["a", "b"], "label": [1.0, float("nan")]}), tmp_path / "train.parquet"
    )
    assert "train.parquet[1]: no label in 'label'" in str(outcome(tmp_path / "train.parquet"))


def test_one_form_holds_for_all_splits(tmp_path):
    """What looks like vectors in one split and cannot be in another are class numbers in both."""
    for name, rows in (("train", [[0, 2], [1]]), ("test", [[0, 1], [1, 0]])):
        lines = [json.dumps({"text": f"{name} {row}", "labels": row}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    read = read_examples(f"jsonl:{tmp_path}", ["test"], columns=ExampleColumns(), kind="multi")["test"]
    assert [example.target for example in read.examples] == [("0", "1"), ("1", "0")]
    (tmp_path / "train.jsonl").write_text('{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": []}\n')
    with pytest.raises(
        UserError, match=r"test\.jsonl:1: 'labels' holds lists of numbers here, but lists of text at .*tr"
    ):
        read_examples(f"jsonl:{tmp_path}", ["train"], columns=ExampleColumns(), kind="multi")


def test_a_class_seen_once_is_never_held_out(tmp_path):
    rows = [f"text {i},{'pos' if i % 2 else 'neg'}" for i in range(40)] + [f"rare {i},rare{i}" for i in range(8)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    for share in (0.1, 0.3, 0.5):
        read = read_examples(
            f"csv:{tmp_path}", ["train", "valid"], columns=ExampleColumns(), kind="single", holdout=share
        )
        left = {example.target for example in read["train"].examples}
        assert left == {"pos", "neg", *(f"rare{i}" for i in range(8))}
        assert {example.target for example in read["valid"].examples} == {"pos", "neg"}


# --- anything at all ---

LINE = st.text(st.sampled_from("ab01\",\t;|[]{}' \\\u00e9\0") | st.characters(codec="utf-8"), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=4,
)


def check_any(folder: pathlib.Path, name: str, content: bytes, kind: str) -> None:
    """Reads a file: right results (text and targets of the kind, a place each), or an error that names the place."""
    path = folder / name
    path.write_bytes(content)
    found = outcome(path, kind)
    if isinstance(found, str):
        return
    for example in found.examples:
        assert example.text.strip() and example.origin.startswith(str(path))
        wanted = {"single": str, "multi": tuple, "regression": float}[kind]
        assert isinstance(example.target, wanted)
        if isinstance(example.target, tuple):
            assert len(set(example.target)) == len(example.target)
            assert all(name and name == name.strip() for name in example.target)


@settings(max_examples=120, deadline=None)
@given(
    lines=st.lists(LINE, max_size=5),
    name=st.sampled_from(["train.csv", "train.tsv"]),
    kind=st.sampled_from(["single", "multi", "regression"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]),
)
def test_any_cells(tmp_path_factory, lines, name, kind, end, encoding):
    sign = "," if name.endswith("csv") else "\t"
    text = end.join([f"text{sign}label", *lines]) + end
    check_any(tmp_path_factory.getbasetemp(), name, text.encode(encoding, "replace"), kind)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({}, optional={"text": JSON | st.just("a"), "label": JSON}), max_size=4),
    kind=st.sampled_from(["single", "multi", "regression"]),
    garbage=st.binary(max_size=3),
)
def test_any_objects(tmp_path_factory, rows, kind, garbage):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode() + garbage
    check_any(tmp_path_factory.getbasetemp(), "train.jsonl", content, kind)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(
        st.none() | st.lists(st.none() | st.floats() | st.integers(0, 1).map(float), max_size=3), max_size=4
    )
    | st.lists(st.none() | st.text(max_size=4), max_size=4)
    | st.lists(st.none() | st.integers(-1, 2), max_size=4),
    kind=st.sampled_from(["single", "multi", "regression"]),
    cut=st.integers(0, 30),
)
def test_any_columns_of_parquet(tmp_path_factory, labels, kind, cut):
    folder = tmp_path_factory.getbasetemp()
    pyarrow.parquet.write_table(
        pa.table({"text": [f"t{i}" for i in range(len(labels))], "label": labels}), folder / "p"
    )
    content = (folder / "p").read_bytes()
    check_any(folder, "train.parquet", content[: len(content) - cut if cut > 20 else len(content)], kind)
