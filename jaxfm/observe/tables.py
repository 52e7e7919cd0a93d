"""One table type, and its renderings for Markdown, a terminal and plain text."""

import dataclasses
import html
from collections.abc import Mapping, Sequence

import rich.box
import rich.table
import rich.text
from rich.cells import cell_len

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under named columns; numbers are kept as numbers until rendering.

    Attributes:
      title: heading over the table.
      columns: names of the columns.
      rows: a cell for each column; None prints as an empty cell.
      footer: number of last rows (averages, totals) that are separated from the others.
      formats: Python format specification by column name for its numbers; otherwise integers get thousands
        separators and other numbers 4 decimals.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    footer: int = 0
    formats: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), f"a row of {self.title!r} has other columns"
        assert 0 <= self.footer <= len(self.rows), f"footer of {self.title!r}"
        assert set(self.formats) <= set(self.columns), f"formats of {self.title!r} name unknown columns"

    def __rich__(self) -> rich.table.Table:
        return to_rich(self)

    def _repr_html_(self) -> str:
        return to_html(self)


def to_markdown(table: Table) -> str:
    """Renders the table without its title in GitHub's Markdown, with padded columns so that the source is readable."""
    header = [_escape(name) for name in table.columns]
    body = [[_escape(text) for text in row] for row in texts(table)]
    right = right_aligned(table)
    widths = _widths([header, *body], least=3)
    rule = ["-" * (width - 1) + ":" if is_right else "-" * width for width, is_right in zip(widths, right, strict=True)]
    lines = [_pad(row, widths, right) for row in (header, rule, *body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def to_plain(table: Table) -> str:
    """Renders title and table as aligned text without control codes."""
    header, body = list(table.columns), texts(table)
    right = right_aligned(table)
    widths = _widths([header, *body])
    lines = ["  ".join(_pad(row, widths, right)).rstrip() for row in (header, *body)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines.insert(1, rule)
    if table.footer:
        lines.insert(len(lines) - table.footer, rule)
    return "\n".join([table.title, "", *lines]) + "\n"


def to_rich(table: Table) -> rich.table.Table:
    """Renders the table for a terminal."""
    rendered = rich.table.Table(
        title=rich.text.Text(table.title, style="bold"), title_justify="left", box=rich.box.SIMPLE_HEAD
    )
    for name, is_right in zip(table.columns, right_aligned(table), strict=True):
        rendered.add_column(rich.text.Text(name), justify="right" if is_right else "left")
    first_of_footer = len(table.rows) - table.footer
    for index, row in enumerate(texts(table)):
        # Text, not str: rich would take a cell such as [B-LOC] for a style and drop it.
        cells = [rich.text.Text(text) for text in row]
        rendered.add_row(*cells, end_section=index == first_of_footer - 1 and table.footer > 0)
    return rendered


def to_html(table: Table) -> str:
    """Renders title and table for a notebook; the notebook's own style sheet gives the looks."""
    right = right_aligned(table)

    def line(tag: str, cells: Sequence[str]) -> str:
        shown = (
            f'<{tag} style="text-align: {"right" if is_right else "left"}">{html.escape(text)}</{tag}>'
            for text, is_right in zip(cells, right, strict=True)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line("td", row) for row in texts(table))
    return (
        f"<table><caption>{html.escape(table.title)}</caption><thead>{line('th', table.columns)}</thead>"
        f"<tbody>{body}</tbody></table>"
    )


def fitted(table: Table, width: int, expendable: Sequence[str]) -> tuple[Table, list[str]]:
    """Returns the table without so many of the `expendable` columns, the first ones first, that a terminal shows it.

    Returns also the names of the columns that were left out. With all of them left out it may still be too wide.
    """
    columns, left_out = list(range(len(table.columns))), []
    needed = [cell_len(name) + 3 for name in table.columns]
    for row in texts(table):
        needed = [max(size, cell_len(text) + 3) for size, text in zip(needed, row, strict=True)]
    for name in expendable:
        if sum(needed[index] for index in columns) + 1 <= width:
            break
        if name in table.columns:
            columns.remove(table.columns.index(name))
            left_out.append(name)
    if not left_out:
        return table, []
    kept = [table.columns[index] for index in columns]
    rows = [tuple(row[index] for index in columns) for row in table.rows]
    formats = {name: value for name, value in table.formats.items() if name in kept}
    return dataclasses.replace(table, columns=kept, rows=rows, formats=formats), left_out


def texts(table: Table) -> list[list[str]]:
    """Returns the cells of all rows as they are shown, each on one line."""

    def text(cell: Cell, column: str) -> str:
        if cell is None:
            return ""
        if isinstance(cell, str):
            return " ".join(cell.split())
        if column in table.formats:
            return format(cell, table.formats[column])
        return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.4f}"

    return [[text(cell, name) for cell, name in zip(row, table.columns, strict=True)] for row in table.rows]


def right_aligned(table: Table) -> list[bool]:
    """Returns for each column whether it holds only numbers, or empty cells."""
    columns = [[row[index] for row in table.rows] for index in range(len(table.columns))]
    return [bool(cells) and all(not isinstance(cell, str) for cell in cells) for cells in columns]


def _widths(rows: Sequence[Sequence[str]], least: int = 0) -> list[int]:
    return [max(least, *(cell_len(row[index]) for row in rows)) for index in range(len(rows[0]))]


def _pad(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    # cell_len, not len: Chinese and Japanese characters are two columns wide.
    fills = [" " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True)]
    return [fill + text if is_right else text + fill for text, fill, is_right in zip(row, fills, right, strict=True)]


def _escape(text: str) -> str:
    for character in "\\|<*`":
        text = text.replace(character, "\\" + character)
    return text
