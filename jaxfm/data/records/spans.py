"""Entities given as characters of a text, and as tags of its words.

The words of a text never depend on its entities (`words_of`). An entity takes every word that it touches, so a border
inside a word moves to the edge of that word. Such borders are counted, and so is an entity that loses all its words.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jaxfm.data.text import tagging
from jaxfm.errors import UserError

CharSpan = tuple[int, int, str]  # first character, one past the last character, type
Offsets = tuple[int, int]  # of a word: first character, one past the last


class MarkedText(NamedTuple):
    """A text with its entities, as annotated.

    Attributes:
        text: as it was read.
        spans: the entities in characters, in order; none overlaps another or starts or ends with white space.
        offsets: the words of the text, in characters.
    """

    text: str
    spans: tuple[CharSpan, ...]
    offsets: tuple[Offsets, ...]


class Marks(NamedTuple):
    """The tags of the words of a text.

    Attributes:
        tags: strict BIO, one a word.
        inside: entities that start or end inside a word and take the whole word.
        lost: entities without a word, since another one has more characters of each of their words.
    """

    tags: list[str]
    inside: int
    lost: int


def check_spans(text: str, spans: Iterable[CharSpan], origin: str) -> list[CharSpan]:
    """Returns the spans in order, without white space at their ends; equal ones once.

    Raises UserError naming `origin` for a span outside the text, of nothing but white space or with a bad type.
    """
    checked = set()
    for start, end, kind in spans:
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"{origin}: the entity {start}..{end} ({kind}) is not inside the text of {len(text)} characters. "
                "Offsets count characters from 0, end exclusive."
            )
        inner = text[start:end]
        if inner.isspace():
            raise UserError(f"{origin}: the entity {start}..{end} ({kind}) covers nothing but white space.")
        if not tagging.TAG.fullmatch(f"B-{kind}"):
            raise UserError(f"{origin}: the label {kind!r} must be a name without white space around it.")
        checked.add((start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip()), kind))
    return sorted(checked)


def flat_spans(spans: Iterable[CharSpan]) -> tuple[list[CharSpan], list[CharSpan]]:
    """Returns the spans that a flat tagging keeps, and those that it leaves out, both in order.

    Of overlapping or nested spans the longest is kept; of equally long ones the first, then the first type by name.
    """
    flat: list[CharSpan] = []
    left_out: list[CharSpan] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span)):
        if any(span[0] < other[1] and other[0] < span[1] for other in flat):
            left_out.append(span)
        else:
            flat.append(span)
    return sorted(flat), sorted(left_out)


def mark_words(offsets: Sequence[Offsets], spans: Sequence[CharSpan]) -> Marks:
    """Returns the tags of words for flat spans in order; a word touched by two is of the one with more of its letters.

    On a tie the word is of the first.
    """
    owned: Counter[int] = Counter()
    owner: dict[int, tuple[int, int]] = {}  # word -> (characters, number of the span)
    inside = word = 0
    for number, (start, end, _) in enumerate(spans):
        while word < len(offsets) and offsets[word][1] <= start:
            word += 1
        at, cut = word, False
        while at < len(offsets) and offsets[at][0] < end:
            first, last = offsets[at]
            cut |= first < start or end < last
            characters = min(last, end) - max(first, start)
            if at not in owner or characters > owner[at][0]:
                owner[at] = (characters, number)
            at += 1
        inside += cut
    owned.update(number for _, number in owner.values())
    tagged = []
    for at in sorted(owner):
        number = owner[at][1]
        if tagged and tagged[-1][2] == number:
            tagged[-1][1] = at + 1
        else:
            tagged.append([at, at + 1, number])
    tags = tagging.write_tags([(first, last, spans[number][2]) for first, last, number in tagged], len(offsets))
    return Marks(tags, inside, len(spans) - len(owned))
