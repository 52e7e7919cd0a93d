"""Which examples of the past are kept, where only so many can be: a reservoir, or those nearest to a mean."""

# N examples, D features

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def reservoir(kept: Sequence[T], seen: int, new: Sequence[T], size: int, seed: Sequence[int]) -> list[T]:
    """Returns what is kept of a stream after its next items: each item of it so far with the same probability.

    Algorithm R (Vitter 1985): item n of the stream, from 1, takes a place with probability size / n.

    Args:
      kept: what was kept before.
      seen: items of the stream before.
      new: the next items, in order.
      size: of the store.
      seed: of the draws of this call.
    """
    assert len(kept) == min(seen, size)
    draw, found = np.random.default_rng(list(seed)), list(kept)
    for number, item in enumerate(new, start=seen + 1):
        if len(found) < size:
            found.append(item)
        elif (place := int(draw.integers(number))) < size:
            found[place] = item
    return found


def herding(vectors_ND: np.ndarray, count: int) -> list[int]:
    """Returns the numbers of the examples whose running mean stays nearest to the mean of all, the first ones first.

    iCaRL (Rebuffi et al. 2017, arXiv 1611.07725), algorithm 4, of vectors of length 1; of equal ones the first. Any
    first part of the result is what a smaller `count` gives.
    """
    vectors_ND = np.asarray(vectors_ND, np.float64)
    vectors_ND = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
    mean_D, sum_D = vectors_ND.mean(axis=0), np.zeros(vectors_ND.shape[1])
    free, chosen = np.ones(len(vectors_ND), bool), list[int]()
    for number in range(1, min(count, len(vectors_ND)) + 1):
        distances_N = np.linalg.norm(mean_D - (sum_D + vectors_ND) / number, axis=1)
        chosen.append(int(np.argmin(np.where(free, distances_N, np.inf))))
        free[chosen[-1]] = False
        sum_D += vectors_ND[chosen[-1]]
    return chosen
