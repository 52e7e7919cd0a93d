"""A page of tables and examples that needs nothing else, in the style of report.html."""

import dataclasses
from collections.abc import Sequence

from jaxfm.observe.examples import WrongExample
from jaxfm.observe.html_report import find_template
from jaxfm.observe.tables import Table

_TEMPLATE = "page.html.jinja"
_MOST_OPEN = 20  # examples of a section that are shown before a click


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
      title: its heading.
      notes: paragraphs.
      tables: in order, each under its own title.
      examples: texts with marks and facts.
    """

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    examples: tuple[WrongExample, ...] = ()


def to_page(title: str, summary: Sequence[str], sections: Sequence[Section]) -> str:
    """Returns the page. Everything that is shown is escaped by the template.

    Args:
      title: its heading.
      summary: sentences that stand first.
      sections: those without tables and examples are left out.
    """
    shown = [section for section in sections if section.tables or section.examples]
    return find_template(_TEMPLATE).render(title=title, summary=summary, sections=shown, most_open=_MOST_OPEN)
