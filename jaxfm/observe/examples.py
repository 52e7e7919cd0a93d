"""Single examples of a split for a person to look at, as data: tasks make them, reports show them."""

import dataclasses
from typing import Literal

SHOWN = 30
"""The most examples of a split that a task offers."""

Status = Literal["right", "missed", "wrong"]


@dataclasses.dataclass(frozen=True)
class Mark:
    """A stretch of a text, and what is said of it.

    Attributes:
      start: its first character.
      end: the character after its last one.
      label: of a few words ("PER").
      status: "right" (said and true), "missed" (true, not said) or "wrong" (said, not true).
    """

    start: int
    end: int
    label: str
    status: Status


@dataclasses.dataclass(frozen=True)
class View:
    """A text under a heading, with marks in order that do not overlap.

    Attributes:
      heading: "gold", "predicted", "text" ...
      text: as it is.
      marks: in order of their starts, none overlapping another.
    """

    heading: str
    text: str
    marks: tuple[Mark, ...] = ()


@dataclasses.dataclass(frozen=True)
class WrongExample:
    """An example that the model has wrong.

    Attributes:
      origin: where it was read ("data/test.conll:12").
      views: its text, or the same text as it should be and as it was predicted.
      facts: name -> what a line says of it: the gold class, the predicted one, the loss.
    """

    origin: str
    views: tuple[View, ...]
    facts: tuple[tuple[str, str | float], ...] = ()


def without_overlaps(marks: list[Mark]) -> tuple[Mark, ...]:
    """Returns marks in order of their starts; of two that overlap the one that starts first, or else the longer one."""
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda each: (each.start, -each.end)):
        if not kept or mark.start >= kept[-1].end:
            kept.append(mark)
    return tuple(kept)
