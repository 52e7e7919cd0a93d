"""Groups and times of the records of a source, by its URI; a source's records divided by them."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from jaxfm.config import DataConfig
from jaxfm.data.records.glue import glue_set
from jaxfm.data.records.key_division import Divided, as_one_target, divide_by_keys
from jaxfm.data.records.key_holdout import Targets
from jaxfm.data.records.registry import file_forms, find_formats, open_tables
from jaxfm.data.records.split_keys import GROUP_KEY, TIME_KEY, RecordKeys, SplitKeys, read_keys
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.data.records.table import Table, Tables
from jaxfm.errors import UserError

R = TypeVar("R")


def split_keys(data: DataConfig) -> SplitKeys:
    """Returns what a config says. Raises UserError where both keys name one column."""
    if data.group_column and data.group_column == data.time_column:
        raise UserError(
            f"config.{GROUP_KEY} and config.{TIME_KEY} are both {data.group_column!r}: a group has records of several "
            "times. Leave one of them empty."
        )
    return SplitKeys(data.group_column, data.time_column, data.leaks)


def check_source(source: str, by: SplitKeys, splits: Sequence[str] | None) -> None:
    """Raises UserError where splits of a source without columns are to be kept apart, before anything is read.

    `splits` are those asked for, None: all; a split that is scored alone needs no columns.
    """
    if by and (splits is None or "train" in splits) and source.partition(":")[0] not in find_formats():
        raise no_columns(source, by)


def divide_source(
    source: str,
    read: Mapping[str, Sequence[R]],
    by: SplitKeys,
    *,
    given: Collection[str],
    holdout: float | None,
    origin: Callable[[R], str],
    targets: Callable[[Sequence[R]], Targets] = as_one_target,
) -> Divided[R]:
    """Divides records of a source by the groups and times that its tables have; see `divide_by_keys`."""
    keys = functools.partial(source_keys, source, by)
    return divide_by_keys(source, read, by, keys, given=given, holdout=holdout, origin=origin, targets=targets)


def source_keys(source: str, by: SplitKeys) -> RecordKeys:
    """Reads the keys of all records of a source.

    Raises UserError: a source without columns, an absent column, a value that is no name of a group or no time, times
    of two kinds.
    """
    scheme, _, rest = source.partition(":")
    check_source(source, by, None)
    glue = glue_set(source)
    open_source = functools.partial(open_tables, scheme, rest, names=glue.splits if glue else None)
    tables = _opened(open_source())
    # Without a line that names columns these go by number, as those of the reader do.
    if all(name.isdigit() and name not in tables[0][1].columns for name in by.columns):
        tables = _opened(open_source(by_number=True))
    return read_keys({split: [table] for split, table in tables}, by)


def no_columns(source: str, by: SplitKeys) -> UserError:
    """Returns the error of a source whose records have no columns."""
    scheme = source.partition(":")[0]
    return UserError(
        f"{by.said}: {scheme}{':' * (':' in source)} has no columns, by which splits could be kept apart. Sources "
        f"with columns are {file_forms()}, tfds:, hf: and data in memory; of images with boxes coco:, where fields of "
        "its image records count. Write the data as one of these, with a column more."
    )


def _opened(tables: Tables) -> list[tuple[str, Table]]:
    return [(split, tables.splits[split]()) for split in SPLIT_NAMES if split in tables.splits]
