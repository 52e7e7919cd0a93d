"""A table: rows with named columns, whatever format they were read from, and how a column is found.

Formats produce tables (`jaxfm/data/records/formats/`, one module each); tagged sentences, labelled examples, texts to
predict on and documents are read from tables, so their readers ask for columns and know no format.
"""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.errors import UserError, did_you_mean

_LOOK = 100  # rows whose columns are taken for those of a ragged table


class Row(NamedTuple):
    """One record.

    Attributes:
        origin: where it was read: "dir/train.csv:12", "dir/a.parquet[7]" or "tfds:glue/sst2/train[17]".
        values: column -> value, as Python has it (text, numbers, lists, dicts). A column that a ragged row lacks is
            absent.
    """

    origin: str
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Table:
    """The rows of a split, or of one file.

    Attributes:
        source: where they are read, for messages and the log.
        declared: the names of the columns, where the source gives them; None for a ragged table, of which each row has
            its own (JSON).
        read: yields the rows anew at each call, with the columns asked for, or with all (None). Raises UserError
            naming the row's origin for one that is damaged.
        class_names: of columns that hold class numbers, or lists of them: the names of 0, 1, 2 ...
        size: for the log: "1,000 records" or "2 files, 1.5 MB".
        published: whether this is a published data set, in which the user cannot repair a row; a row without text or
            label is then left out and counted, and is an error otherwise.
        running_text: whether the rows are the sentences of documents in their order, without marks between documents.
        folder: where files that the rows name lie: paths are relative to it and stay inside it. None: rows name none.
    """

    source: str
    declared: tuple[str, ...] | None
    read: Callable[[Sequence[str] | None], Iterator[Row]]
    class_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    size: str = ""
    published: bool = False
    running_text: bool = False
    folder: pathlib.Path | None = None

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; of a ragged table those of its first hundred rows, which are read for it."""
        if self.declared is not None:
            return self.declared
        names: dict[str, None] = {}
        for row in itertools.islice(self.read(None), _LOOK):
            names |= dict.fromkeys(row.values)
        return tuple(names)

    def values(self, columns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yields each row's origin and its values of these columns, None for one that it lacks."""
        for origin, row in self.read(columns):
            yield origin, tuple(map(row.get, columns))


class Tables(NamedTuple):
    """Split (train, valid, test) -> what opens it; `found` says what the source holds, for messages."""

    splits: Mapping[str, Callable[[], Table]]
    found: str = ""


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """A format of files.

    Attributes:
        scheme: of its sources: "csv" of `csv:DIR`.
        suffixes: endings of its files' names.
        open_files: opens the files of one split. With `by_number` the user named columns by number, so a file that
            would name its columns in the first line has no such line.
        gzip: whether ".gz" may follow the suffix.
    """

    scheme: str
    suffixes: tuple[str, ...]
    open_files: Callable[[Sequence[pathlib.Path], bool], Table]
    gzip: bool = True

    @property
    def form(self) -> str:
        """What a person writes."""
        return f"{self.scheme}:DIR"


@dataclasses.dataclass(frozen=True)
class SetFormat:
    """A library of data sets that have names.

    Attributes:
        scheme: of its sources: "tfds" of `tfds:NAME`.
        form: what a person writes: "tfds:NAME"; empty where programs alone name such a source.
        open_set: opens a data set by what follows the colon. The second argument says which of its splits are train,
            valid and test, where that is known (else empty: by their usual names); the third lists the sources of files
            that can be used instead, for the message of a set that cannot be downloaded.
    """

    scheme: str
    form: str
    open_set: Callable[[str, Mapping[str, str], str], Tables]


def listed(columns: Iterable[str]) -> str:
    """Returns columns in words, for messages."""
    return ", ".join(map(repr, columns)) or "none"


def choose_column(
    columns: Sequence[str], asked: str, usual: Sequence[str], what: str, source: str, option: str = ""
) -> str:
    """Returns the column of `what` ("words", "tags"): the one asked for, else the only one with a usual name.

    Raises UserError, with the columns and the `option` to set (a config's key unless given), when it is absent or when
    several fit.
    """
    option = option or f"data.{what}_column"
    if asked:
        if asked not in columns:
            raise UserError(
                f"{source}: {option}={asked!r} is absent. {did_you_mean(asked, columns)} Columns: {listed(columns)}."
            )
        return asked
    fitting = [name for name in usual if name in columns]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = " and ".join(map(repr, fitting))
        raise UserError(f"{source}: {several} could both be the {what}: set {option} (columns: {listed(columns)}).")
    raise UserError(
        f"{source}: no column for the {what} (looked for {', '.join(usual)}; columns: {listed(columns)}): set {option}."
    )


def usual_column(columns: Sequence[str], usual: Iterable[str], taken: Iterable[str] = ()) -> str:
    """Returns the first column with a usual name, in upper or lower case and not `taken`; "" where none has one."""
    lower = {name.lower(): name for name in reversed(columns) if name not in taken}
    return next((lower[name] for name in usual if name in lower), "")


def require_columns(columns: Sequence[str], asked: Iterable[str], source: str) -> list[int]:
    """Returns the positions of columns. Raises UserError naming `source` and its columns for one that is absent."""
    for name in asked:
        if name not in columns:
            raise UserError(f"{source}: no column {name!r}; columns: {listed(columns)}.")
    return [columns.index(name) for name in asked]


def require_text(value: Any, column: str, origin: str) -> str:
    """Returns a value that is text. Raises UserError naming `origin` for any other, or for half a surrogate pair."""
    if not isinstance(value, str):
        raise UserError(f"{origin}: {shown(value)} in {column!r} is of type {type(value).__name__}, but must be text.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(
            f"{origin}: {shown(value)} in {column!r} has half of a surrogate pair, which is not a character."
        )
    return value


def text_or_empty(value: Any, column: str, origin: str) -> str:
    """Returns a text as it is, "" for null. Raises UserError naming `origin` for any other value, and for bad text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{origin}: {value!r:.60} in {column!r} is of type {type(value).__name__}, but must be text.")
    if "\0" in value:
        raise UserError(f"{origin}: a NUL byte in {column!r}: this is a binary file, or text in UTF-16; text is UTF-8.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(f"{origin}: the text in {column!r} has half of a surrogate pair, which is not a character.")
    return value


def shown(value: Any) -> str:
    """Returns a value as JSON, cut to a length that suits a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else text[:117] + "..."


def memory_table(source: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[Any]]]) -> Table:
    """Returns a table of (origin, values) that are in memory."""
    stored = [Row(origin, dict(zip(columns, values, strict=True))) for origin, values in rows]

    def read(asked: Sequence[str] | None) -> Iterator[Row]:
        for row in stored:
            yield row if asked is None else Row(row.origin, {name: row.values[name] for name in asked})

    return Table(source, tuple(columns), read, size=f"{len(stored):,} records")
