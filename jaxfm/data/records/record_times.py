"""When a record is of: ISO dates and times, or numbers. What is not one kind of time throughout is refused."""

import datetime
import fractions
import math
import re
from typing import Any, NamedTuple

from jaxfm.errors import UserError

NUMBER, DAY, LOCAL, ZONED = "a number", "a day", "a time of day without a time zone", "a time of day with a time zone"
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?P<clock>[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
    r"(?P<zone>Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_RULE = "a time is a number, or 2024-01-31, 2024-01-31T12:30 or 2024-01-31T12:30:05Z (ISO 8601)"


class Moment(NamedTuple):
    """A time.

    Attributes:
        value: what times of one kind are compared by: an exact number (of a time with a zone: in UTC).
        kind: NUMBER, DAY, LOCAL or ZONED. Times of two kinds have no order.
        text: as the source has it.
    """

    value: fractions.Fraction
    kind: str
    text: str


def moment_of(value: Any, column: str, origin: str) -> Moment:
    """Returns the time that a value says.

    Numbers are compared exactly, so nanoseconds since 1970 keep their order. Times with a zone are compared by the
    moment that they name. Raises UserError naming `origin` for what is no time.
    """
    if isinstance(value, datetime.datetime):
        return _clock(value, value.isoformat(), int(getattr(value, "nanosecond", 0)))
    if isinstance(value, datetime.date):
        return _day(value, value.isoformat())
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return Moment(fractions.Fraction(value), NUMBER, f"{value}")
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text):
        return Moment(fractions.Fraction(text), NUMBER, text)
    found = _ISO.fullmatch(text)
    try:
        if found and found["clock"]:
            return _clock(datetime.datetime.fromisoformat(text), text, 0)
        if found and not found["zone"]:
            return _day(datetime.date.fromisoformat(text), text)
    except ValueError as error:
        raise UserError(f"{origin}: {value!r:.80} in {column!r} is no time: {error}; {_RULE}.") from None
    raise UserError(f"{origin}: {value!r:.80} in {column!r} is no time: {_RULE}.")


def check_kind(moment: Moment, origin: str, first: Moment, first_origin: str, column: str) -> None:
    """Raises UserError naming both records where two times are not of one kind, and so have no order."""
    if moment.kind == first.kind:
        return
    raise UserError(
        f"{origin}: {moment.text!r} in {column!r} is {moment.kind}, but {first.text!r} ({first_origin}) is "
        f"{first.kind}: there is no order between them. Write all times of the column in one way."
    )


def _clock(value: datetime.datetime, text: str, nanoseconds: int) -> Moment:
    zoned = value.utcoffset() is not None
    start = datetime.datetime(1, 1, 1, tzinfo=datetime.UTC if zoned else None)
    passed = value - start
    seconds = passed.days * 86_400 + passed.seconds
    billionths = passed.microseconds * 1000 + nanoseconds
    return Moment(seconds + fractions.Fraction(billionths, 10**9), ZONED if zoned else LOCAL, text)


def _day(value: datetime.date, text: str) -> Moment:
    return Moment(fractions.Fraction(value.toordinal()), DAY, text)
