"""Spans of words: who owns them, which class they have, and which of them may stand together."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.spans import MarkedText
from jaxfm.data.text.windows import make_windows
from jaxfm.tasks.word_spans.errors import layers
from jaxfm.tasks.word_spans.spans import as_given, choose, crossing_pair, entities_of, gold_classes, owners


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(6, 14), st.integers(0, 3), st.integers(1, 5))
def test_a_span_is_owned_where_its_poorer_side_has_most_context(
    sizes: list[int], length: int, overlap: int, widths: int
) -> None:
    pieces = [[list(range(size)) for size in sizes]]
    windows = make_windows(
        pieces, None, cls_id=1, sep_id=2, max_length=length, overlap=overlap, context="sentence", documents=None
    )
    owner_WK = owners(sizes, windows.reach, widths)
    ends = [0, *itertools.accumulate(sizes)]
    for first, width in np.ndindex(owner_WK.shape):
        end = first + width + 1
        context = {
            number: min(ends[first] - ends[a], ends[b] - ends[end])
            for number, (a, b) in enumerate(windows.reach.tolist())
            if a <= first and end <= b
        }
        if end > len(sizes) or not context:
            assert owner_WK[first, width] == -1
        else:
            assert owner_WK[first, width] == min(context, key=lambda number: (-context[number], number))
    assert (owner_WK[:, 0] >= 0).all()  # a word always is whole in some window


def test_classes_and_entities_that_no_class_can_say() -> None:
    spans = [(0, 1, "A"), (0, 3, "B"), (0, 3, "A"), (1, 5, "B"), (2, 2, "A")]
    classes, left = gold_classes(spans, {"A": 1, "B": 2}, 5, 3)
    assert classes.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert left == [(0, 3, "B"), (1, 5, "B"), (2, 2, "A")]


spans_of_words = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 4)).map(lambda each: (each[0], sum(each))), max_size=9
)


@settings(deadline=None)
@given(spans_of_words, st.sampled_from(["any", "nested", "flat"]), st.integers(0, 99))
def test_the_surest_that_may_stand_together_are_chosen(found: list[tuple[int, int]], overlaps: str, seed: int) -> None:
    spans = np.asarray(found, np.int64).reshape(-1, 2)
    scores = np.random.default_rng(seed).permutation(len(spans)).astype(float)

    def together(one: tuple[int, int], other: tuple[int, int]) -> bool:
        words, others = set(range(*one)), set(range(*other))
        return (
            overlaps == "any" or not words & others or (overlaps == "nested" and (words <= others or others <= words))
        )

    wanted: list[int] = []
    for number in sorted(range(len(found)), key=lambda number: -scores[number]):
        if all(together(found[number], found[other]) for other in wanted):
            wanted.append(number)
    assert np.flatnonzero(choose(spans, scores, overlaps)).tolist() == sorted(wanted)


@settings(deadline=None)
@given(spans_of_words)
def test_crossing_spans_are_found_and_layers_have_none(found: list[tuple[int, int]]) -> None:
    spans = sorted({(start, end, "A") for start, end in found})

    def cross(one: tuple[int, int, str], other: tuple[int, int, str]) -> bool:
        words, others = set(range(*one[:2])), set(range(*other[:2]))
        return bool(words & others) and not words <= others and not others <= words

    pair = crossing_pair(spans)
    assert (pair is not None) == any(cross(one, other) for one, other in itertools.combinations(spans, 2))
    assert pair is None or cross(*pair)
    laid = layers(spans)
    assert sorted(span for layer in laid for span in layer) == spans
    assert all(one[1] <= other[0] for layer in laid for one, other in itertools.pairwise(layer))


@pytest.mark.parametrize("words", [True, False])
def test_entities_are_given_as_the_source_has_them(words: bool) -> None:
    text, tags = "the Bank of Rome-based", ("O", "B-ORG", "I-ORG", "I-ORG", "O", "O")
    offsets = ((0, 3), (4, 8), (9, 11), (12, 16), (16, 17), (17, 22))
    if words:
        sentence = TaggedSentence(tuple(text[a:b] for a, b in offsets), tags, 0, "x:1", overlapping=((3, 4, "LOC"),))
        wanted = [(1, 4, "ORG"), (3, 4, "LOC")]
    else:
        marked = MarkedText(text, ((4, 16, "ORG"),), offsets)
        left_out = ((12, 16, "LOC"), (13, 16, "CUT"))
        sentence = TaggedSentence(tuple(text[a:b] for a, b in offsets), tags, 0, "x:1", marked, left_out)
        wanted = [(4, 16, "ORG"), (12, 16, "LOC"), (13, 16, "CUT")]
    found = entities_of(sentence)
    assert found.given == wanted and found.in_words[:2] == [(1, 4, "ORG"), (3, 4, "LOC")]
    again = as_given(sentence, found.in_words)
    assert again[:2] == wanted[:2]
    if not words:  # an entity that starts inside a word takes all of it, and so is never what was marked
        assert found.in_words[2] == (3, 4, "CUT") and again[2] == (12, 16, "CUT")
