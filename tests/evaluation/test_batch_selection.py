"""Batches of points beside brute force: distances, k-means++ seeds, greedy k-center and its bound."""

import itertools

import numpy as np
import pytest

from jaxfm.evaluation.batch_selection import (
    OuterProducts,
    Vectors,
    greatest,
    k_center_greedy,
    k_means_plus_plus,
    squared_to_nearest,
)


def drawn(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_outer_products_are_as_if_written_out() -> None:
    left, right = drawn(30, 4, 1).astype(np.float64), drawn(30, 7, 2)
    plain = Vectors(np.einsum("nc,nd->ncd", left, right).reshape(30, -1))
    product = OuterProducts(left, right)
    assert len(product) == len(plain) == 30
    np.testing.assert_allclose(product.squared_norms(), plain.squared_norms(), rtol=1e-5)
    for number in range(30):
        np.testing.assert_allclose(
            product.squared_distances(number), plain.squared_distances(number), rtol=1e-4, atol=1e-4
        )


def test_nearest_of_others_beside_all_pairs() -> None:
    values, others = drawn(20, 3), drawn(50, 3, 1)
    expected = ((values[:, None] - others) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(squared_to_nearest(values, others), expected, rtol=1e-5, atol=1e-6)


def test_seeds_are_the_same_for_a_seed_and_begin_with_the_longest() -> None:
    values = drawn(60, 5)
    chosen, away = k_means_plus_plus(Vectors(values), 10, np.random.default_rng(3))
    again, _ = k_means_plus_plus(Vectors(values), 10, np.random.default_rng(3))
    other, _ = k_means_plus_plus(Vectors(values), 10, np.random.default_rng(4))
    assert chosen == again != other and len(set(chosen)) == 10
    lengths = np.linalg.norm(values, axis=1)
    assert chosen[0] == lengths.argmax() and away[0] == pytest.approx(lengths.max(), rel=1e-6)
    for place in range(1, 10):  # each is as far from those before it as it says
        distances = np.linalg.norm(values[chosen[:place]] - values[chosen[place]], axis=1)
        assert away[place] == pytest.approx(distances.min(), rel=1e-5)


def test_seeds_are_drawn_by_squared_distance() -> None:
    values = np.asarray([[10.0], [9.0], [8.0], [6.0]], np.float32)  # squared distances to the first: 1, 4, 16
    counts = np.zeros(4)
    for seed in range(2000):
        chosen, _ = k_means_plus_plus(Vectors(values), 2, np.random.default_rng(seed))
        counts[chosen[1]] += 1
    np.testing.assert_allclose(counts / 2000, [0, 1 / 21, 4 / 21, 16 / 21], atol=0.03)


def test_equal_points_come_last_and_refused_ones_never() -> None:
    values = np.asarray([[1.0], [1.0], [1.0], [0.0]], np.float32)
    chosen, away = k_means_plus_plus(Vectors(values), 9, np.random.default_rng(0))
    assert chosen == [0, 3, 1, 2] and away == [1.0, 1.0, 0.0, 0.0]
    refused, _ = k_means_plus_plus(Vectors(values), 9, np.random.default_rng(0), lambda number: number not in (0, 2))
    assert refused == [1, 3]
    assert k_means_plus_plus(Vectors(np.zeros((0, 2), np.float32)), 3, np.random.default_rng(0)) == ([], [])


def test_k_center_is_greedy_and_within_twice_the_best() -> None:
    values, before = drawn(14, 2), drawn(3, 2, 1)
    chosen, away = k_center_greedy(Vectors(values), 4, before)
    known = list(before)
    for number, distance in zip(chosen, away, strict=True):
        all_nearest = np.linalg.norm(values[:, None] - np.asarray(known), axis=-1).min(1)
        assert number == all_nearest.argmax() and distance == pytest.approx(all_nearest.max(), rel=1e-5)
        known.append(values[number])

    def radius(centers: np.ndarray) -> float:
        return float(np.linalg.norm(values[:, None] - centers, axis=-1).min(1).max())

    best = min(radius(np.concatenate([before, values[list(some)]])) for some in itertools.combinations(range(14), 4))
    assert radius(np.concatenate([before, values[chosen]])) <= 2 * best + 1e-6
    alone, _ = k_center_greedy(Vectors(values), 3)
    assert alone[0] == np.linalg.norm(values, axis=1).argmax()
    assert alone[1] == np.linalg.norm(values - values[alone[0]], axis=1).argmax()
    without, _ = k_center_greedy(Vectors(values), 2, before, lambda number: number != chosen[0])
    assert chosen[0] not in without


def test_the_greatest_in_order() -> None:
    scores = np.asarray([1.0, 3.0, 3.0, 2.0])
    assert greatest(scores, 3) == ([1, 2, 3], [3.0, 3.0, 2.0])
    assert greatest(scores, 2, lambda number: number != 1) == ([2, 3], [3.0, 2.0])
