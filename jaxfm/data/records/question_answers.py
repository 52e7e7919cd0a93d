"""The answers of a question as data sets write them, and whether they are where their offsets say."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxfm.errors import UserError

_STARTS = ("answer_start", "start", "offset")
_FORMS = (
    '{"text": [...], "answer_start": [...]}, a list of {"text": ..., "answer_start": ...}, or a text with a column '
    "answer_start"
)


class Answer(NamedTuple):
    """A stretch of the context: its text, and the character at which it starts."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character after its last one."""
        return self.start + len(self.text)


def answers_of(value: Any, start: Any, context: str, column: str, origin: str) -> tuple[tuple[Answer, ...], int]:
    """Returns the answers, equal ones once, and how many of them had no offset.

    An answer without an offset is found by its text, which must occur once.

    Args:
      value: of the column of answers; None or nothing: there is no answer.
      start: of a column answer_start, where `value` is a text.
      context: that they are in.
      column: of `value`, for messages.
      origin: of the record, for messages.

    Raises:
      UserError: a value of another form, a text that is not at its offset, or occurs not once where it has none.
    """
    found: dict[Answer, None] = {}
    by_text = 0
    for text, at in _pairs(value, start, column, origin):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{origin}: an answer in {column!r} is {text!r:.60}, but must be text that is not empty.")
        if at is None:
            found[_found(text, context, column, origin)] = None
            by_text += 1
        else:
            found[_checked(text, at, context, column, origin)] = None
    return tuple(found), by_text


def _pairs(value: Any, start: Any, column: str, origin: str) -> Iterable[tuple[Any, Any]]:
    """Yields text and offset (None: not given) of each answer."""
    if value is None or value == "" or (isinstance(value, list | dict) and not value):
        return ()
    if isinstance(value, str):
        return ((value, start),)
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), next((value[name] for name in _STARTS if name in value), None)
        if isinstance(texts, str):
            return ((texts, starts),)
        if isinstance(texts, list):
            starts = [None] * len(texts) if starts is None else starts
            if isinstance(starts, list) and len(starts) == len(texts):
                return zip(texts, starts, strict=True)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        starts = start if isinstance(start, list) and len(start) == len(value) else [None] * len(value)
        return zip(value, starts, strict=True)
    if isinstance(value, list) and all(isinstance(each, Mapping) and "text" in each for each in value):
        return ((each["text"], next((each[name] for name in _STARTS if name in each), None)) for each in value)
    raise UserError(f"{origin}: the answers in {column!r} are {value!r:.80}, but must be {_FORMS}.")


def _checked(text: str, at: Any, context: str, column: str, origin: str) -> Answer:
    if isinstance(at, bool) or not isinstance(at, int):
        raise UserError(f"{origin}: the offset of the answer {text!r:.60} is {at!r}, but must be a whole number.")
    if 0 <= at and context[at : at + len(text)] == text:
        return Answer(text, at)
    nearest = min(_places(text, context), key=lambda place: abs(place - at), default=None)
    if not 0 <= at < len(context):
        there = f"the context has {len(context):,} characters"
    else:
        there = f"there is {context[at : at + len(text)]!r:.60}"
    fix = "it is nowhere in the context" if nearest is None else f"the nearest place of it is {nearest}"
    raise UserError(
        f"{origin}: the answer {text!r:.60} in {column!r} is not at its offset {at}: {there}; {fix}. Offsets count "
        "characters of the context from 0, not bytes, nor UTF-16 units."
    )


def _found(text: str, context: str, column: str, origin: str) -> Answer:
    places = _places(text, context)
    if len(places) == 1:
        return Answer(text, places[0])
    where = "is nowhere in the context" if not places else f"is {len(places):,} times in the context"
    raise UserError(f"{origin}: the answer {text!r:.60} in {column!r} has no offset and {where}: give answer_start.")


def _places(text: str, context: str) -> list[int]:
    places, at = [], context.find(text)
    while at >= 0:
        places.append(at)
        at = context.find(text, at + 1)
    return places
