"""Groups of texts as rows: what lies where, what is cut, what is known to belong together."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.data.text.grouped_rows import known_positives, pack_groups
from jaxfm.tasks.text_groups.group_texts import shortened


def slow_shortened(lengths: list[int], room: int) -> list[int]:
    """Cuts the longest text by a token again and again."""
    lengths = list(lengths)
    while sum(lengths) > room:
        lengths[lengths.index(max(lengths))] -= 1
    return lengths


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.integers(10, 60))
def test_the_longest_texts_are_cut_to_fit(lengths: list[int], room: int) -> None:
    group = [np.arange(length) + 100 * number for number, length in enumerate(lengths)]
    found = shortened(group, room)
    wanted = slow_shortened(lengths, room)
    assert sum(map(len, found)) <= room
    for text, cut, length in zip(group, found, wanted, strict=True):
        assert abs(len(cut) - length) <= 1  # what is left over of the room goes to nobody
        assert cut[-1] == text[-1] and cut[:-1].tolist() == text[: len(cut) - 1].tolist()
    if sum(lengths) <= room:
        assert [len(text) for text in found] == lengths


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=3), min_size=1, max_size=12), st.booleans())
def test_every_text_is_a_segment_of_its_group(sizes: list[list[int]], shuffled: bool) -> None:
    number, groups, ids = 0, [], []
    for group in sizes:
        groups.append([np.full(length, 10 + number + place, np.int32) for place, length in enumerate(group)])
        ids.append([number + place for place in range(len(group))])
        number += len(group)
    scores = np.arange(len(groups), dtype=np.float32)[:, None]
    rows = pack_groups(
        groups, ids, row_length=20, texts=3, groups_per_row=4, pad_id=0, seed=7 if shuffled else None, scores=scores
    )  # fmt: skip
    assert rows.texts.shape == (len(rows), 4, 3)
    seen = set()
    for row in range(len(rows)):
        for group in range(4):
            numbers = rows.texts[row, group]
            for place, text in enumerate(numbers.tolist()):
                here = rows.segment_ids[row] == group * 3 + place + 1
                if text < 0:
                    assert not here.any()
                    continue
                seen.add(text)
                found = rows.tokens[row][here]
                assert (found == 10 + text).all() and len(found) > 0
                assert rows.positions[row][here].tolist() == list(range(len(found)))
                first = numbers[0]
                assert rows.scores is not None and ids[int(rows.scores[row, group, 0])][0] == first
    assert seen == set(range(number))
    assert (rows.tokens[rows.segment_ids == 0] == 0).all()
    assert (
        set(rows.take(np.asarray([0]))) == set(rows.spec) == {"tokens", "segment_ids", "positions", "texts", "scores"}
    )
    for name, field in rows.spec.items():
        assert rows.take(np.asarray([0]))[name].shape == (1, *field.shape)
        assert rows.take(np.asarray([0]))[name].dtype == field.dtype
    other = dataclasses.replace(rows, texts=rows.texts + 1)
    assert other.fingerprint() != rows.fingerprint()


def test_known_positives() -> None:
    table, over = known_positives([1, 2, 1, 1], [5, 6, 7, 5], 4)
    assert table is not None and table.tolist() == [[5, 7], [6, -1], [5, 7], [5, 7]] and over == 0
    assert known_positives([1, 2, 2], [5, 6, 6], 4) == (None, 0)
    table, over = known_positives([1, 1, 1, 2], [5, 6, 7, 8], 2)
    assert table is not None and table.tolist() == [[5, 6], [5, 6], [5, 6], [8, -1]] and over == 1


@pytest.mark.parametrize("room", [9, 10, 11])
def test_what_is_cut_fits_to_the_token(room: int) -> None:
    found = shortened([np.arange(3), np.arange(20), np.arange(20)], room)
    assert len(found[0]) == 3 and len(found[1]) == len(found[2]) == (room - 3) // 2
