"""Tables in lines of cells, with the names of the columns in the first line: what csv and tsv have in common."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxfm.data.records.source_files import file_names, files_size
from jaxfm.data.records.table import Row, Table, require_columns
from jaxfm.errors import UserError


class Dialect(NamedTuple):
    """How a file is cut into cells.

    Attributes:
        read: yields (number of its first line, cells) of each record of a file, without its empty lines.
        rule: what a cell must keep to, for the message of a record with other columns than the first.
    """

    read: Callable[[pathlib.Path], Iterator[tuple[int, list[str]]]]
    rule: str


def open_delimited(dialect: Dialect, paths: Sequence[pathlib.Path], by_number: bool) -> Table:
    """Returns files as one table. The parts of a split may have their columns in different orders.

    The first line of each file names the columns. With `by_number` these are 0, 1, 2 ... instead, and a first line that
    says just that is not a record. Raises UserError for a first line that cannot name columns.
    """
    columns, _ = _header(dialect, paths[0], by_number)
    return Table(
        file_names(paths),
        columns,
        functools.partial(_read, dialect, paths, by_number, columns),
        size=files_size(paths),
        folder=paths[0].parent,
    )


def _header(dialect: Dialect, path: pathlib.Path, by_number: bool) -> tuple[tuple[str, ...], int]:
    """The names of a file's columns, and how many records they take."""
    line, first = next(dialect.read(path), (0, []))
    if not line:
        raise UserError(f"{path}: the file is empty; its first line must name the columns.")
    if by_number:
        numbers = tuple(str(number) for number in range(len(first)))
        return numbers, int(tuple(first) == numbers)
    names = tuple(cell.strip() for cell in first)
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path}:{line}: two columns are named {twice!r}; the first line must name each one once.")
    other = next((sign for sign in "\t,;" if len(names) == 1 and sign in names[0]), None)
    if other is not None:
        advice = {"\t": "tabs: write tsv:", ",": "commas: write csv:", ";": "semicolons: save it with commas or tabs"}
        raise UserError(
            f"{path}:{line}: only one column, {names[0]!r}. Its cells seem to be separated by {advice[other]}."
        )
    return names, 1


def _read(
    dialect: Dialect,
    paths: Sequence[pathlib.Path],
    by_number: bool,
    columns: Sequence[str],
    asked: Sequence[str] | None,
) -> Iterator[Row]:
    wanted = columns if asked is None else asked
    for path in paths:
        names, above = _header(dialect, path, by_number)
        positions = require_columns(names, wanted, f"{path}:1")
        for line, cells in itertools.islice(dialect.read(path), above, None):
            if len(cells) != len(names):
                raise UserError(
                    f"{path}:{line}: {len(cells)} column{'s' * (len(cells) != 1)}, but the first line has "
                    f"{len(names)} ({dialect.rule}): {_shown(cells)}."
                )
            yield Row(f"{path}:{line}", dict(zip(wanted, map(cells.__getitem__, positions), strict=True)))


def _shown(cells: Sequence[str]) -> str:
    text = " | ".join(cells)
    return repr(text if len(text) <= 100 else text[:100] + "...")
