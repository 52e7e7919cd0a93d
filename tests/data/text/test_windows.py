import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.text.windows import Windows, make_windows
from jaxfm.errors import UserError

CLS, SEP = 1, 2

lengths_of_words = st.lists(
    st.lists(st.one_of(st.integers(1, 3), st.integers(1, 20)), max_size=30), min_size=1, max_size=8
)


def numbered(lengths: list[list[int]]) -> list[list[list[int]]]:
    """Pieces that are consecutive numbers from 100 on, over all sentences: a piece tells where it comes from."""
    after = 100
    sentences = []
    for sentence in lengths:
        words = []
        for length in sentence:
            words.append(list(range(after, after + length)))
            after += length
        sentences.append(words)
    return sentences


def cut(pieces: list[list[list[int]]], max_length: int, overlap: int, **options) -> Windows:
    options = {"labels": None, "context": "sentence", "documents": None, **options}
    labels = options.pop("labels")
    return make_windows(pieces, labels, cls_id=CLS, sep_id=SEP, max_length=max_length, overlap=overlap, **options)


def check_ownership(pieces: list[list[list[int]]], labels: list[list[int]], found: Windows, max_length: int) -> None:
    """The properties that hold in every setting, checked from the pieces alone."""
    read: dict[tuple[int, int], list[int]] = {}
    restored: list[list[int]] = [[] for _ in pieces]
    for number, (tokens, targets, words) in enumerate(zip(found.tokens, found.labels, found.words, strict=True)):
        sentence = int(found.sentence[number])
        assert tokens.dtype == targets.dtype == words.dtype == np.int32
        assert len(tokens) == len(targets) == len(words) <= max_length
        assert (tokens[0], tokens[-1]) == (CLS, SEP)
        for at in np.flatnonzero(words >= 0):
            word = int(words[at])
            kept = pieces[sentence][word][: max_length - 2]
            assert tokens[at : at + len(kept)].tolist() == kept
            assert targets[at] == labels[sentence][word]
            read.setdefault((sentence, word), []).append(number)
            restored[sentence].extend(kept)
        assert (targets[words < 0] == -1).all()
        first, last = found.reach[number]
        assert all(first <= word < last for word in set(words.tolist()) - {-1}) and last <= len(pieces[sentence])
        shown = [piece for word in pieces[sentence][first:last] for piece in word[: max_length - 2]]
        assert any(tokens[at : at + len(shown)].tolist() == shown for at in range(1, len(tokens)))
        covered = found.word_pieces[number]
        assert len(covered) == len(tokens) and set(covered) - {-1} == set(words) - {-1}
        for word in set(words.tolist()) - {-1}:
            assert tokens[covered == word].tolist() == pieces[sentence][word][: max_length - 2]
    assert {key: len(windows) for key, windows in read.items()} == {
        (s, w): 1 for s, words in enumerate(pieces) for w in range(len(words))
    }
    assert restored == [[piece for word in words for piece in word[: max_length - 2]] for words in pieces]

    for (sentence, word), (owner,) in read.items():  # most context on the poorer side
        scores = {}
        for number in np.flatnonzero(found.sentence == sentence):
            inner = found.tokens[number][1:-1].tolist()
            kept = pieces[sentence][word][: max_length - 2]
            if kept[0] in inner:
                left = inner.index(kept[0])
                assert inner[left : left + len(kept)] == kept  # windows are cut between words
                scores[int(number)] = min(left, len(inner) - left - len(kept))
        assert scores[owner] == max(scores.values())


@settings(max_examples=150, deadline=None)
@given(lengths_of_words, st.integers(3, 24), st.data())
def test_every_word_has_one_owner_with_the_most_context(lengths, max_length: int, data) -> None:
    overlap = data.draw(st.integers(0, max_length - 3))
    pieces = numbered(lengths)
    labels = [[(7 * s + w) % 5 for w in range(len(words))] for s, words in enumerate(pieces)]
    found = cut(pieces, max_length, overlap, labels=labels)
    check_ownership(pieces, labels, found, max_length)
    for sentence, words in enumerate(pieces):
        windows = [found.tokens[n][1:-1].tolist() for n in np.flatnonzero(found.sentence == sentence)]
        if 0 < sum(map(len, words)) <= max_length - 2:
            assert windows == [[piece for word in words for piece in word]]
        for before, after in zip(windows, windows[1:], strict=False):
            assert len(set(before) & set(after)) <= overlap
            assert after[-1] > before[-1]  # each window reaches further


@settings(max_examples=150, deadline=None)
@given(lengths_of_words, st.integers(3, 24), st.data())
def test_context_fills_the_window_and_never_crosses_documents(lengths, max_length: int, data) -> None:
    overlap = data.draw(st.integers(0, max_length - 3))
    documents = sorted(data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths))))
    pieces = numbered(lengths)
    labels = [[w % 3 for w in range(len(words))] for words in pieces]
    found = cut(pieces, max_length, overlap, labels=labels, context="document", documents=documents)
    check_ownership(pieces, labels, found, max_length)
    budget = max_length - 2
    for tokens, sentence in zip(found.tokens, found.sentence, strict=True):
        inside = [s for s, document in enumerate(documents) if document == documents[sentence]]
        words = [word[:budget] for s in inside for word in pieces[s]]
        firsts = [word[0] for word in words]
        a = firsts.index(tokens[1])  # begins with a word of its own document ...
        b = next(n for n in range(a, len(words)) if words[n][-1] == tokens[-2]) + 1
        assert tokens[1:-1].tolist() == [piece for word in words[a:b] for piece in word]  # ... and runs on in it
        room = budget - (len(tokens) - 2)
        assert a == 0 or len(words[a - 1]) > room  # nothing more would fit on either side
        assert b == len(words) or len(words[b]) > room


def test_context_is_balanced_and_spare_room_goes_to_the_other_side() -> None:
    pieces = numbered([[1] * 20, [1] * 4, [1] * 20])
    for documents, left, right in [([0, 0, 0], 5, 5), ([0, 1, 1], 0, 10), ([0, 0, 1], 10, 0)]:
        found = cut(pieces, 16, 4, context="document", documents=documents)
        (number,) = np.flatnonzero(found.sentence == 1)
        read = np.flatnonzero(found.words[number] >= 0)
        assert found.words[number][read].tolist() == [0, 1, 2, 3]
        assert (read[0] - 1, len(found.tokens[number]) - 2 - read[-1]) == (left, right)


def test_a_document_is_a_run_of_equal_values() -> None:
    found = cut(numbered([[1], [1], [1]]), 16, 4, context="document", documents=[0, 1, 0])
    assert [tokens.tolist() for tokens in found.tokens] == [[CLS, 100, SEP], [CLS, 101, SEP], [CLS, 102, SEP]]


def test_a_worked_example() -> None:
    # 7 words, 10 pieces, room for 6, overlap 2.
    found = cut(numbered([[2, 1, 1, 2, 1, 1, 2]]), 8, 2, labels=[[10, 11, 12, 13, 14, 15, 16]])
    assert [tokens.tolist() for tokens in found.tokens] == [
        [CLS, 100, 101, 102, 103, 104, 105, SEP],
        [CLS, 104, 105, 106, 107, 108, 109, SEP],
    ]
    # Word 3 (104, 105) ends the first window and begins the second: no context on its poorer side in either.
    assert [labels.tolist() for labels in found.labels] == [
        [-1, 10, -1, 11, 12, 13, -1, -1],
        [-1, -1, -1, 14, 15, 16, -1, -1],
    ]


def test_without_labels_the_read_positions_are_the_same() -> None:
    generator = random.Random(3)
    lengths = [[generator.randint(1, 4) for _ in range(generator.randint(1, 40))] for _ in range(20)]
    pieces = numbered(lengths)
    with_labels = cut(pieces, 20, 6, labels=[[0] * len(words) for words in pieces])
    without = cut(pieces, 20, 6)
    assert len(without.tokens) > len(pieces)  # some were cut
    for a, b, labels in zip(with_labels.words, without.words, without.labels, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (labels == -1).all()


def test_nothing_to_cut() -> None:
    found = cut([], 8, 2)
    assert (found.tokens, found.labels, found.words, found.sentence.shape) == ([], [], [], (0,))
    assert cut([[], [[5]]], 8, 2).sentence.tolist() == [1]


@pytest.mark.parametrize(
    ("max_length", "overlap", "context", "message"),
    [
        (2, 0, "sentence", "max_length = 2"),
        (10, 8, "sentence", "overlap = 8"),
        (10, -1, "sentence", "overlap = -1"),
        (10, 2, "document", "which sentences form a document"),
    ],
)
def test_impossible_settings_are_refused(max_length: int, overlap: int, context: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(numbered([[1]]), max_length, overlap, context=context)
