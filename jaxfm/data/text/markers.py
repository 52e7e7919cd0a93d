"""Marks around a pair of entities among the pieces of a text, and the window of a long text that holds both.

A text is tokenized once, whatever its pairs: markers are pieces put between its own ones, so that no text can hold a
marker by chance, and the pieces of the words are those that they have in the text without markers.
"""

# T pieces of a text

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxfm.data.text.tokenization import check_unicode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TEXTS_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take

Span = tuple[int, int]


class Pieces(NamedTuple):
    """The pieces of a text without special tokens: ids int32 [T], and their characters int64 [T, 2], end exclusive."""

    ids: np.ndarray
    offsets: np.ndarray


class Markers(NamedTuple):
    """Ids of the pieces before and after the head, before and after the tail."""

    head_start: int
    head_end: int
    tail_start: int
    tail_end: int


@dataclasses.dataclass(frozen=True, eq=False)
class MarkedPair:
    """A text with markers around two entities.

    Attributes:
      ids: int32 [M], the pieces of the text and the markers among them, without special tokens.
      first: where the pair begins among them, its markers included.
      last: where it has ended.
      inside: whether an entity starts or ends inside a piece, which is then all enclosed.
    """

    ids: np.ndarray
    first: int
    last: int
    inside: bool

    @property
    def length(self) -> int:
        """Tokens of the whole text, the two special ones included."""
        return len(self.ids) + 2

    @property
    def needed(self) -> int:
        """Tokens of the pair and what lies between its entities, the two special ones included."""
        return self.last - self.first + 2

    def within(self, window: int, cls_id: int, sep_id: int) -> np.ndarray | None:
        """Returns at most `window` tokens int32 around the pair, a special token at each end; None: it does not fit.

        What the pair does not need is filled with the text around it, as much on both sides as there is.
        """
        budget = window - 2
        spare = budget - (self.last - self.first)
        if spare < 0:
            return None
        start = self.first - min(self.first, max(spare // 2, spare - (len(self.ids) - self.last)))
        return np.concatenate([[cls_id], self.ids[start : start + budget], [sep_id]]).astype(np.int32)


def plain_pieces(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[Pieces]:
    """Returns the pieces of texts in which no special token or marker is recognised: "[SEP]" is a word of five letters.

    Raises UserError for a text that is not valid Unicode.
    """
    found = []
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        chunk = list(texts[first : first + _TEXTS_PER_CALL])
        for text in chunk:
            check_unicode(text)
        batch = tokenizer(
            chunk,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for encoding in batch.encodings or ():
            offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
            found.append(Pieces(np.asarray(encoding.ids, np.int32), offsets))
    return found


def mark_pair(text: str, pieces: Pieces, head: Span, tail: Span, markers: Markers | None) -> MarkedPair:
    """Puts markers around two entities, which may overlap.

    An entity whose characters have no piece (a soft hyphen) has markers with nothing between them.

    Args:
      text: that the pieces are of.
      pieces: of the text.
      head: characters of the first entity, end exclusive.
      tail: of the second one.
      markers: None puts none.
    """
    (head_at, head_inside), (tail_at, tail_inside) = (_piece_range(text, pieces, span) for span in (head, tail))
    ids, first, last = pieces.ids, min(head_at[0], tail_at[0]), max(head_at[1], tail_at[1])
    if markers is not None:
        inserts = sorted(
            [
                *_inserts(head_at, 0, markers.head_start, markers.head_end),
                *_inserts(tail_at, 1, markers.tail_start, markers.tail_end),
            ]
        )
        ids = np.insert(ids, [each[0] for each in inserts], [each[-1] for each in inserts])
        last += len(inserts)
    return MarkedPair(ids, first, last, head_inside or tail_inside)


def _inserts(at: Span, number: int, start: int, end: int) -> list[tuple[int, int, int, int, int, int]]:
    """Returns the two markers of an entity with where they stand, as keys to sort by.

    At one place what ends comes first, the shorter entity before the longer; then one without pieces; then what starts,
    the longer entity before the shorter.
    """
    length = at[1] - at[0]
    if not length:
        return [(at[0], 1, 0, number, 0, start), (at[0], 1, 0, number, 1, end)]
    return [(at[0], 2, -length, number, 0, start), (at[1], 0, length, -number, 0, end)]


def _piece_range(text: str, pieces: Pieces, span: Span) -> tuple[Span, bool]:
    """Returns the pieces that have a character of the span, and whether the first or last has others (not spaces)."""
    start, end = span
    offsets = pieces.offsets
    touching = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    if not len(touching):
        place = int((offsets[:, 1] <= start).sum())
        return (place, place), False
    first, last = int(touching[0]), int(touching[-1])
    before, after = text[int(offsets[first, 0]) : start], text[end : int(offsets[last, 1])]
    return (first, last + 1), bool(before.strip() or after.strip())
