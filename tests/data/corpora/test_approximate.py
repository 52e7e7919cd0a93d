"""Candidates of the graph, with exact scores."""

import pathlib
import sys

import numpy as np
import pytest

from jaxfm.data.corpora import approximate
from jaxfm.errors import UserError
from jaxfm.evaluation.ranking import rank_all


def unit(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_most_of_exact_search_and_its_scores(tmp_path: pathlib.Path) -> None:
    corpus, queries = unit(2000, 0), unit(20, 1)
    np.save(tmp_path / "vectors.npy", corpus)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    done: list[int] = []
    approximate.build(mapped, tmp_path / "graph", done.append)
    assert sum(done) == 2000
    numbers, scores = approximate.Graph(tmp_path / "graph", mapped).rank(queries, 10)
    exact = rank_all(queries, corpus, 10)
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(numbers.tolist(), exact.indices.tolist(), strict=True)]
    assert np.mean(shared) > 0.95
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ corpus.T, numbers, axis=1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_lengths_count_where_vectors_are_not_normalised(tmp_path: pathlib.Path) -> None:
    corpus = unit(50, 0) * np.arange(1, 51, dtype=np.float32)[:, None]
    approximate.build(corpus, tmp_path / "graph")
    numbers, scores = approximate.Graph(tmp_path / "graph", corpus).rank(unit(5, 2), 50)
    exact = rank_all(unit(5, 2), corpus, 50)
    found = numbers >= 0
    assert found[:, 0].all() and np.isneginf(scores[~found]).all()
    assert (numbers[:, 0] == exact.indices[:, 0]).mean() >= 0.8


def test_what_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    approximate.build(unit(30, 0), tmp_path / "graph")
    with pytest.raises(UserError, match="is not an index over 31 vectors"):
        approximate.Graph(tmp_path / "graph", unit(31, 0))
    (tmp_path / "broken").write_bytes(b"not a graph" * 100)
    with pytest.raises(UserError, match="broken: is not an index"):
        approximate.Graph(tmp_path / "broken", unit(30, 0))
    monkeypatch.setitem(sys.modules, "usearch", None)
    with pytest.raises(UserError, match=r"--approximate needs the package usearch: pip install"):
        approximate.build(unit(3, 0), tmp_path / "none")
    assert not (tmp_path / "none").exists()
