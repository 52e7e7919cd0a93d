"""Data that a Python program holds in memory, as the tables of a source `memory:NAME`: `jaxfm.train(..., data=...)`.

NAME is a hash of the data, so a run directory remembers what it was trained on, and the same data have the same name in
every process and at every time. pandas, polars, pyarrow and datasets are never imported: their objects are known by
their methods.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.formats.hf import open_dataset
from jaxfm.data.records.splits import SPLIT_NAMES, canonical_split, named_splits, require_split
from jaxfm.data.records.table import Row, Table, Tables, listed, memory_table
from jaxfm.errors import UserError

SCHEME = "memory"
_FORMS = (
    "a list of dicts, a dict of columns, a pandas or polars DataFrame, a pyarrow Table or a datasets.Dataset; or a "
    "dict of these by split (train, valid, test)"
)
_MISSING = ("NAType", "NaTType")  # pandas' own kinds of "no value"
_PIXELS = ("uint8", "uint16", "bool")  # types of arrays that may be images, in two dimensions or three
_HASH_DIGITS = 16

# Name -> what every caller that is using these data at the moment gave; equal names stand for equal data.
_provided: dict[str, list[Mapping[str, Table]]] = collections.defaultdict(list)
_lock = threading.Lock()


@contextlib.contextmanager
def provided(data: Any, alone: str = "train") -> Iterator[str]:
    """Yields the source ("memory:NAME") under which every reader of records finds the data while the context lasts.

    Args:
      data: see `tables_of`.
      alone: the split that data without splits are.

    Raises:
      UserError: data of no known form, columns of different lengths, a split that is empty.
    """
    tables = tables_of(data, alone)
    name = fingerprint(tables)[:_HASH_DIGITS]
    with _lock:
        _provided[name].append(tables)
    try:
        yield f"{SCHEME}:{name}"
    finally:
        with _lock:
            _provided[name].pop()
            if not _provided[name]:
                del _provided[name]


def open_provided(name: str) -> Tables:
    """Returns the splits of the data of that name. Raises UserError where no caller provides them now."""
    with _lock:
        held = _provided.get(name)
        tables = held[-1] if held else None
    if tables is None:
        raise UserError(
            f"{SCHEME}:{name}: these data were given in memory, by a Python program, and are not there now: give them "
            "again (data=...), or name a source of files or a data set instead (--source=csv:FOLDER)."
        )
    return Tables({split: functools.partial(_identity, table) for split, table in tables.items()}, "given in memory")


def is_provided(source: str) -> bool:
    """Whether a source is of data in memory."""
    return source.startswith(f"{SCHEME}:")


def _identity(table: Table) -> Table:
    return table


def tables_of(data: Any, alone: str = "train") -> dict[str, Table]:
    """Returns split (train, valid, test) -> table of data in memory.

    Args:
      data: one of these, or a mapping of them by split, under any usual name of it: dicts, a row each (also texts alone
        and pairs (text, {"entities": ...})); a dict of columns; a DataFrame of pandas or polars; a pyarrow Table; a
        datasets.Dataset. Of a DatasetDict, splits with other names are left out, as of a data set from the hub.
      alone: the split that data without splits are.

    Raises:
      UserError: as `provided`.
    """
    alone = require_split(alone)
    if not isinstance(data, Mapping):
        return {alone: _table(data, alone, "data")}
    splits = [name for name in data if isinstance(name, str) and canonical_split(name)]
    if not splits and any(map(_is_dataset, data.values())):
        raise UserError(f"data: none of its splits is train, valid or test, but {listed(data)}.")
    if not splits:
        return {alone: _table(data, alone, "data")}
    others = [name for name, value in data.items() if name not in splits and not _is_dataset(value)]
    if others:
        raise UserError(
            f"data: has {listed(splits)}, which name splits, and {listed(others)}, which name none. By split: train, "
            "valid, test. By column: none of those names."
        )
    names = named_splits(splits, "data")
    return {
        split: _table(data[names[split]], split, f"data[{names[split]!r}]") for split in SPLIT_NAMES if split in names
    }


def fingerprint(tables: Mapping[str, Table]) -> str:
    """Returns the sha256 of all rows of all splits, in hexadecimal.

    It depends on their order, not on how they are held: a dict of columns and a DataFrame with the same values are the
    same data.
    """
    digest = hashlib.sha256()
    for split, table in tables.items():
        digest.update(json.dumps([split, {name: list(names) for name, names in table.class_names.items()}]).encode())
        for row in table.read(None):
            text = json.dumps(row.values, sort_keys=True, default=_identified)
            digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def _identified(value: Any) -> str:
    """Returns what stands for a value that JSON does not have.

    Images (bytes of a file, arrays, pictures of Pillow) count by their content; anything else counts as its type: a
    reader that meets it refuses it in any case.
    """
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if _is_image_array(value) or (hasattr(value, "mode") and hasattr(value, "tobytes")):
        described = [getattr(value, name, "") for name in ("dtype", "shape", "mode", "size")]
        palette = value.getpalette() if hasattr(value, "getpalette") else None
        return hashlib.sha256(f"{described} {palette}".encode() + value.tobytes()).hexdigest()
    return type(value).__name__


def _is_image_array(value: Any) -> bool:
    """Whether a value may be the pixels of an image."""
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) >= 2 and str(value.dtype) in _PIXELS


def _table(data: Any, split: str, name: str) -> Table:
    """Returns one split as a table; `name` is what a person calls it, for messages."""
    origin = functools.partial(_origin, split)
    if _is_dataset(data):
        table = open_dataset(data, name, origin)
        if not len(data):
            raise UserError(f"{name}: is empty: it has no record.")
        return table
    columns = _columns(data)
    if columns is not None:
        return _column_table(columns, name, origin)
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise UserError(f"{name}: is of type {type(data).__name__}, but must be {_FORMS}.")
    rows = [Row(origin(number), _record(row, origin(number))) for number, row in enumerate(data)]
    if not rows:
        raise UserError(f"{name}: is empty: it has no record.")
    return _row_table(rows, name)


def _origin(split: str, number: int) -> str:
    return f"{split} row {number}"


def _is_dataset(data: Any) -> bool:
    """Whether this is a datasets.Dataset (a streamed one, an IterableDataset, is read as rows)."""
    return hasattr(data, "features") and hasattr(data, "select_columns") and hasattr(data, "__len__")


def _columns(data: Any) -> dict[str, Iterable[Any]] | None:
    """Returns name -> values of what is held by columns; None for anything else."""
    if isinstance(data, Mapping):
        return {str(name): values for name, values in data.items()}
    if hasattr(data, "to_pydict"):  # pyarrow
        return data.to_pydict()
    if not hasattr(data, "columns") or not hasattr(data, "to_dict"):
        return None
    names = list(map(str, data.columns))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"data: several columns are named {listed(repeated)}. Columns: {listed(names)}.")
    values = data.to_dict(as_series=False) if hasattr(data, "to_dicts") else data.to_dict("list")  # polars, pandas
    return {str(name): column for name, column in values.items()}


def _column_table(columns: Mapping[str, Iterable[Any]], name: str, origin: Any) -> Table:
    held: dict[str, list[Any]] = {}
    for column, values in columns.items():
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise UserError(
                f"{name}: {column!r} is of type {type(values).__name__}, but a column must be a list. data must be "
                f"{_FORMS}."
            )
        held[column] = list(map(_plain, values))
    lengths = {column: len(values) for column, values in held.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{column!r} has {length:,}" for column, length in lengths.items())
        raise UserError(f"{name}: its columns must be of one length, but {said} values.")
    rows = list(zip(*held.values(), strict=True))
    if not rows:
        raise UserError(f"{name}: is empty: it has no record.")
    return memory_table(name, tuple(held), ((origin(number), row) for number, row in enumerate(rows)))


def _row_table(rows: Sequence[Row], name: str) -> Table:
    """Returns a ragged table: each row has the fields that its dict has."""

    def read(asked: Sequence[str] | None) -> Iterator[Row]:
        for row in rows:
            if asked is None:
                yield row
            else:
                yield Row(row.origin, {field: row.values[field] for field in asked if field in row.values})

    return Table(name, None, read, size=f"{len(rows):,} records")


def _record(row: Any, origin: str) -> dict[str, Any]:
    """Returns one row as a dict of plain values."""
    if isinstance(row, str):
        return {"text": str(row)}
    if isinstance(row, tuple | list) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], Mapping):
        row = {"text": row[0], **row[1]}  # spaCy's (text, {"entities": ...})
    as_dict = getattr(row, "_asdict", None)  # a named tuple
    if as_dict is not None:
        row = as_dict()
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        row = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    if not isinstance(row, Mapping):
        raise UserError(
            f'{origin}: is of type {type(row).__name__}, but each row must be a dict, such as {{"text": "...", '
            '"label": "..."}} or {"tokens": [...], "tags": [...]}.'
        )
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: tuples and arrays as lists, NumPy's numbers as Python's, NaN and NA as None.

    Pixels stay arrays. What JSON does not have is returned as it is, for the reader to read or refuse.
    """
    if value is None or type(value) in (str, int, bool, bytes) or _is_image_array(value):
        return value
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy's scalars too
        value = value.tolist()
    if type(value).__name__ in _MISSING or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
