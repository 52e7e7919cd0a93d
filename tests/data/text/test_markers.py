"""Markers among the pieces of a text, and the window around two entities."""

import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.data.text.markers import MarkedPair, Markers, Pieces, mark_pair, plain_pieces
from jaxfm.data.text.tokenization import load_tokenizer
from tests import tiny

MARKERS = Markers(901, 902, 903, 904)
NAMES = {901: "<1>", 902: "</1>", 903: "<2>", 904: "</2>"}


def letters(text: str) -> Pieces:
    """A piece a letter, spaces none."""
    places = [at for at, letter in enumerate(text) if letter != " "]
    return Pieces(np.asarray([ord(text[at]) for at in places], np.int32), np.asarray([(at, at + 1) for at in places]))


def shown(pair: MarkedPair) -> str:
    return "".join(NAMES.get(int(number)) or chr(number) for number in pair.ids)


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ((0, 2), (3, 5), "<1>ab</1><2>cd</2>ef"),
        ((3, 5), (0, 2), "<2>ab</2><1>cd</1>ef"),
        ((0, 8), (3, 5), "<1>ab<2>cd</2>ef</1>"),
        ((0, 5), (0, 2), "<1><2>ab</2>cd</1>ef"),
        ((0, 2), (0, 5), "<2><1>ab</1>cd</2>ef"),
        ((3, 8), (6, 8), "ab<1>cd<2>ef</2></1>"),
        ((0, 5), (3, 8), "<1>ab<2>cd</1>ef</2>"),
        ((2, 3), (0, 2), "<2>ab</2><1></1>cdef"),  # the space has no piece
        ((2, 3), (5, 6), "ab<1></1>cd<2></2>ef"),
    ],
)
def test_markers_enclose_their_entity(head: tuple[int, int], tail: tuple[int, int], expected: str) -> None:
    text = "ab cd ef"
    pair = mark_pair(text, letters(text), head, tail, MARKERS)
    assert shown(pair) == expected and not pair.inside
    marks = [at for at, number in enumerate(pair.ids) if int(number) in NAMES]
    assert (pair.first, pair.last) == (marks[0], marks[-1] + 1)
    plain = mark_pair(text, letters(text), head, tail, None)
    assert shown(plain) == "abcdef" and plain.needed == pair.needed - 4


@given(st.integers(1, 30), st.data())
def test_a_window_holds_the_pair_and_is_filled(length: int, data: st.DataObject) -> None:
    text = "x" * length
    spans = []
    for _ in range(2):
        start = data.draw(st.integers(0, length - 1))
        spans.append((start, data.draw(st.integers(start + 1, length))))
    window = data.draw(st.integers(3, 40))
    pair = mark_pair(text, letters(text), *spans, MARKERS)
    found = pair.within(window, 1, 2)
    if pair.needed > window:
        assert found is None
        return
    assert found is not None and found[0] == 1 and found[-1] == 2
    assert len(found) == min(window, pair.length)
    assert sorted(number for number in found.tolist() if number in NAMES) == sorted(NAMES)
    # As much on both sides as there is: one side may only be longer where the other has all of its text.
    inner = found[1:-1].tolist()
    marks = [at for at, number in enumerate(inner) if number in NAMES]
    left, right = marks[0], len(inner) - 1 - marks[-1]
    all_left, all_right = pair.first, len(pair.ids) - pair.last
    assert abs(left - right) <= 1 or (left < right and left == all_left) or (right < left and right == all_right)


def test_an_entity_inside_a_piece_marks_all_of_it(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    text = "the town met ada"
    (pieces,) = plain_pieces(tokenizer, [text])
    pair = mark_pair(text, pieces, (6, 8), (13, 16), MARKERS)  # "ow" of "town"
    assert pair.inside and pair.ids.tolist()[1:4] == [901, tokenizer.convert_tokens_to_ids("town"), 902]
    assert not mark_pair(text, pieces, (4, 8), (13, 16), MARKERS).inside


def test_no_text_holds_a_special_token_or_a_marker(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens(["[E1]"], special_tokens=True)
    marker = tokenizer.convert_tokens_to_ids("[E1]")
    text = "ada [E1] met [SEP] in"
    assert marker in tokenizer(text)["input_ids"]  # the tokenizer by itself takes it for the marker
    (pieces,) = plain_pieces(tokenizer, [text])
    assert marker not in pieces.ids and tokenizer.sep_token_id not in pieces.ids
    assert marker in tokenizer(text)["input_ids"]  # and still does for others
    kept = "".join(text[start:end] for start, end in pieces.offsets)
    assert kept == text.replace(" ", "")
