"""MaxSim over packed rows against a loop over pairs, its gradients against finite differences, memory and meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.data.text.grouped_rows import pack_groups
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks.late_interaction.maxsim import maxsim, rank_all, similarities

GROUPS, TEXTS, LENGTH, P = 3, 3, 6, 5


@pytest.fixture(scope="module")
def packed():
    """Rows of groups of two or three texts, and vectors of length 1; one anchor is longer than LENGTH."""
    draw = np.random.default_rng(5)
    groups = [
        [np.full(draw.integers(1, 5), 7, np.int32) for _ in range(count)] for count in (3, 2, 3, 3, 2, 3, 3, 3, 2, 3, 2)
    ]
    groups[4][0] = np.full(8, 7, np.int32)
    ids = [[10 * number + place for place in range(len(group))] for number, group in enumerate(groups)]
    rows = pack_groups(groups, ids, row_length=24, texts=TEXTS, groups_per_row=GROUPS, pad_id=0, seed=1)
    assert len(rows) >= 4
    rows = rows.take(np.arange(4))
    vectors = draw.standard_normal((4, 24, P)).astype(np.float32)
    return rows, vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow(vectors, rows) -> np.ndarray:
    """One pair of texts after the other."""
    segments = rows["segment_ids"]
    texts = {}
    for row in range(len(segments)):
        for group in range(GROUPS):
            for text in range(TEXTS):
                texts[row * GROUPS + group, text] = vectors[row][segments[row] == group * TEXTS + text + 1]
    count = len(segments) * GROUPS
    found = np.zeros((count, count, TEXTS - 1))
    for one in range(count):
        for other in range(count):
            for text in range(1, TEXTS):
                query, document = texts[one, 0][:LENGTH], texts[other, text]
                if len(query) and len(document):
                    found[one, other, text - 1] = sum(max(token @ each for each in document) for token in query)
    return found


def fast(vectors, rows):
    return similarities(
        vectors, jnp.asarray(rows["segment_ids"]), groups=GROUPS, texts=TEXTS, query_length=LENGTH
    )  # fmt: skip


def test_it_is_that_of_a_loop_over_pairs(packed):
    rows, vectors = packed
    wanted = slow(vectors, rows)
    assert (rows["texts"] < 0).any() and (wanted == 0).any() and (wanted != 0).any()
    np.testing.assert_allclose(jax.jit(lambda vectors: fast(vectors, rows))(vectors), wanted, atol=1e-6)


def test_gradients_are_finite_differences(packed):
    rows, vectors = packed
    weights = np.random.default_rng(2).standard_normal(slow(vectors, rows).shape)

    def total(vectors):
        return jnp.sum(fast(vectors, rows) * weights)

    found = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(vectors)), np.float64)
    exact, step = vectors.astype(np.float64), 1e-6
    for row, token, number in ((0, 0, 0), (0, 3, 1), (1, 7, 2), (2, 11, 3), (3, 5, 4), (1, 1, 0)):
        ends = []
        for sign in (1, -1):
            moved = exact.copy()
            moved[row, token, number] += sign * step
            ends.append(float(np.sum(slow(moved, rows) * weights)))
        np.testing.assert_allclose(found[row, token, number], (ends[0] - ends[1]) / (2 * step), atol=2e-5)
    assert np.count_nonzero(found) and not found[rows["segment_ids"] == 0].any(), "padding has no gradient"


def test_a_mesh_of_four_devices_gives_the_same(packed):
    rows, vectors = packed
    mesh = make_mesh(MeshConfig(data=4))
    with jax.set_mesh(mesh):
        found = jax.jit(lambda vectors: fast(vectors, rows))(vectors)
    np.testing.assert_allclose(found, slow(vectors, rows), atol=1e-6)


def test_ranking_is_by_maxsim():
    draw = np.random.default_rng(3)
    queries, documents = (
        [draw.standard_normal((draw.integers(1, 6), P)).astype(np.float32) for _ in range(count)] for count in (4, 9)
    )
    order, scores = rank_all(queries, documents, 5, chunk=4)
    for row, query in enumerate(queries):
        wanted = np.asarray([maxsim(query, document) for document in documents])
        assert order[row].tolist() == np.argsort(-wanted)[:5].tolist()
        np.testing.assert_allclose(scores[row], np.sort(wanted)[::-1][:5], rtol=1e-5)


def test_the_oracle_of_sentence_transformers(packed):
    util = pytest.importorskip("sentence_transformers.util", reason="the oracle needs torch")
    draw = np.random.default_rng(4)
    query, document = draw.standard_normal((4, P)).astype(np.float32), draw.standard_normal((7, P)).astype(np.float32)
    theirs = float(util.maxsim([query], [document])[0, 0])
    np.testing.assert_allclose(maxsim(query, document), theirs, rtol=1e-5)
