"""Evolution over the subnets of a supernet: the best of a population are changed and crossed (arXiv 1908.09791, B.1).

Deterministic: the same space, scores and seed ask for the same subnets in the same order, so that a search whose scores
are kept goes on where it was stopped.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxfm.models.subnets import Subnet, SubnetSpace

_MOST_TRIES = 1000  # draws of one child; then the rest of the population is drawn anew


@dataclasses.dataclass(frozen=True)
class Evolution:
    """How subnets are looked for.

    Attributes:
      trials: subnets that are scored in all.
      population: subnets of a generation.
      parents: share of the best of all so far that the next generation comes from.
      mutation: probability that a size of a child is drawn anew.
      seed: of all draws.
    """

    trials: int = 64
    population: int = 16
    parents: float = 0.25
    mutation: float = 0.3
    seed: int = 0


def search(
    space: SubnetSpace, allowed: Sequence[Subnet], score: Callable[[Subnet], float], settings: Evolution
) -> dict[Subnet, float]:
    """Scores subnets until there are enough, and returns the score of each, the higher the better, in their order.

    Where no more are allowed than may be scored, all of them are. NaN counts as the worst of scores.

    Args:
      space: whose sizes are combined.
      allowed: the subnets within the limits, at least one.
      score: of a subnet.
      settings: how many, and how.
    """
    draw, permitted = np.random.default_rng(settings.seed), set(allowed)
    if len(allowed) <= settings.trials:
        return {subnet: score(subnet) for subnet in allowed}
    scores: dict[Subnet, float] = {}

    def ask(subnet: Subnet) -> None:
        scores[subnet] = score(subnet)

    first = draw.permutation(len(allowed))[: min(settings.population, settings.trials)]
    for number in first:
        ask(allowed[int(number)])
    while len(scores) < settings.trials:
        ranked = sorted(scores, key=lambda each: (math.isnan(scores[each]), -scores[each], each))
        best = ranked[: max(2, round(settings.parents * settings.population))]
        for count in range(min(settings.population, settings.trials - len(scores))):
            ask(
                _child(draw, space, best, permitted - scores.keys(), crosses=count % 2 == 1, mutation=settings.mutation)
            )
    return scores


def _child(
    draw: np.random.Generator,
    space: SubnetSpace,
    parents: Sequence[Subnet],
    left: set[Subnet],
    *,
    crosses: bool,
    mutation: float,
) -> Subnet:
    """Returns a subnet that is not scored yet: one parent changed, or two crossed and changed."""
    for _ in range(_MOST_TRIES):
        chosen = [parents[int(draw.integers(len(parents)))] for _ in range(2)]
        sizes = []
        for number, axis in enumerate(space.axes):
            size = chosen[int(draw.integers(2)) if crosses else 0][number]
            sizes.append(int(axis[int(draw.integers(len(axis)))]) if draw.random() < mutation else size)
        child = Subnet(*sizes)
        if child in left:
            return child
    return sorted(left)[int(draw.integers(len(left)))]


def best_of(scores: dict[Subnet, float], cost: Callable[[Subnet], float]) -> Subnet:
    """Returns the subnet with the highest score, of equal ones the cheapest."""
    return min(scores, key=lambda each: (math.isnan(scores[each]), -scores[each], cost(each), each))
