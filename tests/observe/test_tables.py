"""Tables as Markdown, text and on a terminal."""

import io

import pytest
from rich.console import Console

from jaxfm.observe.tables import Table, fitted, to_markdown, to_plain, to_rich

TABLE = Table(
    title="Entities",
    columns=("type", "f1", "support", "seconds"),
    rows=(("[B-LOC]", 0.91637, 1668, 12.0), ("a|b *c*", 1.0, 7, None), ("mean", float("nan"), 1234567, 1234.56)),
    footer=1,
    formats={"seconds": ",.1f"},
)


def test_plain_text_is_aligned():
    assert to_plain(TABLE).splitlines() == [
        "Entities",
        "",
        "type         f1    support  seconds",
        "-----------------------------------",
        "[B-LOC]  0.9164      1,668     12.0",
        "a|b *c*  1.0000          7",
        "-----------------------------------",
        "mean        nan  1,234,567  1,234.6",
    ]


def test_markdown_escapes_and_aligns():
    assert to_markdown(TABLE).splitlines() == [
        "| type       |     f1 |   support | seconds |",
        "| ---------- | -----: | --------: | ------: |",
        "| [B-LOC]    | 0.9164 |     1,668 |    12.0 |",
        r"| a\|b \*c\* | 1.0000 |         7 |         |",
        "| mean       |    nan | 1,234,567 | 1,234.6 |",
    ]


def test_terminal_shows_brackets_as_they_are():
    console = Console(file=io.StringIO(), width=60, force_terminal=True)
    console.print(to_rich(TABLE))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("Entities", "[B-LOC]", "0.9164", "1,234,567", "1,234.6"):
        assert part in text


def test_wide_characters_and_line_breaks_keep_the_columns():
    lines = to_plain(Table("t", ("label", "n"), (("地名", 1), ("a\nb", 22)))).splitlines()
    assert lines[2:] == ["label   n", "---------", "地名    1", "a b    22"]


def test_a_table_without_rows_prints_its_header():
    assert to_markdown(Table("t", ("a", "b"), ())) == "| a   | b   |\n| --- | --- |\n"
    assert "a  b" in to_plain(Table("t", ("a", "b"), ()))


def test_a_wrong_table_is_refused():
    with pytest.raises(AssertionError, match="other columns"):
        Table("t", ("a", "b"), ((1,),))
    with pytest.raises(AssertionError, match="unknown columns"):
        Table("t", ("a",), ((1,),), formats={"c": ".1f"})


def test_a_table_too_wide_loses_columns_in_the_order_given() -> None:
    table = Table(
        "Runs", ("run", "why", "key", "score"), [("a" * 10, "b" * 30, "c" * 20, 0.5)], formats={"score": ".4f"}
    )
    assert fitted(table, 120, ["why", "key"]) == (table, [])
    narrower, left_out = fitted(table, 50, ["why", "key"])
    assert (narrower.columns, left_out) == (["run", "key", "score"], ["why"])
    assert narrower.rows == [("a" * 10, "c" * 20, 0.5)] and narrower.formats == {"score": ".4f"}
    assert fitted(table, 20, ["nothing", "score", "key"])[0].formats == {}
    for width in range(20, 90):
        console = Console(file=io.StringIO(), width=width, _environ={})
        shown, gone = fitted(table, width, ["why", "key", "score"])
        console.print(to_rich(shown))
        assert isinstance(console.file, io.StringIO) and "…" not in console.file.getvalue()
        assert (len(gone) == 0) == (width >= 79)
