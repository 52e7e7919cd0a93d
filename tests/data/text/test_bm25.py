"""BM25 against its formula written out, and rankings against a sort."""

import collections
import math
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxfm.data.text.bm25 import K1, B, Bm25, words_of
from jaxfm.errors import UserError

TEXTS = st.lists(
    st.lists(st.sampled_from("the cat sat on a mat Der größte Hund".split()), max_size=8).map(" ".join),
    min_size=1,
    max_size=8,
)


def slow(query: str, texts: list[str]) -> list[float]:
    """Lucene's BM25, a word of the query after the other (a word twice counts twice)."""
    split = [words_of(text) for text in texts]
    mean = sum(map(len, split)) / len(split)
    found = []
    for words in split:
        counts, score = collections.Counter(words), 0.0
        for word in words_of(query):
            having = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - having + 0.5) / (having + 0.5))
            score += idf * counts[word] / (counts[word] + K1 * (1 - B + B * len(words) / mean))
        found.append(score)
    return found


@hypothesis.given(TEXTS, st.sampled_from(["cat", "the cat", "größte mat mat", "unknown", "", "unknown hund"]))
@hypothesis.settings(deadline=None, max_examples=60)
def test_scores_are_the_formula(texts: list[str], query: str) -> None:
    if not any(map(words_of, texts)):
        with pytest.raises(UserError, match="has a word"):
            Bm25(texts)
        return
    np.testing.assert_allclose(Bm25(texts).scores(query), slow(query, texts), rtol=1e-5, atol=1e-6)


def test_top_is_a_stable_sort() -> None:
    texts = ["a cat", "a dog", "cat", "cat", "", "the cat and the dog", "dog"]
    index = Bm25(texts)
    queries = ["cat", "dog cat", "nothing of it"]
    for k in range(1, len(texts) + 1):
        indices, scores = index.top(queries, k)
        for row, query in enumerate(queries):
            all_scores = index.scores(query)
            expected = np.argsort(-all_scores, kind="stable")[:k]
            np.testing.assert_array_equal(indices[row], expected)
            np.testing.assert_array_equal(scores[row], all_scores[expected])
    assert index.top(["cat"], 2)[0].tolist() == [[2, 3]]


def test_words() -> None:
    assert words_of("A naïve Test, don't: ÄRGER 3.5 東京") == [
        "a",
        "naïve",
        "test",
        "don",
        "t",
        "ärger",
        "3",
        "5",
        "東京",
    ]
    texts = ["the tale", "a cat"]
    assert Bm25(texts).scores("the")[0] > 0
    assert not Bm25(texts, "en").scores("the").any()


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="k=3: must be from 1 to the 2 texts"):
        Bm25(["a", "b"]).top(["a"], 3)
    with pytest.raises(UserError, match="stop_words=english: Valid choices: 'en', 'none'"):
        Bm25(["a"], "english")
    with pytest.raises(UserError, match="none of the 2 texts"):
        Bm25(["", "..."])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match=r"needs the package bm25s: pip install 'jaxfm-encoders\[retrieval\]'"):
        Bm25(["a"])
