"""Changes inside words: each does what its name says, and nothing else."""

import unicodedata

import numpy as np
import pytest

from jaxfm.data.perturbations import characters

WORDS = ("Keyboard", "morning", "a", "Rome,", "...", "1984", "naïve", "don't", "X", "mmmm")


def found(change: characters.WordChange, word: str) -> set[str]:
    generator = np.random.default_rng(0)
    return {change(word, generator) for _ in range(300)}


def distance(one: str, other: str) -> int:
    """Levenshtein's, by its recurrence."""
    row = list(range(len(other) + 1))
    for number, letter in enumerate(one, start=1):
        before, row[0] = row[0], number
        for at, each in enumerate(other, start=1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (letter != each))
    return row[-1]


def test_a_wrong_key_is_one_edit() -> None:
    for word in WORDS:
        assert {distance(word, each) for each in found(characters.keyboard, word)} <= {0, 1}
    assert {"jorning", "norning", "monring"} & found(characters.keyboard, "morning") >= {"jorning", "norning"}
    assert all(each for each in found(characters.keyboard, "a"))
    assert "Q" not in found(characters.keyboard, "M") and found(characters.keyboard, "...") == {"..."}


def test_swapped_letters_are_the_same_letters() -> None:
    for word in WORDS:
        for each in found(characters.swaps, word):
            assert sorted(each) == sorted(word)
            assert sum(map(str.__ne__, each, word)) in (0, 2)
    assert found(characters.swaps, "ab") == {"ba"} and found(characters.swaps, "mmmm") == {"mmmm"}


def test_scanned_letters_look_alike() -> None:
    assert {"rnorning", "moming", "m0rning"} <= found(characters.ocr, "morning")
    assert found(characters.ocr, "...") == {"..."}


def test_case_changes_nothing_but_case() -> None:
    for word in WORDS:
        assert {each.lower() for each in found(characters.case, word)} == {word.lower()}
    assert found(characters.case, "abc") == {"ABC", "Abc"} and found(characters.case, "1984") == {"1984"}


def test_marks_are_lost_doubled_put_in_or_exchanged() -> None:
    assert found(characters.punctuation, "Rome,") == {"Rome", "Rome,,"}
    assert {each[:-1] for each in found(characters.punctuation, "Rome")} == {"Rome"}
    assert all(len(each) == 1 and each != "." for each in found(characters.punctuation, "."))


def test_white_space_is_put_inside() -> None:
    for each in found(characters.whitespace, "Rome"):
        assert len(each) == 5 and each[0] == "R" and each[-1] == "e"
    assert found(characters.whitespace, "a") == {"a"}


def test_lookalikes_are_other_characters_of_the_same_number() -> None:
    for word in WORDS:
        for each in found(characters.lookalikes, word):
            assert len(each) == len(word)
            for before, after in zip(word, each, strict=True):
                assert before == after or not after.isascii()
    names = {unicodedata.name(each).split()[0] for word in found(characters.lookalikes, "ace") for each in word}
    assert {"CYRILLIC", "LATIN"} <= names


@pytest.mark.parametrize("name", ["keyboard", "swaps", "ocr", "case", "punctuation", "whitespace", "lookalikes"])
def test_a_word_never_becomes_nothing(name: str) -> None:
    for word in WORDS:
        assert all(each.strip() for each in found(getattr(characters, name), word))
