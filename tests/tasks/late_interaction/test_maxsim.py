"""MaxSim over packed rows against a loop over pairs, its gradients against finite differences, and meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.data.text.grouped_rows import pack_groups
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks.late_interaction.maxsim import similarities

GROUPS, TEXTS, LENGTH, P = 3, 3, 6, 5
SKIPPED = 9  # of documents


@pytest.fixture(scope="module")
def packed():
    """Rows of groups of two or three texts, and vectors of length 1; one anchor is longer than LENGTH."""
    draw = np.random.default_rng(5)
    groups = [
        [draw.integers(6, 10, draw.integers(1, 5)).astype(np.int32) for _ in range(count)]
        for count in (3, 2, 3, 3, 2, 3, 3, 3, 2, 3, 2)
    ]
    groups[4][0] = np.full(8, 7, np.int32)
    ids = [[10 * number + place for place in range(len(group))] for number, group in enumerate(groups)]
    rows = pack_groups(groups, ids, row_length=24, texts=TEXTS, groups_per_row=GROUPS, pad_id=0, seed=1)
    assert len(rows) >= 4
    rows = rows.take(np.arange(4))
    # Tokens that no other sees are of negative segments, and compared like all others.
    rows["segment_ids"] = np.where((rows["positions"] == 1) & (rows["tokens"] == 7), -1, 1) * rows["segment_ids"]
    vectors = draw.standard_normal((4, 24, P)).astype(np.float32)
    return rows, vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow(vectors, rows) -> np.ndarray:
    """One pair of texts after the other."""
    segments = np.abs(rows["segment_ids"])
    texts = {}
    for row in range(len(segments)):
        for group in range(GROUPS):
            for text in range(TEXTS):
                own = segments[row] == group * TEXTS + text + 1
                texts[row * GROUPS + group, text] = vectors[row][own & ((text == 0) | (rows["tokens"][row] != SKIPPED))]
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
    segment_ids, compared = jnp.asarray(rows["segment_ids"]), jnp.asarray(rows["tokens"] != SKIPPED)
    return similarities(vectors, segment_ids, compared, groups=GROUPS, texts=TEXTS, query_length=LENGTH)


def test_it_is_that_of_a_loop_over_pairs(packed):
    rows, vectors = packed
    wanted = slow(vectors, rows)
    assert (rows["texts"] < 0).any() and (wanted == 0).any() and (wanted != 0).any()
    assert (rows["segment_ids"] < 0).any() and (rows["tokens"] == SKIPPED).any()
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
