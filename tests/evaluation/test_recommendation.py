"""Rankings of a catalogue and their scores against slow versions."""

import math

import numpy as np
import pytest

from jaxfm.evaluation.recommendation import Ranked, baselines, list_scores, rank_scores, rank_units, recommendation_data


def slow_rank(scores: list[float], gold: int, seen: list[int]) -> float:
    """The mean place of the target over all orders of items of equal scores."""
    allowed = [item for item in range(len(scores)) if item not in seen or item == gold]
    higher = sum(scores[item] > scores[gold] for item in allowed)
    equal = sum(scores[item] == scores[gold] for item in allowed if item != gold)
    return 1 + higher + equal / 2


def test_ranks_are_those_of_a_slow_version() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (30, 7)).astype(np.float64)  # many are equal
    gold = rng.integers(-1, 7, 30)
    seen = [rng.permutation(7)[: rng.integers(0, 6)] for _ in range(30)]
    found = rank_scores(scores, gold, seen, 3)
    for row in range(30):
        wanted = slow_rank(scores[row].tolist(), gold[row], seen[row].tolist()) if gold[row] >= 0 else math.inf
        assert found.rank[row] == wanted
        allowed = sorted((item for item in range(7) if item not in seen[row]), key=lambda i: (-scores[row, i], i))
        assert found.items[row].tolist() == ([*allowed, -1, -1, -1])[:3]


def test_a_model_that_tells_nothing_apart_gains_nothing() -> None:
    found = rank_scores(np.zeros((1, 101)), np.asarray([0]), [np.zeros(0, int)])
    assert found.rank.tolist() == [51.0]


def test_scores_are_those_of_their_definitions() -> None:
    units = rank_units(np.asarray([1.0, 3.0, 10.5, math.inf]))
    assert units["recall@1"].tolist() == [1, 0, 0, 0] and units["recall@10"].tolist() == [1, 1, 0, 0]
    assert units["ndcg@10"].tolist() == [1.0, 0.5, 0.0, 0.0]
    assert units["mrr"].tolist() == [1.0, 1 / 3, 1 / 10.5, 0.0]
    data = recommendation_data(Ranked(np.asarray([1.0, 3.0]), np.zeros((2, 1), np.int32)), ["a", "b"])
    assert data.metrics(np.asarray([0, 1, 1]))["ndcg@10"] == pytest.approx(2 / 3)


def test_lists_are_compared_with_what_users_take() -> None:
    counts = np.asarray([8, 4, 0, 0])
    found = list_scores(np.asarray([[0, 1], [0, -1]]), counts, np.asarray([1, -1]))
    assert found == {"coverage@10": 0.5, "popularity@10": pytest.approx((8 + 4 + 8) / 3 / 4)}


def test_rankings_without_training_are_those_of_slow_versions() -> None:
    rng = np.random.default_rng(1)
    training = [rng.integers(0, 6, length).astype(np.int32) for length in (5, 1, 4, 6, 3)]
    histories = [taken[-2:] for taken in training]
    gold = np.asarray([0, 1, 2, 3, 4])
    nothing = [np.zeros(0, np.int32)] * 5
    found = baselines(training, 6, histories, gold, nothing)
    flat = np.concatenate(training).tolist()
    popular = [flat.count(item) / (max(flat.count(each) for each in range(6)) + 1) for item in range(6)]
    takers = [{user for user, taken in enumerate(training) if item in taken} for item in range(6)]

    def similar(a: int, b: int) -> float:
        both = math.sqrt(len(takers[a]) * len(takers[b]))
        return len(takers[a] & takers[b]) / both if both and a != b else 0.0

    def followed(before: int, after: int) -> int:
        return sum((a, b) == (before, after) for taken in training for a, b in zip(taken[:-1], taken[1:], strict=True))

    for user, taken in enumerate(histories):
        wanted = {
            "popularity": popular,
            "last item's followers": [followed(taken[-1], item) + popular[item] for item in range(6)],
            "item-kNN": [sum(similar(own, item) for own in taken) + 1e-9 * popular[item] for item in range(6)],
        }
        for name, scores in wanted.items():
            assert found[name].rank[user] == slow_rank(np.round(scores, 12).tolist(), gold[user], []), name
