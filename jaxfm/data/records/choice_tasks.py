"""Label Studio's tasks with chosen classes, as records with a column a control: for classification.

    {"data": {"text": "..."}, "annotations": [{"result": [{"from_name": "label", "value": {"choices": ["a"]}}]}]}

is read as {"text": "...", "label": ["a"]}. Of several annotations the first is read; tasks without one are left out.
In JSON-MIN a control where somebody has chosen several, {"label": {"choices": ["a", "b"]}}, has a list in every record.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.table import Row, Table, Tables
from jaxfm.errors import UserError

_CHOICES = "choices"
_LOOK = 100  # rows that show whether a file is Label Studio's


def with_choices(tables: Tables) -> Tables:
    """Returns tables whose rows that are Label Studio's have columns; all others are as they were."""
    opened = {split: functools.partial(_open, opener) for split, opener in tables.splits.items()}
    return Tables(opened, tables.found)


def _open(opener: Callable[[], Table]) -> Table:
    table = opener()
    if table.declared is not None:  # only rows of JSON hold objects of any form
        return table
    looked = (row.values for row in itertools.islice(table.read(None), _LOOK))
    if not any(_is_task(record) or any(map(_is_chosen, record.values())) for record in looked):
        return table
    names = _controls(table)
    return dataclasses.replace(table, read=functools.partial(_read, table, names))


def _is_task(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("data"), Mapping) and isinstance(record.get("annotations"), list)


def _is_chosen(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get(_CHOICES), list)


def _controls(table: Table) -> tuple[str, ...]:
    """Returns the names of the controls that somebody has chosen by; of JSON-MIN those with several choices."""
    names: dict[str, None] = {}
    for origin, record in table.read(None):
        if _is_task(record):
            names |= dict.fromkeys(_chosen(record, origin) or ())
        else:
            names |= dict.fromkeys(name for name, value in record.items() if _is_chosen(value))
    return tuple(names)


def _read(table: Table, controls: Sequence[str], asked: Sequence[str] | None) -> Iterator[Row]:
    for origin, record in table.read(None):
        values: Mapping[str, Any] = record
        if _is_task(record):
            chosen = _chosen(record, origin)
            if chosen is None:
                continue
            values = {**record["data"], **{name: chosen.get(name, []) for name in controls}}
        else:
            values = {**record, **{name: _as_list(record.get(name)) for name in controls}}
        yield Row(origin, values if asked is None else {name: values[name] for name in asked if name in values})


def _as_list(value: Any) -> Any:
    """Returns the choices of a cell of JSON-MIN: one is a text, several are an object, none is absent."""
    if _is_chosen(value):
        return value[_CHOICES]
    return [] if value is None else [value] if isinstance(value, str) else value


def _chosen(record: Mapping[str, Any], origin: str) -> dict[str, list[str]] | None:
    """Returns control -> choices of a task's first annotation; None for a task that nobody has annotated."""
    done = [one for one in record["annotations"] if isinstance(one, Mapping) and not one.get("was_cancelled")]
    if not done:
        return None
    results = done[0].get("result")
    if not isinstance(results, list):
        raise UserError(f"{origin}: the annotation has no list 'result', as Label Studio writes it.")
    return {
        str(one["from_name"]): list(one["value"][_CHOICES])
        for one in results
        if isinstance(one, Mapping) and "from_name" in one and _is_chosen(one.get("value"))
    }
