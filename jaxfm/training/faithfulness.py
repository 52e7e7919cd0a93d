"""Whether the words that a method names are those that a model uses: what happens to a result when they are taken out.

Comprehensiveness: how much of a probability is lost without the words of the largest shares. Sufficiency: how much is
lost without all others (DeYoung et al. 2020, "ERASER", section 4.2). A word is taken out by putting the token that
means nothing in its place.
"""

# W words, R random orders

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.core.explained import PROBABILITIES, Explained
from jaxfm.training.attribution import MOST_TARGETS, Attribution, Shares, mask_of

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Of the words that are taken out, or alone are left: the mean over these is the score (ERASER's AOPC)."""


class Erased(NamedTuple):
    """Scores of a record, the mean over its targets; NaN where it has none.

    Attributes:
      comprehensiveness: the more the better.
      sufficiency: the less the better.
    """

    comprehensiveness: float
    sufficiency: float


def erase(
    attribution: Attribution,
    params: Any,
    rows: Dataset,
    explained: Sequence[Explained],
    orders: Sequence[Sequence[np.ndarray]],
) -> list[Erased]:
    """Returns the scores of each record.

    Args:
      attribution: of the model.
      params: of the model.
      rows: of the records.
      explained: of each record.
      orders: of each record, of each of its first 16 targets, its words [W] as numbers, those that should matter most
        first.
    """
    words = [list(each.words().values()) for each in explained]
    targets = [each.targets[: len(own)] for each, own in zip(explained, orders, strict=True)]
    lost: list[list[tuple[float, float]]] = [[] for _ in explained]
    for number in range(max(map(len, targets), default=0)):
        having = [record for record, each in enumerate(targets) if number < len(each)]
        flat = [targets[record][number] for record in having]
        full_K = attribution.numbers(params, rows, flat, mask_of(rows, ()), PROBABILITIES)
        of_sides = np.zeros((2, len(flat)))
        for fraction in FRACTIONS:
            chosen = {record: _first(orders[record][number], fraction) for record in having}
            for side, rest in enumerate((False, True)):
                taken = (
                    words[record][word]
                    for record in having
                    for word in range(len(words[record]))
                    if (word in chosen[record]) != rest
                )
                left_K = attribution.numbers(params, rows, flat, mask_of(rows, taken), PROBABILITIES)
                of_sides[side] += (full_K - left_K) / len(FRACTIONS)
        for record, both in zip(having, of_sides.T.tolist(), strict=True):
            lost[record].append((both[0], both[1]))
    return [Erased(*np.mean(each, axis=0).tolist()) if each else Erased(math.nan, math.nan) for each in lost]


def by_share(shares: Sequence[Shares]) -> list[np.ndarray]:
    """Returns of each target of a record its words, those that speak most for it first."""
    return [np.argsort(-each.shares, kind="stable") for each in shares]


def random_orders(explained: Explained, seed: Sequence[int]) -> list[np.ndarray]:
    """Returns of each target of a record its words in a random order; the same for the same seed."""
    generator = np.random.default_rng(list(seed))
    return [generator.permutation(len(explained.words())) for _ in explained.targets[:MOST_TARGETS]]


def _first(order_W: np.ndarray, fraction: float) -> set[int]:
    """Returns the first words of an order, one at least."""
    return set(order_W[: max(1, math.ceil(fraction * len(order_W) - 1e-9))].tolist())
