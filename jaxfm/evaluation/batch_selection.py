"""A batch of examples that differ: k-means++ seeds, and greedy k-center.

Vectors are only asked for their squared lengths and for squared distances to one of them, so that gradients that are
outer products need not be written out.
"""

# N examples, K chosen before, D numbers of a vector, C classes

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np

Accept = Callable[[int], bool]
"""Whether an example that would be chosen may be; it is asked once, right before it is taken."""
_PORTION = 1 << 24  # numbers of a block of distances


class Points(Protocol):
    """N points of a Euclidean space."""

    def __len__(self) -> int:
        """N."""
        ...

    def squared_norms(self) -> np.ndarray:
        """Returns f64 [N]."""
        ...

    def squared_distances(self, number: int) -> np.ndarray:
        """Returns the squared distance of every point to that one, f64 [N], not below 0."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """Points that are written out (implements Points).

    Attributes:
      values: f32 [N, D].
    """

    values: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.values)

    def squared_norms(self) -> np.ndarray:
        """Returns f64 [N]."""
        return np.einsum("nd,nd->n", self.values, self.values, dtype=np.float64)

    def squared_distances(self, number: int) -> np.ndarray:
        """Returns f64 [N]; from differences, as vectors that are nearly equal differ by less than products round."""
        found = np.empty(len(self.values))
        size = max(1, _PORTION // max(self.values.shape[1], 1))
        for first in range(0, len(found), size):
            difference = self.values[first : first + size].astype(np.float64) - self.values[number]
            found[first : first + size] = np.einsum("nd,nd->n", difference, difference)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class OuterProducts:
    """Points that are outer products of two vectors each (implements Points): gradients of a last layer.

    Attributes:
      left: f64 [N, C].
      right: f32 [N, D].
    """

    left: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        """N."""
        return len(self.left)

    @functools.cached_property
    def _norms(self) -> np.ndarray:
        return Vectors(self.left).squared_norms() * Vectors(self.right).squared_norms()

    def squared_norms(self) -> np.ndarray:
        """Returns f64 [N]: those of the left vector times those of the right one."""
        return self._norms

    def squared_distances(self, number: int) -> np.ndarray:
        """Returns f64 [N], by |ab - cd|² = |a|²|b|² + |c|²|d|² - 2 (a c)(b d)."""
        products = np.einsum("nd,d->n", self.right, self.right[number], dtype=np.float64)
        products *= self.left @ self.left[number]
        return np.maximum(self._norms + self._norms[number] - 2.0 * products, 0.0)


def k_means_plus_plus(
    points: Points, count: int, generator: np.random.Generator, accept: Accept = lambda number: True
) -> tuple[list[int], list[float]]:
    """Returns the numbers of `count` points, chosen one by one, and how far off each was.

    The first is the longest vector; each other one is drawn with a probability that grows with its squared distance to
    the nearest one chosen before (Arthur and Vassilvitskii 2007, as Ash et al. 2020 use it). Points that lie on chosen
    ones come last, in their order. "How far off" is the length of the first, and a distance of the others.
    """
    nearest = points.squared_norms()
    left = np.ones(len(points), bool)
    chosen: list[int] = []
    away: list[float] = []
    number = int(nearest.argmax()) if len(points) else -1
    while len(chosen) < count and left.any():
        left[number] = False
        if accept(number):
            away.append(float(np.sqrt(nearest[number])))
            chosen.append(number)
            distances = points.squared_distances(number)
            nearest = distances if len(chosen) == 1 else np.minimum(nearest, distances)
        weights = np.where(left, nearest, 0.0)
        if len(chosen) == 0:
            number = int(np.where(left, nearest, -1.0).argmax())
        elif (total := weights.sum()) > 0:
            number = int(generator.choice(len(weights), p=weights / total))
        else:
            number = int(left.argmax())
    return chosen, away


def k_center_greedy(
    points: Vectors, count: int, before: np.ndarray | None = None, accept: Accept = lambda number: True
) -> tuple[list[int], list[float]]:
    """Returns the numbers of `count` points, each the farthest from all before it, and its distance to them.

    The greedy algorithm of Sener and Savarese 2018 (core-set, algorithm 1): the greatest distance of a point to the
    chosen ones is at most twice the least possible.

    Args:
      points: to choose from.
      count: how many.
      before: f32 [K, D], points that are chosen already (labelled examples); without any the longest vector is first.
      accept: see `Accept`.
    """
    first = before is None or not len(before)
    nearest = points.squared_norms() if before is None or first else squared_to_nearest(points.values, before)
    left = np.ones(len(points), bool)
    chosen: list[int] = []
    away: list[float] = []
    while len(chosen) < count and left.any():
        number = int(np.where(left, nearest, -1.0).argmax())
        left[number] = False
        if not accept(number):
            continue
        away.append(float(np.sqrt(nearest[number])))
        distances = points.squared_distances(number)
        nearest = distances if first and not chosen else np.minimum(nearest, distances)
        chosen.append(number)
    return chosen, away


def squared_to_nearest(values_ND: np.ndarray, others_KD: np.ndarray) -> np.ndarray:
    """Returns the squared distance of each vector to the nearest of the others, f64 [N], in blocks of these."""
    values_ND, nearest = values_ND.astype(np.float64), np.full(len(values_ND), np.inf)
    norms = Vectors(values_ND).squared_norms()
    size = max(1, _PORTION // max(len(values_ND), 1))
    for first in range(0, len(others_KD), size):
        block = others_KD[first : first + size].astype(np.float64)
        found_NK = norms[:, None] + Vectors(block).squared_norms() - 2.0 * (values_ND @ block.T)
        nearest = np.minimum(nearest, found_NK.min(axis=1))
    return np.maximum(nearest, 0.0)


def greatest(scores: np.ndarray, count: int, accept: Accept = lambda number: True) -> tuple[list[int], list[float]]:
    """Returns the numbers of the `count` greatest scores, equal ones in their order, and these scores."""
    chosen: list[int] = []
    for number in np.argsort(-scores, kind="stable").tolist():
        if len(chosen) == count:
            break
        if accept(number):
            chosen.append(number)
    return chosen, [float(scores[number]) for number in chosen]
