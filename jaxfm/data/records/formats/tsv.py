"""`tsv:` tab-separated files without any quoting: no character has a meaning but the tab and the line break (GLUE)."""

import functools
import pathlib
from collections.abc import Iterator

from jaxfm.data.records.delimited import Dialect, open_delimited
from jaxfm.data.records.source_files import numbered_lines
from jaxfm.data.records.table import FileFormat


def read_cells(path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, cells) of each record; empty lines are left out. Raises UserError as `numbered_lines`."""
    for number, line in numbered_lines(path):
        if line.strip(" "):
            yield number, line.split("\t")


FORMAT = FileFormat(
    "tsv", (".tsv", ".tab"), functools.partial(open_delimited, Dialect(read_cells, "a cell holds no tab"))
)
