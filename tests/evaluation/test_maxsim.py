"""Ranking by MaxSim against a loop over pairs and sentence-transformers' own."""

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.evaluation.maxsim import maxsim, rank_all

P = 5


def drawn(count: int, seed: int, longest: int = 6) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.standard_normal((draw.integers(1, longest), P)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("tokens", [1, 4, 1000])
def test_ranking_is_that_of_a_loop(tokens: int) -> None:
    queries, documents = drawn(4, 3), drawn(9, 5)
    documents[7] = documents[2]  # equal scores: the earlier document first
    ends = np.cumsum([len(each) for each in documents])
    order, scores = rank_all(queries, np.concatenate(documents), ends, 6, tokens=tokens)
    for row, query in enumerate(queries):
        wanted = np.asarray([maxsim(query, document) for document in documents])
        ranked = np.argsort(-wanted.round(5), kind="stable")[:6]
        assert order[row].tolist() == ranked.tolist()
        np.testing.assert_allclose(scores[row], wanted[ranked], rtol=1e-5)
    assert rank_all([], np.concatenate(documents), ends, 3)[0].shape == (0, 3)


def test_what_cannot_be_ranked_is_refused() -> None:
    documents = drawn(3, 1)
    vectors, ends = np.concatenate(documents), np.cumsum([len(each) for each in documents])
    with pytest.raises(UserError, match="k=4: must be from 1 to the 3 texts"):
        rank_all(drawn(1, 2), vectors, ends, 4)
    vectors[ends[0]] = np.nan
    with pytest.raises(UserError, match="text 2: is not finite"):
        rank_all(drawn(1, 2), vectors, ends, 1)
    with pytest.raises(UserError, match="query 2: "):
        rank_all([documents[0], documents[1] * np.inf], vectors, ends, 1)


def test_the_oracle_of_sentence_transformers() -> None:
    util = pytest.importorskip("sentence_transformers.util", reason="the oracle needs torch")
    query, document = drawn(2, 4, 8)
    np.testing.assert_allclose(maxsim(query, document), float(util.maxsim([query], [document])[0, 0]), rtol=1e-5)
