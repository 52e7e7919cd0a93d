"""Stores of the past: a reservoir is uniform over all that it has seen; herding beside brute force."""

import itertools

import numpy as np
import pytest

from jaxfm.data.records.exemplars import herding, reservoir


def test_every_item_of_a_stream_is_kept_equally_often() -> None:
    size, parts = 5, (range(8), range(8, 11), range(11, 30))
    counts = np.zeros(30)
    rounds = 3000
    for seed in range(rounds):
        kept: list[int] = []
        for number, part in enumerate(parts):  # three stages, each with a seed of its own
            kept = reservoir(kept, part.start, part, size, (seed, number))
        assert len(set(kept)) == size
        counts[kept] += 1
    expected = rounds * size / 30
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert chi_squared < 58.3  # 0.1 % of draws of 29 degrees of freedom are above; the seeds are fixed
    assert counts[:8].sum() == pytest.approx(8 * expected, rel=0.05)


def test_a_store_that_is_not_full_keeps_everything() -> None:
    assert reservoir([], 0, "abc", 5, (0, 0)) == ["a", "b", "c"]
    assert reservoir(["a", "b"], 2, "cd", 4, (0, 1)) == ["a", "b", "c", "d"]
    one = reservoir([], 0, range(100), 10, (3, 0))
    assert one == reservoir([], 0, range(100), 10, (3, 0)) != reservoir([], 0, range(100), 10, (4, 0))
    assert one != list(range(10))


@pytest.mark.parametrize("seed", range(3))
def test_herding_takes_the_best_next_example(seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((7, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean, chosen = unit.mean(axis=0), list[int]()
    for _ in range(5):
        free = [number for number in range(7) if number not in chosen]
        distances = [np.linalg.norm(mean - unit[[*chosen, number]].mean(axis=0)) for number in free]
        chosen.append(free[int(np.argmin(distances))])
    assert herding(vectors, 5) == chosen
    assert herding(vectors, 3) == chosen[:3]
    assert sorted(herding(vectors, 50)) == list(range(7))
    nearest = min(itertools.combinations(range(7), 1), key=lambda each: float(np.linalg.norm(mean - unit[list(each)])))
    assert tuple(herding(vectors, 1)) == nearest


def test_vectors_of_any_length_count_alike() -> None:
    vectors = np.random.default_rng(0).standard_normal((6, 4))
    assert herding(vectors, 4) == herding(vectors * np.asarray([[1], [9], [0.1], [3], [50], [1]]), 4)
    assert herding(np.zeros((3, 2)), 2) == [0, 1]
