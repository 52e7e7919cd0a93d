"""Transcripts as numbers of symbols: characters of the training split."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

_SPACES = re.compile(r"\s+")
_DIGITS = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))


def normalized(text: str, *, lower: bool, spell_digits: bool) -> str:
    """Returns a transcript as it is learned and scored.

    Args:
      text: in NFC afterwards, with one space between words.
      lower: in lower case.
      spell_digits: with the English name of each digit in its place, as a separate word.
    """
    text = unicodedata.normalize("NFC", text)
    text = text.lower() if lower else text
    if spell_digits:
        text = "".join(f" {_DIGITS[letter]} " if letter in _DIGITS else letter for letter in text)
    return _SPACES.sub(" ", text).strip()


def characters(texts: Iterable[str]) -> tuple[str, ...]:
    """Returns all characters of texts, sorted."""
    return tuple(sorted({letter for text in texts for letter in text}))


def encoded(text: str, numbers: dict[str, int]) -> list[int]:
    """Returns the numbers of a text's symbols; those that are not known are left out."""
    return [numbers[letter] for letter in text if letter in numbers]


def steps_needed(labels: Sequence[int]) -> int:
    """Returns the fewest steps in which labels can be said: one each, and a blank between equal neighbours."""
    return len(labels) + sum(one == other for one, other in zip(labels, labels[1:], strict=False))


def as_array(labels: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Returns labels as int32 [E, length], 0 after the last one."""
    found = np.zeros((len(labels), length), np.int32)
    for row, each in zip(found, labels, strict=True):
        row[: len(each)] = each
    return found
