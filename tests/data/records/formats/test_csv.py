"""csv against the csv module, and the cells of damaged files."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.formats.csv import NotCsvError, read_cells
from jaxfm.data.records.registry import open_tables
from tests.data.records.formats.reading import read, refused, values

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
        ("a\tb\n1\t2\n", r"train\.csv:1: only one column, 'a\\tb'.*tabs: write tsv:"),
        ("a;b\n1;2\n", r"train\.csv:1: only one column, 'a;b'.*semicolons: save it with commas or tabs"),
        (b"a,b\n1,2\n\xe9,2\n", r"train\.csv:3: byte 0xE9 at position 1 of the line is not UTF-8"),
        ("b,c\n1,2\n", r"train\.csv:1: no column 'a'; columns: 'b', 'c'\."),
    ],
)
def test_bad_csv(write, text, message):
    refused(message, "csv", write("train.csv", text))


def test_long_cells_and_unnamed_columns(write):
    long = "x" * 200_000  # more than the csv module's own limit
    assert values("csv", write("train.csv", f",text,\n0,{long},z\n"), ("text",)) == [(long,)]


# --- cells ---


def cells(text):
    return list(read_cells(enumerate(text.split("\n"), start=1)))


def test_white_space_around_a_quoted_cell_is_no_part_of_it():
    assert cells('text, label\n"a, day", "pos"\n"x" ,\t"y"\t\n so, b ad \n') == [
        (1, ["text", " label"]),
        (2, ["a, day", "pos"]),
        (3, ["x", "y"]),
        (4, [" so", " b ad "]),
    ]


def test_records_over_several_lines_have_the_number_of_the_first():
    assert cells('a,"b\n\nc ""d"""\n\n  \n"",e\n5" disk,\n') == [
        (1, ["a", 'b\n\nc "d"']),
        (6, ["", "e"]),
        (7, ['5" disk', ""]),
    ]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('a\n"b" c,d', 2, "'c,d' after the quote"),
        ('a\n"b\nc\n', 2, "does not end before the file does"),
        ("a\nb\rc,d", 2, "a carriage return inside a line"),
        ('a, "b" and c', 1, "'and c' after the quote"),
    ],
)
def test_what_is_not_csv(text, line, reason):
    with pytest.raises(NotCsvError, match=reason) as caught:
        cells(text)
    assert caught.value.line == line


@settings(max_examples=200, deadline=None)
@given(st.text('a," \t\n;\u2028', max_size=14))
def test_what_the_csv_module_reads_is_read_alike(text):
    """But for white space before a quote at the start of a cell, and lines of white space alone."""
    try:
        found = [cells for _, cells in cells(text)]
    except NotCsvError:
        found = None
    try:
        wanted = list(csv.reader((line + "\n" for line in text.split("\n")), strict=True))
    except csv.Error:
        wanted = None
    lines = text.split("\n")
    if any(f'{space}"' in text for space in " \t") or any(f'"{space}' in text for space in " \t"):
        return
    if not any(line and not line.strip() for line in lines):
        assert found == (wanted if wanted is None else [cells for cells in wanted if cells])


# --- parts ---


def test_a_split_in_parts(write, tmp_path):
    for part, text in enumerate(("a,b\n1,2\n", "b,a\n3,4\n")):
        write(f"train-{part:05}-of-00002.csv", text)
    write("validation-00000-of-00001.csv", "a,b\n5,6\n")
    tables = open_tables("csv", str(tmp_path))
    assert values("csv", tmp_path, ("a",)) == [("1",), ("4",)]  # by name, not by position
    assert tables.splits["train"]().source == f"{tmp_path}/train-00000-of-00002.csv and 1 more"
    assert set(tables.splits) == {"train", "valid"}
    write("train-00001-of-00002.csv", "b\n3\n")
    refused(r"train-00001-of-00002\.csv:1: no column 'a'; columns: 'b'", "csv", tmp_path)
    assert json.dumps(tables.found).count("train-00000") == 1
