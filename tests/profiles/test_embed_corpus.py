"""What profiles/embed_corpus.py writes and reads."""

import pathlib

import pytest

from jaxfm.errors import UserError
from profiles import embed_corpus


def test_a_larger_file_begins_as_a_smaller_one(tmp_path: pathlib.Path) -> None:
    for count in (5, 9):
        embed_corpus.write_texts(["a", "b", "c"], count, tmp_path / f"{count}.txt")
    small, large = ((tmp_path / f"{count}.txt").read_text().splitlines() for count in (5, 9))
    assert len(small) == 5 and len(large) == 9 and large[:5] == small
    assert all(4 <= len(line.split()) <= 16 for line in large)


def test_memory_of_each_quarter_of_the_time() -> None:
    assert embed_corpus.quarters([1, 5, 2, 2, 9, 3, 4, 4]) == [5, 2, 9, 4]
    with pytest.raises(UserError, match="take more texts"):
        embed_corpus.quarters([1, 2])
