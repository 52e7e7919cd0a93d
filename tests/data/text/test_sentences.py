"""Where sentences end."""

import pytest

from jaxfm.data.text.sentences import sentences_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("Ada met Boole.", ["Ada met Boole."]),
        ("Ada met Boole. Did she? Yes!", ["Ada met Boole.", "Did she?", "Yes!"]),
        ("Acme Inc. hired her in the U.S. Army.", ["Acme Inc. hired her in the U.S. Army."]),
        ("It costs 3.5 euros at example.com now.", ["It costs 3.5 euros at example.com now."]),
        ('He said "Go." Then he went.', ['He said "Go."', "Then he went."]),
        ("A title\nA text without a stop", ["A title", "A text without a stop"]),
        ("one.two", ["one.two"]),
        ("彼は行った。彼女も。", ["彼は行った。", "彼女も。"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences_of(text)] == expected


def test_no_sentence_ends_inside_an_entity() -> None:
    text = "They watched Oh! Calcutta there. It was long."
    start = text.index("Oh!")
    assert len(sentences_of(text)) == 3
    found = sentences_of(text, [(start, start + len("Oh! Calcutta"))])
    assert [text[a:b] for a, b in found] == ["They watched Oh! Calcutta there.", "It was long."]
