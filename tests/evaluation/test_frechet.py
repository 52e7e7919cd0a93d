"""The Fréchet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest

from jaxfm.evaluation.frechet import frechet_distance


def vectors(seed: int, count: int, features: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(count, features)) @ draw.normal(size=(features, features)) + draw.normal(size=features)


def test_it_is_that_of_scipys_matrix_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    for seed, count in ((0, 40), (1, 4)):  # four vectors of five features: covariances without an inverse
        one, other = vectors(seed, count, 5), vectors(seed + 10, count + 3, 5)
        first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
        # Of the root of the product only the trace is wanted, which a jitter of the singular one does not move far.
        root = linalg.sqrtm((first + 1e-10 * np.eye(5)) @ (second + 1e-10 * np.eye(5))).real
        apart = np.square(one.mean(axis=0) - other.mean(axis=0)).sum()
        wanted = apart + np.trace(first + second - 2 * root)
        assert frechet_distance(one, other) == pytest.approx(wanted, rel=1e-4)


def test_closed_forms() -> None:
    one = vectors(0, 50, 3)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(one, one + np.asarray([3.0, 0.0, 4.0])) == pytest.approx(25.0)
    # Twice the deviations about the same mean: the sum of (2 s - s)^2 of independent directions is the trace.
    middle = one.mean(axis=0)
    wider = middle + 2 * (one - middle)
    assert frechet_distance(one, wider) == pytest.approx(np.trace(np.cov(one, rowvar=False)))
    # Independent features: differences of means and of deviations alone.
    signs = np.asarray([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    first, second = signs * [1, 2], signs * [5, 1]
    wanted = ((5 - 1) ** 2 + (2 - 1) ** 2) * 4 / 3
    assert frechet_distance(first, second) == pytest.approx(wanted)
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first))


def test_fewer_than_two_vectors_have_none() -> None:
    assert np.isnan(frechet_distance(np.zeros((1, 2)), np.zeros((5, 2))))
