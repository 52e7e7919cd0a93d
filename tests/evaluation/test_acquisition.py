"""Acquisition functions beside loops over classes, closed forms and known orders."""

import math

import numpy as np
import pytest

from jaxfm.evaluation import acquisition, ensembles


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), size=shape[:-1])


def test_scores_of_one_model_beside_loops() -> None:
    probabilities = drawn(40, 5)
    for number, row in enumerate(probabilities.tolist()):
        first, second, *_ = sorted(row, reverse=True)
        expected = {
            "entropy": -sum(p * math.log(p) for p in row),
            "margin": 1 - (first - second),
            "least_confidence": 1 - first,
            "mnlp": -math.log(first),
        }
        found = {name: function(probabilities)[number] for name, function in acquisition.ONE_MODEL.items()}
        assert found == pytest.approx(expected, rel=1e-12)


def test_what_is_sure_and_what_is_not() -> None:
    sure, even = np.asarray([[1.0, 0.0, 0.0]]), np.full((1, 3), 1 / 3)
    for name, function in acquisition.ONE_MODEL.items():
        assert function(sure)[0] == 0.0, name
        assert function(even)[0] > function(drawn(1, 3))[0], name
    assert acquisition.entropy(even)[0] == pytest.approx(math.log(3))
    assert acquisition.margin(even)[0] == 1.0


def test_labels_are_units_of_two_classes() -> None:
    rates = np.asarray([[0.2, 0.5, 0.9]])
    units = acquisition.as_classes(rates, "sigmoid")
    np.testing.assert_allclose(units, [[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    assert acquisition.as_classes(rates, "softmax") is not None
    binary = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in rates[0]]
    assert acquisition.over_units(acquisition.entropy(units), "mean") == pytest.approx(sum(binary) / 3)
    assert acquisition.over_units(acquisition.entropy(units), "max") == pytest.approx(math.log(2))
    assert acquisition.over_units(np.zeros(0), "max") == 0.0


def test_mutual_information_is_that_of_ensembles_and_of_votes() -> None:
    members = drawn(4, 30, 3, seed=1)
    found = acquisition.mutual_information(members)
    expected = ensembles.disagreement(list(np.log(members)), "single")["mutual_information"]
    assert found.mean() == pytest.approx(expected, rel=1e-9)
    assert acquisition.mutual_information(np.repeat(members[:1], 3, axis=0)) == pytest.approx(0.0, abs=1e-12)
    opposite = np.stack([np.eye(2)[[0]], np.eye(2)[[1]]])  # sure of the opposite: all is disagreement
    assert acquisition.mutual_information(opposite)[0] == pytest.approx(math.log(2))
    votes = np.stack([np.eye(3)[[each]] for each in (0, 0, 1, 2)])
    assert acquisition.vote_entropy(votes)[0] == pytest.approx(1.5 * math.log(2))
    assert acquisition.vote_entropy(drawn(1, 5, 3))[0] == 0.0


def test_residuals_and_mean_gradients_beside_loops() -> None:
    probabilities, features = drawn(6, 4, seed=2), np.random.default_rng(3).normal(size=(6, 5)).astype(np.float32)
    residuals = acquisition.residuals(probabilities, "softmax")
    expected = np.zeros((4, 5))
    for row, feature in zip(probabilities, features, strict=True):
        for each, value in enumerate(row):
            expected[each] += (value - (each == row.argmax())) * feature / 6
    np.testing.assert_allclose(acquisition.mean_gradient(residuals, features), expected.reshape(-1), atol=1e-6)
    np.testing.assert_allclose(acquisition.residuals(np.asarray([[0.4, 0.7]]), "sigmoid"), [[0.4, -0.3]])
