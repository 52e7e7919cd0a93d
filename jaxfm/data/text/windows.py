"""Sentences of pieces to model inputs of bounded length: long ones cut so that every word is read exactly once."""

# One flat sequence of pieces per document: `ends[w]` is the number of pieces before word w, so words a..b hold
# pieces ends[a]:ends[b], and every question about room is one binary search.

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from jaxfm.config import DataConfig
from jaxfm.data.text.packing import ramps
from jaxfm.errors import UserError

IGNORED = -1  # in labels and words: nothing is read here


def window_length(data: DataConfig, max_positions: int) -> int:
    """Returns the longest example in tokens that `config.data` asks for; UserError where row or encoder is shorter."""
    window = data.window or min(data.row_length, max_positions)
    for limit, name in ((data.row_length, "config.data.row_length"), (max_positions, "the encoder")):
        if window > limit:
            raise UserError(f"config.data.window: {window} tokens do not fit {name} ({limit} tokens).")
    return window


def check_overlap(overlap: int, window: int) -> None:
    """Raises UserError where windows share so many tokens (`config.task.overlap`) that none would be new."""
    if overlap >= window - 2:
        raise UserError(
            f"config.task.overlap: {overlap} must be less than the window of {window} tokens without its two special "
            f"tokens; at most {window - 3}."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Windows:
    """Model inputs with the special tokens, each at most max_length long; all lists run over windows.

    Attributes:
        tokens: int32 piece ids.
        labels: int32, the label of a word on its first piece, in the one window that owns the word; -1 elsewhere.
        words: int32, the index of the word in its sentence where its label or prediction is read; -1 elsewhere.
        word_pieces: int32, the same on all pieces of an owned word.
        sentence: int32 [n_windows], the index of the sentence that the window reads.
        reach: int32 [n_windows, 2], the words of that sentence that the window shows: the first, and one past the last.
    """

    tokens: list[np.ndarray]
    labels: list[np.ndarray]
    words: list[np.ndarray]
    word_pieces: list[np.ndarray]
    sentence: np.ndarray
    reach: np.ndarray


def make_windows(
    pieces: Sequence[Sequence[Sequence[int]]],
    labels: Sequence[Sequence[int]] | None,
    *,
    cls_id: int,
    sep_id: int,
    max_length: int,
    overlap: int,
    context: Literal["sentence", "document"],
    documents: Sequence[int] | None,
) -> Windows:
    """Cuts sentences (sentence -> word -> piece ids, as from `encode_words`) into windows.

    A sentence that fits is one window. A longer one becomes several, cut between words, neighbours sharing up to
    `overlap` pieces; a word belongs to the window in which it has most context on its poorer side. A word longer than a
    window keeps its first pieces. With context="document" each window is filled on both sides with the surrounding
    words of the same document (the setting of Schweter and Akbik 2020, "FLERT"), which carry no labels. `documents`
    gives the document of each sentence; a document is a run of equal values. A sentence without words has no window.
    Without labels (prediction) `labels` is all -1 and `words` still marks the positions to read.

    Raises UserError for lengths that leave no room, or document context without documents.
    """
    budget = max_length - 2  # [CLS] and [SEP]
    if budget < 1:
        raise UserError(f"max_length = {max_length}: must be at least 3, two of which are the special tokens")
    if not 0 <= overlap < budget:
        raise UserError(f"overlap = {overlap}: must be at least 0 and less than max_length - 2 = {budget}")
    if context == "document":
        if documents is None:
            raise UserError(
                'context = "document" but the data does not say which sentences form a document: use "sentence"'
            )
        assert len(documents) == len(pieces)
    assert labels is None or len(labels) == len(pieces)

    tokens: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    reads: list[np.ndarray] = []
    covered: list[np.ndarray] = []
    sentences: list[int] = []
    reach: list[tuple[int, int]] = []
    for first, last in _groups(len(pieces), documents if context == "document" else None):
        flat, ends, bounds = _flatten(pieces[first:last], budget)
        for sentence in range(first, last):
            begin, stop = int(bounds[sentence - first]), int(bounds[sentence - first + 1])
            label = None if labels is None else np.asarray(labels[sentence], np.int32)
            assert label is None or len(label) == stop - begin, f"sentence {sentence}: a label for each word"
            spans = list(_spans(ends, begin, stop, budget, overlap))
            if context == "document":
                spans = [_fill(ends, a, b, budget) for a, b in spans]
            owner = _owners(ends, begin, stop, spans)
            for number, (a, b) in enumerate(spans):
                window = np.empty(2 + ends[b] - ends[a], np.int32)
                window[0], window[1:-1], window[-1] = cls_id, flat[ends[a] : ends[b]], sep_id
                owned = begin + np.flatnonzero(owner == number)
                at = 1 + ends[owned] - ends[a]
                target, read, cover = np.full((3, len(window)), IGNORED, np.int32)
                read[at] = owned - begin
                sizes = ends[owned + 1] - ends[owned]
                cover[np.repeat(at, sizes) + ramps(sizes)] = np.repeat(owned - begin, sizes)
                if label is not None:
                    target[at] = label[owned - begin]
                tokens.append(window)
                targets.append(target)
                reads.append(read)
                covered.append(cover)
                sentences.append(sentence)
                reach.append((max(a, begin) - begin, min(b, stop) - begin))
    return Windows(
        tokens, targets, reads, covered, np.asarray(sentences, np.int32), np.asarray(reach, np.int32).reshape(-1, 2)
    )


def _groups(count: int, documents: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    """Yields the ranges of sentences that share one flat sequence: the runs of a document, or each sentence alone."""
    first = 0
    for sentence in range(1, count + 1):
        if sentence == count or documents is None or documents[sentence] != documents[first]:
            yield first, sentence
            first = sentence


def _flatten(sentences: Sequence[Sequence[Sequence[int]]], budget: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pieces in a row, where each word ends among them, and where each sentence ends among the words."""
    words = [word[:budget] for sentence in sentences for word in sentence]
    assert all(len(word) > 0 for word in words), "every word has a piece"
    flat = np.fromiter((piece for word in words for piece in word), np.int32)
    ends = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=ends[1:])
    bounds = np.zeros(len(sentences) + 1, np.int64)
    np.cumsum([len(sentence) for sentence in sentences], out=bounds[1:])
    return flat, ends, bounds


def _spans(ends: np.ndarray, begin: int, stop: int, budget: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yields word ranges of at most `budget` pieces that cover words begin..stop, each filled from its start."""
    start = begin
    while start < stop:
        end = min(stop, int(np.searchsorted(ends, ends[start] + budget, "right")) - 1)
        yield start, end
        if end == stop:
            return
        # The overlap, unless the next word would then not fit: each window must reach further than the one before.
        reach = max(ends[end] - overlap, ends[end + 1] - budget)
        start = int(np.searchsorted(ends, reach, "left"))


def _fill(ends: np.ndarray, start: int, end: int, budget: int) -> tuple[int, int]:
    """Widens a word range to the budget, evenly to both sides; what one side cannot use goes to the other."""
    spare = budget - (ends[end] - ends[start])
    left = min(ends[start], max(spare // 2, spare - (ends[-1] - ends[end])))
    wide_start = int(np.searchsorted(ends, ends[start] - left, "left"))
    wide_end = int(np.searchsorted(ends, ends[wide_start] + budget, "right")) - 1
    # Word boundaries may have left room on the right that one more word on the left can use.
    return int(np.searchsorted(ends, max(0, ends[wide_end] - budget), "left")), wide_end


def _owners(ends: np.ndarray, begin: int, stop: int, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """Returns for each word of begin..stop the number of the span that reads it."""
    owner = np.full(stop - begin, -1)
    best = np.full(stop - begin, -1)
    for number, (a, b) in enumerate(spans):
        a_word, b_word = max(a, begin), min(b, stop)
        words = np.arange(a_word, b_word)
        poorer = np.minimum(ends[words] - ends[a], ends[b] - ends[words + 1])
        inside = slice(a_word - begin, b_word - begin)
        better = poorer > best[inside]
        owner[inside][better] = number
        best[inside][better] = poorer[better]
    assert (owner >= 0).all()
    return owner
