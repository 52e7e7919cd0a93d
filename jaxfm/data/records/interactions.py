"""Who took which item when: tables of (user, item, time), for recommendation."""

# N interactions

import dataclasses
import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.data.records.quickstart_shop import drawn_records, make_shop
from jaxfm.data.records.registry import are_numbers, open_tables, parse_source
from jaxfm.data.records.table import Table, choose_column, listed, shown, usual_column
from jaxfm.errors import UserError

USER_COLUMNS = ("user", "user_id", "userid", "customer", "customer_id", "session", "session_id", "visitor")
ITEM_COLUMNS = ("item", "item_id", "itemid", "product", "product_id", "movieid", "movie_id", "article", "article_id")
TIME_COLUMNS = ("time", "timestamp", "date", "datetime", "unix_timestamp", "created_at")


@dataclasses.dataclass(frozen=True)
class InteractionColumns:
    """Which columns hold what; empty finds the usual ones."""

    user: str = ""
    item: str = ""
    time: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Interactions:
    """Interactions in the order of users, and of time within each user.

    Attributes:
      users: names, in the order in which the source has them first.
      items: the same of items.
      user: int32 [N] number of the user of each interaction.
      item: int32 [N] number of its item.
      time: float64 [N], seconds of a date, or the numbers of the source.
      note: a line for the log.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    note: str

    def __len__(self) -> int:
        return len(self.user)


def read_interactions(source: str, columns: InteractionColumns = InteractionColumns()) -> Interactions:
    """Reads a source of interactions: `quickstart` (drawn), or a table of `jaxfm/data/records/formats/`.

    A record twice, with the same user, item and time, counts once. Records of one time keep their order.

    Raises:
      UserError: an unknown source or column, several splits (they are made here), an empty table, a record without
        user, item or time, a time that is neither a number nor a date.
    """
    scheme, rest = parse_source(source)
    if scheme == "quickstart":
        user, item, time = (list(column) for column in zip(*drawn_records(), strict=True))
        names = tuple(f"user-{number}" for number in range(max(user) + 1))
        return make_interactions(names, make_shop().items, user, item, time, "drawn (two threads a user)")
    named = (columns.user, columns.item, columns.time)
    tables = open_tables(scheme, rest, by_number=are_numbers(named))
    if len(tables.splits) > 1:
        raise UserError(
            f"{source}: has the splits {', '.join(tables.splits)}, but what is held out of interactions is chosen by "
            "time. Name the one file that has them all."
        )
    if not tables.splits:
        raise UserError(f"{source}: has no table of interactions ({tables.found}).")
    ((_, opener),) = tables.splits.items()
    table = opener()
    return _read(table, _choose(table, columns))


def _choose(table: Table, asked: InteractionColumns) -> tuple[str, str, str]:
    names = table.columns

    def choose(own: str, usual: Sequence[str], what: str) -> str:
        found = own or usual_column(names, usual)
        return choose_column(names, found, usual, what, table.source, f"config.task.{what}_column")

    user = choose(asked.user, USER_COLUMNS, "user")
    item = choose(asked.item, ITEM_COLUMNS, "item")
    time = choose(asked.time, TIME_COLUMNS, "time")
    if len({user, item, time}) < 3:
        raise UserError(
            f"{table.source}: user, item and time are {user!r}, {item!r} and {time!r}, but must be three columns of "
            f"{listed(names)}. Set config.task.user_column, item_column and time_column."
        )
    return user, item, time


def _read(table: Table, columns: tuple[str, str, str]) -> Interactions:
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user, item, time = [], [], []
    kinds: dict[str, str] = {}  # "number" or "date" -> where it was first
    for origin, values in table.values(columns):
        user.append(users.setdefault(_name(values[0], columns[0], origin), len(users)))
        item.append(items.setdefault(_name(values[1], columns[1], origin), len(items)))
        seconds, kind = _time(values[2], columns[2], origin)
        time.append(seconds)
        if kinds.setdefault(kind, origin) == origin and len(kinds) > 1:
            raise UserError(
                f"{origin}: the time in {columns[2]!r} is a {kind}, but that of {next(iter(kinds.values()))} is a "
                f"{next(iter(kinds))}. Write all of them in one way."
            )
    if not user:
        raise UserError(f"{table.source}: is empty: it has no interaction.")
    return make_interactions(tuple(users), tuple(items), user, item, time, f"from {table.source}")


def make_interactions(
    users: tuple[str, ...],
    items: tuple[str, ...],
    user: Sequence[int],
    item: Sequence[int],
    time: Sequence[float],
    origin: str,
) -> Interactions:
    """Puts interactions in order, each once; `origin` says in the note where they are from."""
    user_N, item_N = np.asarray(user, np.int32), np.asarray(item, np.int32)
    time_N = np.asarray(time, np.float64)
    order = np.lexsort((np.arange(len(user_N)), time_N, user_N))
    user_N, item_N, time_N = user_N[order], item_N[order], time_N[order]
    # The first of equal records stays: they lie within a run of one user and time.
    by_item = np.lexsort((np.arange(len(user_N)), item_N, time_N, user_N))
    same = np.zeros(len(user_N), bool)
    same[by_item[1:]] = (
        (user_N[by_item[1:]] == user_N[by_item[:-1]])
        & (time_N[by_item[1:]] == time_N[by_item[:-1]])
        & (item_N[by_item[1:]] == item_N[by_item[:-1]])
    )
    left_out = f"; {same.sum():,} records that were there twice left out" if same.any() else ""
    user_N, item_N, time_N = user_N[~same], item_N[~same], time_N[~same]
    note = f"{len(user_N):,} interactions of {len(users):,} users with {len(items):,} items {origin}{left_out}"
    return Interactions(users, items, user_N, item_N, time_N, note)


def _name(value: Any, column: str, origin: str) -> str:
    """Returns a user or an item as text."""
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers that has a gap elsewhere
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{origin}: {shown(value)} in {column!r} must be a text or a whole number.")
    text = str(value).strip()
    if not text:
        raise UserError(f"{origin}: {column!r} is empty. Leave the record out, or correct it.")
    return text


def _time(value: Any, column: str, origin: str) -> tuple[float, str]:
    """Returns a time as a number, and whether it was a "number" or a "date" (without a zone: UTC)."""
    if isinstance(value, datetime.datetime | datetime.date):
        value = value.isoformat()
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        if math.isfinite(number):
            return number, "number"
    except ValueError:
        pass
    if isinstance(value, str):
        try:
            found = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            pass
        else:
            zone = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
            return zone.timestamp(), "date"
    raise UserError(
        f"{origin}: the time in {column!r} is {shown(value)}, but must be a number, or a date as 2024-05-31 or "
        "2024-05-31T12:00:00."
    )
