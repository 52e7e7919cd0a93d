"""Entities in characters as tags of words: what is kept, moved to a word's edge, left out and refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.data.records.spans import check_spans, flat_spans, mark_words
from jaxfm.data.text.tagging import entity_spans
from jaxfm.data.text.words import COARSE, words_of
from jaxfm.errors import UserError


@pytest.mark.parametrize(
    ("text", "spans", "tags", "inside", "lost"),
    [
        ("Ada Lovelace slept", [(0, 12, "PER")], "B-PER I-PER O", 0, 0),
        ("New York-based", [(0, 8, "LOC")], "B-LOC I-LOC", 1, 0),
        ("pro-NATO men", [(4, 8, "ORG")], "B-ORG O", 1, 0),
        ("Rome/Paris x", [(0, 4, "A"), (5, 10, "B")], "B-B O", 2, 1),
        ("Rome/Oslo x", [(0, 4, "A"), (5, 9, "B")], "B-A O", 2, 1),
        ("ab cd/ef gh", [(0, 5, "A"), (6, 11, "B")], "B-A I-A B-B", 2, 0),
        ("a b", [(0, 1, "A"), (2, 3, "A")], "B-A B-A", 0, 0),
    ],
)
def test_an_entity_takes_every_word_that_it_touches(text, spans, tags, inside, lost):
    marks = mark_words(words_of(text, COARSE), spans)
    assert (" ".join(marks.tags), marks.inside, marks.lost) == (tags, inside, lost)


def test_of_overlapping_entities_the_longest_is_kept():
    assert flat_spans([(0, 3, "A"), (2, 9, "B"), (4, 6, "C"), (9, 10, "D")]) == (
        [(2, 9, "B"), (9, 10, "D")],
        [(0, 3, "A"), (4, 6, "C")],
    )
    assert flat_spans([(2, 4, "B"), (0, 2, "A"), (1, 3, "C")]) == ([(0, 2, "A"), (2, 4, "B")], [(1, 3, "C")])
    assert flat_spans([(0, 2, "B"), (0, 2, "A")]) == ([(0, 2, "A")], [(0, 2, "B")])


def test_white_space_at_the_ends_is_no_part_of_an_entity_and_equal_ones_are_one():
    assert check_spans("a  Ada \n", [(2, 8, "PER"), (3, 6, "PER")], "x:1") == [(3, 6, "PER")]


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((0, 4, "A"), r"^x:1: the entity 0\.\.4 \(A\) is not inside the text of 3 characters\. Offsets count"),
        ((-1, 1, "A"), "not inside"),
        ((1, 1, "A"), "not inside"),
        ((1, 2, "A"), "nothing but white space"),
        ((0, 1, " A"), "the label ' A' must be a name"),
        ((0, 1, ""), "the label '' must be a name"),
    ],
)
def test_spans_that_are_none(span, message):
    with pytest.raises(UserError, match=message):
        check_spans("a b", [span], "x:1")


@given(
    st.text(alphabet="ab-/. \u0301漢", max_size=25),
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25), st.sampled_from("AB")), max_size=5),
)
def test_every_entity_is_kept_left_out_or_lost(text, spans):
    spans = [(a, b, kind) for a, b, kind in spans if a < b <= len(text) and text[a:b].strip()]
    checked = check_spans(text, spans, "x:1")
    kept, overlapping = flat_spans(checked)
    left_out = len(overlapping)
    assert len(kept) + left_out == len(checked)
    assert all(a[1] <= b[0] for a, b in zip(kept, kept[1:], strict=False))
    words = words_of(text, COARSE)
    marks = mark_words(words, kept)
    found = entity_spans(marks.tags)
    assert len(found) + marks.lost == len(kept)
    exact = [(words[a][0], words[b - 1][1], kind) for a, b, kind in found]
    if not marks.inside:
        assert exact == kept
    for start, end, kind in exact:
        assert any(start < b and a < end and kind == other for a, b, other in kept)
