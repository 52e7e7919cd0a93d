"""tsv: no quoting, and columns by number."""

import pytest

from tests.data.records.formats.reading import read, refused, values


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
    refused(r"train\.tsv:1: only one column, 'a,b'.*commas: write csv:", "tsv", write("train.tsv", "a,b\n"))


@pytest.mark.parametrize(("kind", "sign"), [("csv", ","), ("tsv", "\t")])
def test_without_a_header_columns_are_numbers(write, kind, sign):
    path = write(f"train.{kind}", sign.join("ab") + "\n" + sign.join("cd") + "\n")
    assert values(kind, path, ("1", "0"), by_number=True) == [("b", "a"), ("d", "c")]
    refused("no column '2'; columns: '0', '1'", kind, path, ("2",), by_number=True)
    path = write(f"train.{kind}", sign.join("01") + "\n" + sign.join("cd") + "\n")  # as pandas names columns
    assert values(kind, path, ("1",), by_number=True) == [("d",)]
