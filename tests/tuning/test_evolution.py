"""Evolution over subnets: within the limits, each once, better than chance, and the same when it goes on."""

import numpy as np
import pytest

from jaxfm.models.subnets import Subnet, SubnetSpace
from jaxfm.tuning.evolution import Evolution, best_of, search

SPACE = SubnetSpace(tuple(range(1, 13)), tuple(range(1, 9)), tuple(range(64, 1025, 64)))
ALLOWED = [each for each in SPACE if each.depth * (each.heads + each.ffn_size / 64) <= 120]


def quality(subnet: Subnet) -> float:
    return -((subnet.depth - 7) ** 2 + 2 * (subnet.heads - 6) ** 2 + ((subnet.ffn_size - 512) / 64) ** 2)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_more_than_chance_does_and_scores_no_subnet_twice(seed: int) -> None:
    asked: list[Subnet] = []

    def score(subnet: Subnet) -> float:
        asked.append(subnet)
        return quality(subnet)

    found = search(SPACE, ALLOWED, score, Evolution(trials=96, seed=seed))
    assert asked == list(found) and len(set(asked)) == 96 and set(asked) <= set(ALLOWED)
    assert found == search(SPACE, ALLOWED, quality, Evolution(trials=96, seed=seed))
    assert found != search(SPACE, ALLOWED, quality, Evolution(trials=96, seed=seed + 2))
    draw = np.random.default_rng(0)
    by_chance = [
        max(quality(ALLOWED[number]) for number in draw.choice(len(ALLOWED), 96, replace=False)) for _ in range(50)
    ]
    assert max(found.values()) > np.median(by_chance)


def test_few_subnets_are_all_scored() -> None:
    few = ALLOWED[5:40]
    assert list(search(SPACE, few, quality, Evolution(trials=35))) == few
    left = search(SPACE, few, quality, Evolution(trials=34, population=8))
    assert len(left) == 34 and set(left) < set(few)
    assert len(search(SPACE, few, lambda _: float("nan"), Evolution(trials=20, population=4))) == 20


def test_of_equal_scores_the_cheapest_wins() -> None:
    scores = {Subnet(2, 2, 64): 0.5, Subnet(1, 2, 64): 0.5, Subnet(3, 2, 64): float("nan"), Subnet(4, 1, 64): 0.25}
    assert best_of(scores, lambda each: each.depth) == (1, 2, 64)
    assert best_of(scores, lambda each: -each.depth) == (2, 2, 64)
