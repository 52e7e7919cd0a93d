"""Texts that say the opposite."""

import pytest

from jaxfm.data.perturbations.negation import negated


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The film is good .", "The film is not good ."),
        ("The film is not good .", "The film is good ."),
        ("It does n't work .", "It does work ."),
        ("It isn't new, is it?", "It is new, is it?"),
        ("You can't win .", "You can win ."),
        ("It wo n't win .", "It will win ."),
        ("I grew .", "It is not true that I grew ."),
        ("A fine film .", "It is not true that a fine film ."),
        ("NASA grew .", "It is not true that NASA grew ."),
        ("I can see and will go .", "I can not see and will go ."),
        ("", "It is not true that "),
    ],
)
def test_a_negation_is_put_in_or_taken_out(text: str, expected: str) -> None:
    assert negated(text) == expected
