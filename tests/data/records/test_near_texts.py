"""Which texts count as the same, and which as nearly so, beside sets of n-grams."""

import random

from jaxfm.data.records.near_texts import NearTexts, keys_of, record_text, text_key


def jaccard(one: str, other: str) -> float:
    grams = [{text[at : at + 5] for at in range(max(len(text) - 4, 1))} for text in (text_key(one), text_key(other))]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def test_keys() -> None:
    assert text_key("Ada,  met Emmy!") == text_key("ada met emmy") != text_key("ada met emmi")
    assert text_key("?!") == "?!"  # nothing but punctuation is not nothing
    assert record_text({"tokens": ["Ada", "met"]}) == "Ada met"
    assert record_text({"text": "a", "pair": "b"}) == "a\nb"
    assert keys_of([{"text": "A b."}, {"tokens": ["a", "b"]}]) == {"a b"}


def test_near_texts_beside_all_pairs() -> None:
    draw = random.Random(0)
    words = "ada met boole in the old town near ghent and left".split()
    texts = []
    for _ in range(60):
        texts.append(" ".join(draw.choice(words) for _ in range(draw.randrange(1, 30))))
        texts.append(texts[-1] + draw.choice(("", " x", " and so on and on")))
    near, added = NearTexts(), list[str]()
    for text in texts:
        expected = all(jaccard(text, other) < 0.8 for other in added)
        assert near.add(text) == expected
        added += [text] if expected else []
    assert 60 <= len(added) < 120
