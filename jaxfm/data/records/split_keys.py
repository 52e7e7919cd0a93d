"""The group and the time of each record (`config.data.group_column`, `time_column`): by them splits are kept apart."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.data.records.record_times import Moment, check_kind, moment_of
from jaxfm.data.records.table import Row, Table, Tables, choose_column, shown
from jaxfm.errors import UserError

REFUSE, DROP, ALLOW = LEAKS = ("refuse", "drop", "allow")
GROUP_KEY, TIME_KEY = "data.group_column", "data.time_column"
_LOOK = 100  # rows of a ragged table that show its columns
_NESTED = "data"  # Label Studio keeps the fields of a task in it


@dataclasses.dataclass(frozen=True)
class SplitKeys:
    """By which columns records are divided into splits, and what becomes of splits that are not; false without any.

    Attributes:
        group: column whose value no two splits share: a patient, a customer, an article; "": none.
        time: column of the time; training records are before all others; "": none.
        leaks: of LEAKS: whether splits of the source that break this are refused, lose the records that do, or are
            taken as they are.
    """

    group: str = ""
    time: str = ""
    leaks: str = REFUSE

    def __bool__(self) -> bool:
        """Whether there is such a column."""
        return bool(self.group or self.time)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are asked for."""
        return tuple(filter(None, (self.group, self.time)))

    @property
    def said(self) -> str:
        """The keys that are set, for messages."""
        named = ((GROUP_KEY, self.group), (TIME_KEY, self.time))
        return " and ".join(f"config.{key}={column!r}" for key, column in named if column)

    @property
    def rule(self) -> str:
        """What holds of splits, in words."""
        rules = (
            (self.group, f"no two splits share a group by {self.group!r} ({GROUP_KEY})"),
            (self.time, f"training records are before all others by {self.time!r} ({TIME_KEY})"),
        )
        return " and ".join(rule for column, rule in rules if column)

    def hide(self, tables: Tables, seen: Iterable[str] = ()) -> Tables:
        """Returns tables in which readers do not find these columns by their usual names; `seen` are found still."""
        hidden = {self.group, self.time} - {"", *seen}
        if not hidden:
            return tables
        return Tables(
            {split: functools.partial(_open_hidden, opener, hidden) for split, opener in tables.splits.items()},
            tables.found,
        )


NO_KEYS = SplitKeys()


class Key(NamedTuple):
    """Group and time of a record; None where no such column is asked for, or the record has no value."""

    group: str | None
    time: Moment | None


RecordKeys = Mapping[str, Mapping[str, Key]]
"""Split -> origin of a record -> its key."""


def read_keys(tables: Mapping[str, Iterable[Table]], by: SplitKeys) -> RecordKeys:
    """Reads the keys of all rows of tables, of which a split may have several; raises UserError as `keys_of_rows`."""
    return keys_of_rows({split: _rows(parts, by) for split, parts in tables.items()}, by)


def keys_of_rows(rows: Mapping[str, Iterable[Row]], by: SplitKeys) -> RecordKeys:
    """Returns the keys of rows.

    Raises UserError: an absent column, a value that is no name of a group or no time, times of two kinds.
    """
    first: tuple[Moment, str] | None = None
    found: dict[str, dict[str, Key]] = {}
    for split, own in rows.items():
        keys = found[split] = {}
        for origin, values in own:
            group = _group(_value(values, by.group), by.group, origin) if by.group else None
            time = _value(values, by.time) if by.time else None
            moment = None if _is_absent(time) else moment_of(time, by.time, origin)
            if moment is not None:
                first = first or (moment, origin)
                check_kind(moment, origin, *first, by.time)
            key = Key(group, moment)
            if keys.setdefault(origin, key) != key:
                raise UserError(f"{origin}: records of several groups or times have this one place. Write one a line.")
    return found


def check_key(key: Key | None, by: SplitKeys, origin: str) -> Key:
    """Returns the key of a record that is used. Raises UserError naming its origin where a value is missing."""
    if key is None:
        raise UserError(f"{origin}: no record of the source has this place; {by.said} cannot be found for it.")
    for name, value, what in ((by.group, key.group, "group"), (by.time, key.time, "time")):
        if name and value is None:
            raise UserError(
                f"{origin}: no value in {name!r}, the {what} (config.data.{what}_column): the record could be in any "
                f"split. Give it its {what}, or leave the record out."
            )
    return key


def _rows(tables: Iterable[Table], by: SplitKeys) -> Iterator[Row]:
    for table in tables:
        names = _columns(table)
        for what, name in (("group", by.group), ("time", by.time)):
            if name:
                choose_column(names, name, (), what, table.source, f"config.data.{what}_column")
        # Rows of JSON may have the column inside an object.
        yield from table.read(None if table.declared is None else by.columns)


def _columns(table: Table) -> Sequence[str]:
    """The names of a table's columns, those of the fields of Label Studio's tasks included."""
    if table.declared is not None:
        return table.declared
    names: dict[str, None] = {}
    for number, row in enumerate(table.read(None)):
        if number == _LOOK:
            break
        inner = row.values.get(_NESTED)
        names |= dict.fromkeys((*row.values, *(inner if isinstance(inner, Mapping) else ())))
    return tuple(names)


def _value(values: Mapping[str, Any], name: str) -> Any:
    if name in values:
        return values[name]
    inner = values.get(_NESTED)
    return inner.get(name) if isinstance(inner, Mapping) else None


def _is_absent(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _group(value: Any, column: str, origin: str) -> str | None:
    """The name of a group: a text, or a whole number, in which 7 and 7.0 are one; None where it is empty."""
    if _is_absent(value):
        return None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    raise UserError(f"{origin}: {shown(value)} in {column!r} is no group: a group is a text or a whole number.")


def _open_hidden(opener: Callable[[], Table], hidden: Collection[str]) -> Table:
    table = opener()
    declared = None if table.declared is None else tuple(name for name in table.declared if name not in hidden)
    return dataclasses.replace(table, declared=declared, read=functools.partial(_read_hidden, table, declared, hidden))


def _read_hidden(
    table: Table, declared: Sequence[str] | None, hidden: Collection[str], asked: Sequence[str] | None
) -> Iterator[Row]:
    if asked is not None or declared is not None:
        yield from table.read(declared if asked is None else asked)
        return
    for origin, values in table.read(None):
        yield Row(origin, {name: value for name, value in values.items() if name not in hidden})
