"""Whether two samples of records are alike: distances between 0 and 1, tested by permuting whole records.

Where both samples are drawn from one distribution it does not matter which record is in which, so that a statistic is
as large as observed in a share p of the ways to divide all records anew into parts of the same sizes. That holds for
samples of any size, however the records are counted, and whatever the sizes of the two. The p-value counts the division
that was observed (Phipson & Smyth 2010), and so is never 0.

What a statistic is by chance depends on the sizes too: two halves of one set of texts do not have the same words.
`PermutationTest.beyond` is the distance less that.
"""

# N records of both samples, M of them new, R rounds, K things that are counted (words, pieces, classes), D numbers

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxfm.evaluation.out_of_domain import Gaussians

ROUNDS = 2000
_CELLS = 4_000_000  # numbers at a time: 32 MB
_TIED = 1e-12

Statistic = Callable[[np.ndarray], np.ndarray]
"""Divisions f64 [R, N], 1 where a record is new and 0 elsewhere -> the statistic [R] of each."""


@dataclasses.dataclass(frozen=True)
class PermutationTest:
    """A statistic with its permutation test.

    Attributes:
      value: of the samples as they are.
      null: [R] of the divisions that were drawn.
      squared: whether both are squares of a distance.
    """

    value: float
    null: np.ndarray
    squared: bool = False

    @property
    def p(self) -> float:
        """How often a division gives at least as much, the observed one counted."""
        return (1 + int((self.null >= self.value - _TIED).sum())) / (1 + len(self.null))

    @property
    def distance(self) -> float:
        """The observed distance."""
        return self._distance(self.value)

    @property
    def chance(self) -> float:
        """The distance that divisions have on average: of squares the root of their mean."""
        return self._distance(float(self.null.mean()))

    @property
    def beyond(self) -> float:
        """The distance less what it is by chance; 0 where that is more. Squares are subtracted as such."""
        return self._distance(self.value - float(self.null.mean())) if self.squared else self._beyond()

    def quantile(self, share: float) -> float:
        """Returns the distance below which this share of the divisions is."""
        return self._distance(float(np.quantile(self.null, share)))

    def _beyond(self) -> float:
        return max(0.0, self.value - float(self.null.mean()))

    def _distance(self, value: float) -> float:
        return math.sqrt(max(0.0, value)) if self.squared else value


def permutation_test(
    statistic: Statistic, is_new_N: np.ndarray, *, rounds: int = ROUNDS, seed: int = 0, squared: bool = False
) -> PermutationTest:
    """Tests whether records are exchangeable between the two samples; large values of the statistic say that not."""
    observed = float(statistic(is_new_N.astype(np.float64)[None])[0])
    drawn = [statistic(divisions) for divisions in _divisions(is_new_N, rounds, seed)]
    return PermutationTest(observed, np.concatenate(drawn), squared)


def _divisions(is_new_N: np.ndarray, rounds: int, seed: int) -> Iterator[np.ndarray]:
    generator, size = np.random.default_rng(seed), max(1, _CELLS // max(len(is_new_N), 1))
    for first in range(0, rounds, size):
        repeated = np.repeat(is_new_N.astype(np.float64)[None], min(size, rounds - first), axis=0)
        yield generator.permuted(repeated, axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class JensenShannon:
    """The square of the Jensen-Shannon distance, base 2, of how often K things occur in the two samples.

    Attributes:
      counts: sparse [N, K] of each record.
    """

    counts: Any

    def __call__(self, divisions_RN: np.ndarray) -> np.ndarray:
        """Returns the divergences [R]: 0 for equal shares, 1 where the samples have nothing in common."""
        total_K = np.asarray(self.counts.sum(axis=0), np.float64).reshape(-1)
        found, size = [], max(1, _CELLS // max(len(total_K), 1))
        for first in range(0, len(divisions_RN), size):
            new_RK = (self.counts.T @ divisions_RN[first : first + size].T).T
            found.append(divergence(total_K - new_RK, new_RK))
        return np.concatenate(found)


def divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the Jensen-Shannon divergence in bits of counts [..., K]; 0 where one of the two has none at all."""
    return contributions(a, b).sum(axis=-1)


def contributions(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns what each thing adds to the Jensen-Shannon divergence, at least 0, in bits [..., K] (Lin 1991)."""
    sizes = [each.sum(axis=-1, keepdims=True) for each in (a, b)]
    p, q = (each / np.maximum(size, _TIED) for each, size in zip((a, b), sizes, strict=True))
    mean = (p + q) / 2
    safe = np.where(mean > 0, mean, 1.0)
    parts = [each * np.log2(np.where(each > 0, each / safe, 1.0)) for each in (p, q)]
    known = (sizes[0] > 0) & (sizes[1] > 0)
    return np.where(known, np.maximum((parts[0] + parts[1]) / 2, 0.0), 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class UnknownShare:
    """The share of what new records count that no reference record has: of words, those that are new.

    Attributes:
      counts: sparse [N, K] of each record.
    """

    counts: Any

    def __call__(self, divisions_RN: np.ndarray) -> np.ndarray:
        """Returns the shares [R]; 0 where the new records have nothing."""
        has = (self.counts > 0).astype(np.float64)
        records_K = np.asarray(has.sum(axis=0)).reshape(-1)
        found, size = [], max(1, _CELLS // max(len(records_K), 1))
        for first in range(0, len(divisions_RN), size):
            some_NR = divisions_RN[first : first + size].T
            new_KR = self.counts.T @ some_NR
            unknown_KR = has.T @ some_NR >= records_K[:, None] - 0.5
            found.append((new_KR * unknown_KR).sum(axis=0) / np.maximum(new_KR.sum(axis=0), _TIED))
        return np.concatenate(found)


class KolmogorovSmirnov:
    """The largest difference of the two distribution functions of a number of each record."""

    def __init__(self, values_N: np.ndarray):
        """Sorts once: a division changes no order."""
        self._order = np.argsort(values_N, kind="stable")
        ordered = np.asarray(values_N)[self._order]
        self._ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)

    def __call__(self, divisions_RN: np.ndarray) -> np.ndarray:
        """Returns the statistics [R], as scipy's ks_2samp."""
        new = np.cumsum(divisions_RN[:, self._order], axis=-1)
        count, at = new[:, -1:], new[:, self._ends]
        return np.abs(at / count - (self._ends + 1 - at) / (divisions_RN.shape[1] - count)).max(axis=-1)


class MeanDiscrepancy:
    """The unbiased square of the maximum mean discrepancy of vectors (Gretton et al. 2012, equation 3).

    The kernel is Gaussian, and its width the median distance of all pairs (section 8), which no division changes.
    """

    def __init__(self, vectors_ND: np.ndarray):
        """Computes the kernel, f64 [N, N]."""
        self.kernel_NN = gaussian_kernel(vectors_ND)
        self._rows_N = self.kernel_NN.sum(axis=-1)

    def __call__(self, divisions_RN: np.ndarray) -> np.ndarray:
        """Returns the statistics [R]; below 0 where the samples are more alike than two of one distribution."""
        new_R = divisions_RN.sum(axis=-1)
        other_R = divisions_RN.shape[1] - new_R
        within_R = np.einsum("rn,nr->r", divisions_RN, self.kernel_NN @ divisions_RN.T)
        beside_R = divisions_RN @ self._rows_N
        across_R = beside_R - within_R
        others_R = self._rows_N.sum() - beside_R - across_R
        # A vector's kernel with itself is 1.
        return (
            (within_R - new_R) / (new_R * (new_R - 1))
            + (others_R - other_R) / (other_R * (other_R - 1))
            - 2 * across_R / (new_R * other_R)
        )

    def witness(self, is_new_N: np.ndarray) -> np.ndarray:
        """Returns [N] how much nearer each record is to new ones than to those of the reference (section 2.3)."""
        new_N = is_new_N.astype(np.float64)
        return self.kernel_NN @ (new_N / new_N.sum() - (1 - new_N) / (1 - new_N).sum())


def gaussian_kernel(vectors_ND: np.ndarray) -> np.ndarray:
    """Returns exp(-d^2 / 2 w^2) [N, N] of all pairs, w their median distance; all 1 where all vectors are equal."""
    vectors = np.asarray(vectors_ND, np.float64)
    vectors = vectors - vectors.mean(axis=0)
    squares_N = np.square(vectors).sum(axis=-1)
    apart_NN = np.maximum(squares_N[:, None] + squares_N - 2 * vectors @ vectors.T, 0.0)
    np.fill_diagonal(apart_NN, 0.0)
    pairs = apart_NN[np.triu_indices(len(vectors), 1)]
    width = float(np.median(pairs)) or float(pairs.mean())
    return np.exp(-apart_NN / (2 * width)) if width > 0 else np.ones_like(apart_NN)


class Area:
    """The area under the ROC curve of a score of each record: how often a new one has the higher one, ties as half."""

    def __init__(self, scores_N: np.ndarray):
        """Ranks once: a division changes no rank."""
        from scipy import stats  # not at the start: half a second

        self._ranks_N = stats.rankdata(scores_N)

    def __call__(self, divisions_RN: np.ndarray) -> np.ndarray:
        """Returns the areas [R]."""
        new_R = divisions_RN.sum(axis=-1)
        return (divisions_RN @ self._ranks_N / new_R - (new_R + 1) / 2) / (divisions_RN.shape[1] - new_R)


def classifier_scores(vectors_ND: np.ndarray, is_new_N: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores half of the records by a classifier that has learned from the other half which of them are new.

    Those who are scored were not learned from, so that without a difference their labels say nothing of their scores
    and can be permuted (Lopez-Paz & Oquab 2017, section 3). The classifier is linear: normal distributions with the
    covariance that both samples share, shrunk (`Gaussians`). Each half has half of either sample.

    Returns:
      The numbers of the records that are scored, and their scores, higher for new ones.
    """
    generator = np.random.default_rng(seed)
    learned = np.zeros(len(is_new_N), bool)
    for sample in (False, True):
        members = generator.permutation(np.flatnonzero(is_new_N == sample))
        learned[members[: (len(members) + 1) // 2]] = True
    fitted = Gaussians.fit(vectors_ND[learned], is_new_N[learned].astype(np.int64))
    direction_D = fitted.precision @ (fitted.means[1] - fitted.means[0])
    scored = np.flatnonzero(~learned)
    return scored, np.asarray(vectors_ND[scored], np.float64) @ direction_D


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number (Holm 1979): of all that are chance one is below a with p < a."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    raised = np.minimum(np.maximum.accumulate(np.asarray(p_values, np.float64)[order] * factors), 1.0)
    found = np.empty(len(order))
    found[order] = raised
    return found.tolist()
