"""csv cell by cell, against the csv module where that reads the same language."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.csv_cells import NotCsvError, read_cells


def read(text):
    return list(read_cells(enumerate(text.split("\n"), start=1)))


def test_white_space_around_a_quoted_cell_is_no_part_of_it():
    assert read('text, label\n"a, day", "pos"\n"x" ,\t"y"\t\n so, b ad \n') == [
        (1, ["text", " label"]),
        (2, ["a, day", "pos"]),
        (3, ["x", "y"]),
        (4, [" so", " b ad "]),
    ]


def test_records_over_several_lines_have_the_number_of_the_first():
    assert read('a,"b\n\nc ""d"""\n\n  \n"",e\n5" disk,\n') == [
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
        read(text)
    assert caught.value.line == line


@settings(max_examples=200, deadline=None)
@given(st.text('a," \t\n;\u2028', max_size=14))
def test_what_the_csv_module_reads_is_read_alike(text):
    """But for white space before a quote at the start of a cell, and lines of white space alone."""
    try:
        found = [cells for _, cells in read(text)]
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
