"""Vectors of records: sums over the tokens of each segment, and means over the parts of a record."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.core.records import EncodedRecords
from jaxfm.programs.stress_domain import record_vectors, segment_sums


def test_the_vector_of_a_record_is_the_mean_over_its_parts() -> None:
    generator = np.random.default_rng(0)
    x_BTD = generator.standard_normal((2, 6, 3)).astype(np.float32)
    segments = np.asarray([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
    taken = np.ones((2, 6), bool)
    sums, counts = segment_sums(jnp.asarray(x_BTD), jnp.asarray(segments), jnp.asarray(taken), 2)
    assert counts.tolist() == [[2, 3], [4, 0]]
    # Record 0 is a window of two tokens and one of four, record 1 the other segment of the first row.
    places = np.asarray([[0, 0, 0], [0, 1, 0], [1, 0, 1]])
    outputs = {"stress_sums": np.asarray(sums), "stress_tokens": np.asarray(counts)}
    found = record_vectors(EncodedRecords(None, places), outputs, 2)  # type: ignore[arg-type]
    assert found[0] == pytest.approx(np.concatenate([x_BTD[0, :2], x_BTD[1, :4]]).mean(axis=0), abs=1e-6)
    assert found[1] == pytest.approx(x_BTD[0, 2:5].mean(axis=0), abs=1e-6)
    first = np.zeros((2, 6), bool)
    first[:, 0] = first[0, 2] = True
    sums, counts = segment_sums(jnp.asarray(x_BTD), jnp.asarray(segments), jnp.asarray(first), 2)
    assert counts.tolist() == [[1, 1], [1, 0]] and np.asarray(sums)[0, 1] == pytest.approx(x_BTD[0, 2])
