"""`csv:`, `tsv:`, `jsonl:` and `parquet:` files of records with named fields, read one record at a time."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxfm.data.records import source_jsonl
from jaxfm.data.records.csv_cells import NotCsvError, read_cells
from jaxfm.data.records.source_files import find_table_files, numbered_lines
from jaxfm.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

SUFFIXES = {"csv": (".csv",), "tsv": (".tsv", ".tab"), "jsonl": source_jsonl.SUFFIXES, "parquet": (".parquet",)}
_LOOK = 100  # lines of JSON whose fields are taken to be all that there are
_CHUNK = 1000  # records of a parquet file in memory

Record = tuple[str, tuple[Any, ...]]
"""Where a record was read ("dir/train.csv:12") and the values of the fields asked for; None for one that has none."""


@dataclasses.dataclass(frozen=True)
class Table:
    """The records of a split.

    Attributes:
        place: where it is read, for the log.
        fields: the names that there are.
        class_names: of fields that hold class numbers (or lists of them): the names of 0, 1, 2 ...
        records: reads the fields asked for, anew at each call. Its iterator raises UserError `path:line:` for a record
            that is none.
        strict: whether the user can mend a record (a file), or it is left out and counted (a published set).
    """

    place: str
    fields: tuple[str, ...]
    class_names: Mapping[str, Sequence[str]]
    records: Callable[[Sequence[str]], Iterator[Record]]
    strict: bool = True


class Tables(NamedTuple):
    """What opens each split there is, and what else the source holds, for error messages."""

    splits: Mapping[str, Callable[[], Table]]
    others: str = ""


def find_table(kind: str, rest: str, *, header: bool = True) -> Tables:
    """Returns the splits of `csv:rest`, `tsv:rest`, `jsonl:rest` or `parquet:rest`; see `find_table_files`.

    csv is RFC 4180: a cell may stand in double quotes, and then hold commas, line breaks and doubled quotes; spaces and
    tabs around the quotes are left out. In tsv no character has a meaning but the tab and the line break, as in GLUE's
    files. Both have the names of their columns in the first line; without `header` these are 0, 1, 2 ... (and a first
    line that says just that is no record).
    """
    files, listed = find_table_files(rest, kind, SUFFIXES[kind])
    if kind == "parquet":
        openers = {split: functools.partial(_open_parquet, paths) for split, paths in files.items()}
    elif kind == "jsonl":
        openers = {split: functools.partial(_open_jsonl, paths) for split, paths in files.items()}
    else:
        openers = {split: functools.partial(_open_cells, kind, paths, header) for split, paths in files.items()}
    return Tables(openers, listed)


def open_table(kind: str, paths: Sequence[pathlib.Path], *, header: bool = True) -> Table:
    """Returns the records of csv, tsv, jsonl or parquet files that are known by their paths; `header` as above."""
    if kind == "parquet":
        return _open_parquet(paths)
    return _open_jsonl(paths) if kind == "jsonl" else _open_cells(kind, paths, header)


def place_of(paths: Sequence[pathlib.Path]) -> str:
    """Returns the files of a split in words."""
    return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def require_fields(there: Sequence[str], asked: Iterable[str], place: str) -> list[int]:
    """Returns the positions of fields. Raises UserError naming `place` and the fields there for one that is absent."""
    for field in asked:
        if field not in there:
            raise UserError(f"{place}: no field {field!r}; there: {', '.join(map(repr, there))}.")
    return [there.index(field) for field in asked]


# --- csv and tsv ---


def _open_cells(kind: str, paths: Sequence[pathlib.Path], header: bool) -> Table:
    fields, _ = _header(kind, paths[0], header)
    return Table(place_of(paths), fields, {}, functools.partial(_read_cells, kind, paths, header))


def _header(kind: str, path: pathlib.Path, header: bool) -> tuple[tuple[str, ...], int]:
    """The names of a file's columns, and how many lines they take."""
    line, first = next(_cells(kind, path), (0, []))
    if not line:
        raise UserError(f"{path}: the file is empty; its first line must name the columns.")
    if not header:
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
            f"{path}:{line}: one column alone, {names[0]!r}. The cells seem to be apart by {advice[other]}."
        )
    return names, 1


def _read_cells(kind: str, paths: Sequence[pathlib.Path], header: bool, fields: Sequence[str]) -> Iterator[Record]:
    for path in paths:
        names, above = _header(kind, path, header)
        places = require_fields(names, fields, f"{path}:1")
        for line, cells in itertools.islice(_cells(kind, path), above, None):
            if len(cells) != len(names):
                why = "a cell with a comma in it stands in double quotes" if kind == "csv" else "a cell holds no tab"
                raise UserError(
                    f"{path}:{line}: {len(cells)} column{'s' * (len(cells) != 1)}, but the first line has "
                    f"{len(names)} ({why}): {_shown(cells)}."
                )
            yield f"{path}:{line}", tuple(cells[place] for place in places)


def _cells(kind: str, path: pathlib.Path) -> Iterator[tuple[int, list[str]]]:
    """Yields (number of its first line, cells) of each record; empty lines are none."""
    if kind == "tsv":
        for number, line in numbered_lines(path):
            if line.strip(" "):
                yield number, line.split("\t")
        return
    try:
        yield from read_cells(numbered_lines(path))
    except NotCsvError as error:
        raise UserError(
            f"{path}:{error.line}: not CSV ({error}). A cell with a comma, quote or line break in it stands in double "
            "quotes, and a quote in such a cell is doubled. For files without any quoting write tsv:."
        ) from None


def _shown(cells: Sequence[str]) -> str:
    text = " | ".join(cells)
    return repr(text if len(text) <= 100 else text[:100] + "...")


# --- jsonl ---


def _open_jsonl(paths: Sequence[pathlib.Path]) -> Table:
    fields: dict[str, None] = {}
    for _, record in itertools.islice(_objects(paths[0]), _LOOK):
        fields |= dict.fromkeys(record)
    return Table(place_of(paths), tuple(fields), {}, functools.partial(_read_jsonl, paths))


def _read_jsonl(paths: Sequence[pathlib.Path], fields: Sequence[str]) -> Iterator[Record]:
    for path in paths:
        for origin, record in _objects(path):
            yield origin, tuple(record.get(field) for field in fields)


def _objects(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in numbered_lines(path):
        if line and not line.isspace():
            yield f"{path}:{number}", source_jsonl.parse_object(line, f"{path}:{number}")


# --- parquet ---


def _open_parquet(paths: Sequence[pathlib.Path]) -> Table:
    with _parquet_file(paths[0]) as file:
        schema = file.schema_arrow
        names = _hub_class_names(schema.metadata or {})
        return Table(place_of(paths), tuple(schema.names), names, functools.partial(_read_parquet, paths))


def _read_parquet(paths: Sequence[pathlib.Path], fields: Sequence[str]) -> Iterator[Record]:
    for path in paths:
        with _parquet_file(path) as file:
            require_fields(file.schema_arrow.names, fields, str(path))
            index = 0
            for batch in _batches(file, path, fields):
                for values in zip(*(batch.column(field).to_pylist() for field in fields), strict=True):
                    yield f"{path}[{index}]", values
                    index += 1


def _parquet_file(path: pathlib.Path) -> "pyarrow.parquet.ParquetFile":
    import pyarrow.parquet  # half a second

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these
        raise UserError(f"{path}: not a parquet file that can be read: {error}") from None


def _batches(file: "pyarrow.parquet.ParquetFile", path: pathlib.Path, fields: Sequence[str]) -> Iterator[Any]:
    try:
        yield from file.iter_batches(_CHUNK, columns=list(fields))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the parquet data is damaged: {error}") from None


def _hub_class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of class numbers, which the package `datasets` keeps in the metadata of the files that it writes."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = {}
    for field, feature in features.items():
        # A list is written as [feature] by older versions and as {"feature": ...} by newer ones.
        inner = feature[0] if isinstance(feature, list) else feature
        inner = inner.get("feature", inner)
        if isinstance(inner, dict) and "names" in inner:
            names[field] = inner["names"]
    return names
