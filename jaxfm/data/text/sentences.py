"""Where the sentences of a text end: at a full stop, question or exclamation mark, and at line breaks."""

import re
from collections.abc import Sequence

from jaxfm.data.text.words import COARSE, words_of

_END = re.compile(r"[.!?…。！？]+")  # noqa: RUF001
_CLOSING = frozenset("\"')]}»”’")  # noqa: RUF001
_LINE = re.compile(r"[\r\n]+")


def sentences_of(text: str, unbroken: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Returns the sentences of a text in characters, in order, end exclusive, without white space around them.

    A sentence ends after a word of closing marks (".", "?!") that white space or a closing quote follows, by the words
    of `jaxfm.data.text.words`, which keep the stop of an abbreviation ("U.N.", "Inc.") in its word; and at a line
    break.

    Args:
      text: any.
      unbroken: stretches of characters (entities) inside which no sentence ends.
    """
    ends = set()
    words = words_of(text, COARSE)
    for number, (start, end) in enumerate(words):
        if not _END.fullmatch(text, start, end):
            continue
        after = number + 1
        while after < len(words) and words[after][0] == end and text[slice(*words[after])] in _CLOSING:
            end = words[after][1]
            after += 1
        if end == len(text) or text[end].isspace() or text[start] in "。！？":  # noqa: RUF001
            ends.add(end)
    ends |= {match.start() for match in _LINE.finditer(text)} | {len(text)}
    ends -= {end for end in ends if any(first < end < last for first, last in unbroken)}
    found, start = [], 0
    for end in sorted(ends):
        inner = text[start:end]
        if inner.strip():
            found.append((start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())))
        start = end
    return found
