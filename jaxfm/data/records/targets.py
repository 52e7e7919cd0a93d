"""What a column of a record says of an example: its class, its classes or its score."""

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from jaxfm.data.records.printed_labels import bit_of, no_bit, printed_value
from jaxfm.errors import UserError

Target = str | float | tuple[str, ...]

SEPARATOR = "|"
"""Between the classes of one example in a text cell."""
KINDS = ("single", "multi", "regression")
_SEVERAL = (
    "not a class: it looks like several labels of one example. For these set config.task.kind=multi (the "
    "variant :multi)."
)


def is_missing(value: Any, kind: str, names: Sequence[str] | None, no_label: float | None) -> bool:
    """Returns whether a value stands for no label at all: null, an empty cell, or the -1 of published sets.

    An empty cell of several classes is an example that has none of them. `names` are those of class numbers, `no_label`
    the score that stands for none.
    """
    if value is None or (kind != "regression" and isinstance(value, float) and math.isnan(value)):
        return True  # NaN: what a column of numbers with gaps has for nothing
    if isinstance(value, str):
        return kind != "multi" and not value.strip()
    if kind == "single" and value == []:
        return True  # what labelling tools write for a text without a label
    # Only among numbers that have names is -1 no class; elsewhere it may be one.
    return value == no_label or bool(names and value == -1)


def class_of(value: Any, names: Sequence[str] | None, column: str, origin: str) -> str:
    """Returns a class: text without white space around it, the name of a number, or the decimals of one without name.

    A list of one class is that class: labelling tools write lists even where one label is allowed. Raises UserError
    naming `origin` for anything else.
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        (value,) = value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.strip():
        if value.strip()[0] in "[{(" and printed_value(value) is not None:
            raise UserError(f"{origin}: {reprlib.repr(value)} in {column!r} is {_SEVERAL}")
        return value.strip()
    if isinstance(value, list | dict):
        raise UserError(f"{origin}: {reprlib.repr(value)} in {column!r} is {_SEVERAL}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what a column with gaps makes of whole numbers
    if isinstance(value, int):
        if not names:
            return str(value)
        if 0 <= value < len(names):
            return names[value]
        raise UserError(f"{origin}: the class {value} in {column!r} is outside 0..{len(names) - 1}, those with a name.")
    raise UserError(
        f"{origin}: {reprlib.repr(value)} in {column!r} is not a class: a class is text or a whole number (for scores "
        "train a regression)."
    )


def classes_of(value: Any, names: Sequence[str] | None, column: str, origin: str) -> tuple[str, ...]:
    """Returns the classes of an example without repeats: those of a list, of a text with `|` between them, or of one.

    Raises UserError naming `origin` for any other value.
    """
    if isinstance(value, str):
        value = [part for part in value.split(SEPARATOR) if part.strip()]
    values = value if isinstance(value, list) else [value]
    for item in values:
        if isinstance(item, list | dict):
            raise UserError(
                f"{origin}: {reprlib.repr(item)} in the list in {column!r} is not a class: a class is text or a whole "
                "number."
            )
    return tuple(dict.fromkeys(class_of(item, names, column, origin) for item in values))


def marked_of(values: Sequence[Any], fields: Sequence[str], origin: str) -> tuple[str, ...]:
    """Returns the names of the fields that hold 1 (or true). Raises UserError for one that holds neither 0 nor 1."""
    found = []
    for column, value in zip(fields, values, strict=True):
        truth = bit_of(value)
        if truth is None:
            raise UserError(f"{origin}: in {column!r}, one of several label columns: {no_bit(value)}.")
        if truth:
            found.append(column)
    return tuple(found)


def score_of(value: Any, column: str, origin: str) -> float:
    """Returns a score. Raises UserError naming `origin` for what is not a finite number."""
    try:
        score = math.nan if isinstance(value, bool | list) else float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{origin}: {reprlib.repr(value)} in {column!r} is not a score: a score is a finite number.")
    return score
