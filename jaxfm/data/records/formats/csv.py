"""`csv:` comma-separated files by RFC 4180; white space around a quoted cell does not belong to it."""

import functools
import pathlib
import re
from collections.abc import Iterable, Iterator

from jaxfm.data.records.delimited import Dialect, open_delimited
from jaxfm.data.records.source_files import LINE_BYTES, numbered_lines
from jaxfm.data.records.table import FileFormat
from jaxfm.errors import UserError

_OPENING = re.compile(r'[ \t]*"')
_QUOTED = re.compile(r'[^"]*(?:""[^"]*)*')
_CLOSING = re.compile(r'"[ \t]*(,|\Z)')


class NotCsvError(ValueError):
    """Text that is not csv.

    Attributes:
        line: number of the first line of the record.
    """

    def __init__(self, line: int, reason: str):
        """Keeps the line beside the reason."""
        super().__init__(reason)
        self.line = line


def read_cells(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, cells) of each record; lines of white space alone are left out.

    A cell whose first character other than spaces and tabs is a double quote ends at the next quote that is not
    doubled. It may hold commas and line breaks; spaces and tabs before and after its quotes are left out. In any other
    cell they are kept, and a quote is a character like any other.

    Args:
      lines: (number, text without line end) of each line of a file.

    Raises:
      NotCsvError: a quoted cell that does not end, or that no comma follows; a carriage return outside quotes.
    """
    record: list[str] = []
    quoted: list[str] | None = None  # pieces of the quoted cell that is open
    first = size = 0
    for number, line in lines:
        if quoted is None:
            if not line.strip(" \t"):
                continue
            first, size = number, 0
        size += len(line)
        if size > LINE_BYTES:
            raise NotCsvError(first, "a cell in quotes is too long, or does not end")
        start = 0
        while start >= 0:
            if quoted is None:
                opening = _OPENING.match(line, start)
                if opening is None:
                    start = _plain(line, start, record, first)
                    continue
                quoted, start = [], opening.end()
            inside = _QUOTED.match(line, start)
            assert inside is not None, "it matches the empty text"
            quoted.append(inside[0])
            if inside.end() == len(line):
                quoted.append("\n")
                break
            closing = _CLOSING.match(line, inside.end())
            if closing is None:
                after = line[inside.end() + 1 :].strip()
                raise NotCsvError(first, f"{after[:20]!r} after the quote that ends a cell, not a comma")
            record.append("".join(quoted).replace('""', '"'))
            quoted, start = None, closing.end() if closing[1] else -1
        if quoted is None:
            yield first, record
            record = []
    if quoted is not None:
        raise NotCsvError(first, "a cell in quotes does not end before the file does")


def _plain(line: str, start: int, record: list[str], first: int) -> int:
    """Takes a cell without quotes; returns where the next one starts, -1 for none."""
    end = line.find(",", start)
    cell = line[start:] if end < 0 else line[start:end]
    if "\r" in cell:
        raise NotCsvError(first, "a carriage return inside a line; lines end in LF or CRLF")
    record.append(cell)
    return end + 1 if end >= 0 else -1


def read_file(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, cells) of each record of a file. Raises UserError `path:line:`."""
    try:
        yield from read_cells(numbered_lines(path))
    except NotCsvError as error:
        raise UserError(
            f"{path}:{error.line}: not CSV ({error}). A cell with a comma, quote or line break in it stands in double "
            "quotes, and a quote in such a cell is doubled. For files without any quoting write tsv:."
        ) from None


FORMAT = FileFormat(
    "csv",
    (".csv",),
    functools.partial(open_delimited, Dialect(read_file, "a cell with a comma in it stands in double quotes")),
)
