"""A page holds everything, needs nothing, and shows data as data."""

from jaxfm.observe.examples import Mark, View, WrongExample
from jaxfm.observe.pages import Section, to_page
from jaxfm.observe.tables import Table
from tests.observe.test_html_report import EVIL, Page


def test_all_is_shown_and_escaped() -> None:
    view = View(EVIL, f"Ada {EVIL}", (Mark(0, 3, EVIL, "wrong"),))
    example = WrongExample(EVIL, (view,), (("given", EVIL), ("quality", 0.12345)))
    sections = [
        Section("Copies", ("a note",), (Table("Tab", ("a", "b"), [(EVIL, 1)]),)),
        Section("Nothing"),
        Section(EVIL, examples=(example,) * 25),
    ]
    text = to_page(EVIL, ["One sentence.", EVIL], sections)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags} and "http" not in text
    assert page.text.count(EVIL) > 25 * 3 and "0.123" in page.text and "5 more" in page.text
    assert [tag for tag, _ in page.tags].count("article") == 25 and "Nothing" not in page.text
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["#section1", "#section2"]
