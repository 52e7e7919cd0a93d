"""report.html holds everything, needs nothing, and shows data as data."""

import html.parser
import math
import pathlib
import re
from typing import Any

import pytest

from jaxfm.observe.examples import Mark, View, WrongExample, without_overlaps
from jaxfm.observe.html_report import pieces, to_html
from jaxfm.observe.tables import Table
from tests.observe.test_report import REPORT

EVIL = "<script>alert('1')</script> & \"quoted\""
PNG = b"\x89PNG\r\n\x1a\nrest"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, in order, and whether all that need it are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data


def page_of(tmp_path: pathlib.Path, **changes: Any) -> tuple[str, Page]:
    for name in ("curves", "test_confusion"):
        (tmp_path / f"{name}.png").write_bytes(PNG)
    view = View("gold", f"Ada {EVIL}", (Mark(0, 3, "PER", "missed"),))
    values: dict[str, Any] = {
        "tables": {"test": [Table(EVIL, ("type", "f1"), [(EVIL, 0.5)], footer=1)]},
        "cost": [Table("Wall time", ("what", "seconds"), [("train", 1.5)])],
        "plots": [tmp_path / "curves.png", tmp_path / "test_confusion.png"],
        "wrong": {"test": [WrongExample(EVIL, (view, view), (("loss", 1.23456), ("gold", EVIL)))] * 7},
        "settings": [("seed", "0", "0", "of the run"), ("data.source", repr(EVIL), "''", "URI")],
        "commands": [("Predict", f"python -m jaxfm.predict --workdir='{EVIL}'")],
    } | changes
    report = {**REPORT, "device": EVIL, "splits": {**REPORT["splits"], "valid": {"f1": 0.5, "warnings": [EVIL]}}}
    text = to_html(tmp_path, report, "f1", **values)
    return text, Page(text)


def test_the_page_is_whole_and_shows_data_as_data(tmp_path: pathlib.Path) -> None:
    text, page = page_of(tmp_path)
    assert "<script" not in text and not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert page.text.count(EVIL) >= 5  # what was escaped is what is read
    for part in ("0.4321", "f1 on test", "1.235", "Wall time", "data.source", f"WARNING: {EVIL}"):
        assert part in page.text, part


def test_nothing_is_fetched(tmp_path: pathlib.Path) -> None:
    text, page = page_of(tmp_path)
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert sources and all(value and value.startswith(("data:image/png;base64,", "#")) for value in sources)
    assert not re.search(r"url\(|@import|https?://", text)
    targets = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert {value[1:] for value in sources if value and value.startswith("#")} <= targets


def test_marks_show_what_was_missed(tmp_path: pathlib.Path) -> None:
    text, page = page_of(tmp_path)
    assert '<mark class="missed">Ada<small>PER missed</small></mark>' in text
    assert sum(tag == "article" for tag, _ in page.tags) == 7
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    assert "2 more" in page.text  # five are open


def test_keys_that_differ_come_first(tmp_path: pathlib.Path) -> None:
    _, page = page_of(tmp_path)
    settings = page.text[page.text.rindex("Settings") :]
    assert settings.index("data.source") < settings.index("All 2 keys") < settings.index("seed")
    _, page = page_of(tmp_path, settings=[("seed", "0", "0", "of the run")])
    assert "All keys have their defaults" in page.text


def test_a_run_without_splits_has_a_page(tmp_path: pathlib.Path) -> None:
    report = {**REPORT, "splits": {}}
    text = to_html(tmp_path, report, "f1", tables={}, cost=[], plots=[], wrong={}, settings=[], commands=[])
    assert "nothing was scored" in Page(text).text
    undefined = {**REPORT, "splits": {"test": {"f1": math.nan}}}
    Page(to_html(tmp_path, undefined, "f1", tables={}, cost=[], plots=[], wrong={}, settings=[], commands=[]))


@pytest.mark.parametrize(
    ("marks", "parts"),
    [
        ((), ["abcdef"]),
        (((0, 2),), ["ab", "cdef"]),
        (((2, 4), (4, 6)), ["ab", "cd", "ef"]),
        (((0, 6),), ["abcdef"]),
    ],
)
def test_a_text_is_cut_where_marks_are(marks: tuple[tuple[int, int], ...], parts: list[str]) -> None:
    view = View("text", "abcdef", tuple(Mark(*place, "X", "right") for place in marks))
    found = pieces(view)
    assert [text for text, _ in found] == parts
    assert [(mark.start, mark.end) for _, mark in found if mark] == list(marks)


def test_of_overlapping_marks_the_first_and_longest_stays() -> None:
    def marks(*places: tuple[int, int]) -> list[Mark]:
        return [Mark(start, end, "X", "right") for start, end in places]

    kept = without_overlaps(marks((4, 6), (0, 2), (0, 3), (2, 5), (6, 7)))
    assert [(mark.start, mark.end) for mark in kept] == [(0, 3), (4, 6), (6, 7)]
