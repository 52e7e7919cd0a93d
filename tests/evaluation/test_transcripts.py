"""Error rates against edit distances computed by a table."""

import numpy as np
import pytest

from jaxfm.evaluation.transcripts import error_rates, transcript_errors

pytest.importorskip("jiwer", reason="it counts the errors")


def distance(one: list[str], other: list[str]) -> int:
    """The least number of items to change, leave out or add (Levenshtein), by its recursion."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    table[:, 0], table[0] = np.arange(len(one) + 1), np.arange(len(other) + 1)
    for i, item in enumerate(one, start=1):
        for j, found in enumerate(other, start=1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (item != found))
    return int(table[-1, -1])


def test_errors_are_edit_distances() -> None:
    draw = np.random.default_rng(0)

    def text(least: int) -> str:
        return " ".join("".join(draw.choice(list("ab"), draw.integers(1, 3))) for _ in range(draw.integers(least, 5)))

    gold, found = [text(1) for _ in range(40)], [text(0) for _ in range(40)]
    assert "" in found
    errors = transcript_errors(gold, found)
    for at, (one, other) in enumerate(zip(gold, found, strict=True)):
        assert errors.word_edits[at] == distance(one.split(), other.split()) and errors.words[at] == len(one.split())
        assert errors.character_edits[at] == distance(list(one), list(other)) and errors.characters[at] == len(one)
    rates = error_rates(errors.units, np.ones((1, 40)))
    words = sum(distance(one.split(), other.split()) for one, other in zip(gold, found, strict=True))
    assert rates["wer"][0] == pytest.approx(words / sum(len(one.split()) for one in gold))
    characters = sum(distance(list(one), list(other)) for one, other in zip(gold, found, strict=True))
    assert rates["cer"][0] == pytest.approx(characters / sum(map(len, gold)))
    twice = np.zeros((1, 40))
    twice[0, 3] = 2.0
    assert error_rates(errors.units, twice)["wer"][0] == errors.word_edits[3] / errors.words[3]
