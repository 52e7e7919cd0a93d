"""Entities of sentences as spans of words, the windows that show them, and the way back to one score a span."""

# N rows, T tokens, W words of a sentence, K widths, C classes

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.tagging import Span, entity_spans
from jaxfm.data.text.windows import IGNORED, Windows

NO_ENTITY = 0  # the class of a span that is no entity
NO_WINDOW = -1


class Entities(NamedTuple):
    """The entities of a sentence.

    Attributes:
      given: as the source has them, overlapping ones included, in order: in characters where it has a text, else in
        words.
      in_words: each of them in words: all that it touches.
    """

    given: list[Span]
    in_words: list[Span]


def entities_of(sentence: TaggedSentence) -> Entities:
    """Returns the entities of a sentence, overlapping ones included."""
    if sentence.marked is None:
        spans = sorted({*entity_spans(sentence.tags), *sentence.overlapping})
        return Entities(spans, spans)
    offsets = np.asarray(sentence.marked.offsets).reshape(-1, 2)
    given, in_words = [], []
    for start, end, kind in sorted({*sentence.marked.spans, *sentence.overlapping}):
        first = int(np.searchsorted(offsets[:, 1], start, "right"))
        last = int(np.searchsorted(offsets[:, 0], end, "left"))
        # What no word has (a zero-width space, say) does not belong to it: it ends where its words do. A border inside
        # a word stays, and no span of words has it.
        if first < last:
            begins, ends = offsets[first, 0], offsets[last - 1, 1]
            given.append((int(max(start, begins)), int(min(end, ends)), kind))
            in_words.append((first, last, kind))
        else:
            given.append((start, end, kind))
            in_words.append((first, first, kind))  # of no word: it is never found
    return Entities(given, in_words)


def as_given(sentence: TaggedSentence, spans: Iterable[Span]) -> list[Span]:
    """Returns spans of words as `Entities.given` has them."""
    if sentence.marked is None:
        return list(spans)
    offsets = sentence.marked.offsets
    return [(offsets[first][0], offsets[end - 1][1], kind) for first, end, kind in spans]


def crossing_pair(spans: Sequence[Span]) -> tuple[Span, Span] | None:
    """Returns two spans that overlap, neither of them inside the other; None without any."""
    for number, one in enumerate(spans):
        for other in spans[:number]:
            if other[0] < one[0] < other[1] < one[1] or one[0] < other[0] < one[1] < other[1]:
                return other, one
    return None


def owners(pieces: Sequence[int], reach_N2: np.ndarray, widths: int) -> np.ndarray:
    """Returns which window scores each span of a sentence, int [W, K]; NO_WINDOW: none shows it whole.

    A span is owned by the window in which its poorer side has most context, in pieces, as words are; of equals by the
    first.

    Args:
      pieces: number of pieces of each word.
      reach_N2: the words that each window shows.
      widths: K, the most words of a span.
    """
    ends = np.concatenate([[0], np.cumsum(pieces)])
    count = len(pieces)
    owner_WK, best_WK = np.full((2, count, widths), NO_WINDOW)
    first_W1, last_WK = np.arange(count)[:, None], np.arange(count)[:, None] + np.arange(1, widths + 1)
    for number, (begin, stop) in enumerate(reach_N2):
        inside_WK = (first_W1 >= begin) & (last_WK <= stop)
        left_W1 = ends[first_W1] - ends[begin]
        right_WK = ends[stop] - ends[np.minimum(last_WK, count)]
        poorer_WK = np.minimum(left_W1, right_WK)
        better_WK = inside_WK & (poorer_WK > best_WK)
        owner_WK[better_WK], best_WK[better_WK] = number, poorer_WK[better_WK]
    return owner_WK


@dataclasses.dataclass(frozen=True, eq=False)
class SpanRows:
    """Sentences as windows in packed rows, and who scores which span.

    Attributes:
      windows: the windows.
      rows: the packed rows of the windows.
      owners: of each sentence, numbers of `windows` [W, K]; NO_WINDOW: the span is scored nowhere.
    """

    windows: Windows
    rows: PackedRows
    owners: tuple[np.ndarray, ...]

    def per_span(self, values_NTK: np.ndarray) -> list[np.ndarray]:
        """Returns for each sentence the values [spans, ...] of its owned spans, of an array [N, T, K, ...].

        They are in the order of `np.argwhere(owners >= 0)`: by first word, then by width.
        """
        found = []
        for owner_WK in self.owners:
            first, width = np.nonzero(owner_WK >= 0)
            window = owner_WK[first, width]
            row, _, start = self.rows.example_locations[window].reshape(-1, 3).T
            found.append(values_NTK[row, start + first - self.windows.reach[window, 0], width])
        return found

    def spans(self, sentence: int) -> np.ndarray:
        """Returns first word and one past the last word [spans, 2] of the owned spans of a sentence."""
        first, width = np.nonzero(self.owners[sentence] >= 0)
        return np.stack([first, first + width + 1], axis=-1)


def piece_fields(sizes: Sequence[int], reach: Sequence[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns of a window the first and the last piece of each word that it shows, in tokens; -1 after the last.

    Args:
      sizes: pieces of each word of the sentence.
      reach: the words that the window shows.
      length: tokens of the window.
    """
    shown = np.asarray(sizes[reach[0] : reach[1]], np.int64)
    ends = 1 + np.cumsum(shown)  # after the first special token
    firsts, lasts = np.full((2, length), IGNORED, np.int32)
    firsts[: len(shown)], lasts[: len(shown)] = ends - shown, ends - 1
    return firsts, lasts


def span_labels(
    owner_WK: np.ndarray, number: int, reach: Sequence[int], length: int, classes_WK: np.ndarray
) -> np.ndarray:
    """Returns of a window the class of each span that it owns, int32 [length, K]; -1 of all others."""
    labels = np.full((length, owner_WK.shape[1]), IGNORED, np.int32)
    first, width = np.nonzero(owner_WK == number)
    labels[first - reach[0], width] = classes_WK[first, width]
    return labels


def gold_classes(
    spans: Sequence[Span], index: Mapping[str, int], count: int, widths: int
) -> tuple[np.ndarray, list[Span]]:
    """Returns the class of each span of a sentence, int [W, K], and the entities that no class can say.

    These are wider than K words, of no word, or have the very words of another entity: the first type by name stays.
    """
    classes_WK, left = np.full((count, widths), NO_ENTITY), []
    for start, end, kind in sorted(spans):
        width = end - start - 1
        if not 0 <= width < widths or classes_WK[start, width] != NO_ENTITY:
            left.append((start, end, kind))
        else:
            classes_WK[start, width] = index[kind]
    return classes_WK, left


@dataclasses.dataclass(frozen=True, eq=False)
class FoundSpans:
    """The entities that a model finds in a sentence.

    Attributes:
      spans: in words, in order.
      scores: the probability of each one's type.
    """

    spans: list[Span]
    scores: list[float]


def choose(spans_S2: np.ndarray, scores_S: np.ndarray, overlaps: str) -> np.ndarray:
    """Returns which candidates are entities, bool [S]: the surest first, none that an earlier one excludes.

    Args:
      spans_S2: first word and one past the last.
      scores_S: how sure each is.
      overlaps: "any"; "nested": two may lie inside each other, but not cross; "flat": none overlaps another.
    """
    chosen = np.zeros(len(spans_S2), bool)
    for number in np.argsort(-scores_S, kind="stable"):
        start, end = spans_S2[number]
        kept_K2 = spans_S2[chosen]
        overlap_K = (kept_K2[:, 0] < end) & (start < kept_K2[:, 1])
        if overlaps == "nested":
            inside_K = (kept_K2[:, 0] <= start) & (end <= kept_K2[:, 1])
            around_K = (start <= kept_K2[:, 0]) & (kept_K2[:, 1] <= end)
            overlap_K &= ~(inside_K | around_K)
        chosen[number] = overlaps == "any" or not overlap_K.any()
    return chosen


def total_pieces(pieces: Sequence[Sequence[int]], most: int) -> list[int]:
    """Returns the pieces of each word, at most so many: a window keeps the first of a longer word."""
    return [min(len(word), most) for word in pieces]
