"""Columns by name, and the columns of rows that each have their own."""

import itertools
from collections.abc import Iterator, Sequence

import pytest

from jaxfm.data.records.table import (
    Row,
    Table,
    choose_column,
    memory_table,
    require_columns,
    require_text,
    usual_column,
)
from jaxfm.errors import UserError

COLUMNS = ("id", "Text", "words", "tokens")


def test_the_column_asked_for_wins_then_the_only_usual_one() -> None:
    assert choose_column(COLUMNS, "id", ("words",), "words", "a.csv") == "id"
    assert choose_column(COLUMNS, "", ("words", "sentence"), "words", "a.csv") == "words"
    assert usual_column(COLUMNS, ("text", "words")) == "Text"
    assert usual_column(COLUMNS, ("text", "words"), taken=("Text",)) == "words"
    assert usual_column(COLUMNS, ("body",)) == ""
    assert require_columns(COLUMNS, ("tokens", "id"), "a.csv") == [3, 0]


@pytest.mark.parametrize(
    ("asked", "usual", "message"),
    [
        (
            "wrods",
            (),
            r"^a\.csv: data\.words_column='wrods' is absent\. Did you mean 'words'\? Columns: 'id'",
        ),
        ("", ("words", "tokens"), r"'words' and 'tokens' could both be the words: set data\.words_column \(columns: "),
        ("", ("body",), r"no column for the words \(looked for body; columns: 'id', .*\): set data\.words_column"),
    ],
)
def test_a_column_that_is_absent_or_ambiguous(asked: str, usual: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_column(COLUMNS, asked, usual, "words", "a.csv")
    with pytest.raises(UserError, match=r"set --words|--words="):
        choose_column(COLUMNS, asked, usual, "words", "a.csv", option="--words")


def test_columns_of_a_ragged_table_are_those_of_its_first_hundred_rows() -> None:
    rows_read = 0

    def read(asked: Sequence[str] | None) -> Iterator[Row]:
        nonlocal rows_read
        for index in itertools.count():
            rows_read += 1
            values = {"a": index, **({"b": 1} if index == 99 else {}), **({"late": 1} if index == 100 else {})}
            yield Row(f"x[{index}]", {name: values[name] for name in asked if name in values} if asked else values)

    table = Table("x", None, read)
    assert table.columns == ("a", "b") and rows_read == 100
    assert next(iter(table.values(("b", "a")))) == ("x[0]", (None, 0))


def test_a_table_in_memory_is_read_anew_at_each_call() -> None:
    table = memory_table("x", ("a", "b"), [("x[0]", (1, 2))])
    for _ in range(2):
        assert list(table.read(None)) == [Row("x[0]", {"a": 1, "b": 2})]
        assert list(table.values(("b",))) == [("x[0]", (2,))]


@pytest.mark.parametrize(
    ("value", "message"), [(3, "3 in 'a' is of type int, but must be text"), ("\ud800", "half of a")]
)
def test_values_that_are_not_text(value: object, message: str) -> None:
    assert require_text("\u00e9", "a", "x:1") == "\u00e9"
    with pytest.raises(UserError, match=f"^x:1: .*{message}"):
        require_text(value, "a", "x:1")
