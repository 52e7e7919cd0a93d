"""How well a model's own numbers tell inputs of its domain from others: energy, Mahalanobis distance, probability.

Each score is higher the more a record looks like those of training.
"""

# N records, C classes, D numbers of a vector, R rounds

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.evaluation.bootstrap import RESAMPLES, SEED, Interval, in_chunks, tail_probability
from jaxfm.evaluation.calibration import probabilities
from jaxfm.observe.tables import Table

TRUE_SHARE = 0.95
ENERGY, PROBABILITY, MAHALANOBIS = "energy", "maximum probability", "Mahalanobis distance"


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well a score tells one set of records from another.

    Attributes:
      score: its name.
      auroc: how often a record of the domain has the higher score than one of elsewhere; ties count half.
      false_positives: share of records from elsewhere with at least the score that 95 % of the domain's reach (FPR at
        95 % TPR).
      inside: number of records of the domain.
      outside: number of records of elsewhere.
      source: of the latter.
    """

    score: str
    auroc: Interval
    false_positives: Interval
    inside: int
    outside: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        return dataclasses.asdict(self)


def energy_scores(logits: Sequence[np.ndarray], probability: str) -> np.ndarray:
    """Returns the negative free energy [N] of each record, the mean over its words: logits [n, C] each.

    Of "softmax" log sum exp (Liu et al. 2020, equation 4 at temperature 1); of "sigmoid" the sum over labels of
    log(1 + exp) (Wang et al. 2021, equation 4).
    """

    def energy(each: np.ndarray) -> float:
        values = np.asarray(each, np.float64)
        if probability == "sigmoid":
            return float(np.logaddexp(0.0, values).sum(axis=-1).mean())
        return float(np.logaddexp.reduce(values, axis=-1).mean())

    return np.asarray([energy(each) for each in logits])


def probability_scores(logits: Sequence[np.ndarray], probability: str) -> np.ndarray:
    """Returns the probability [N] of the likeliest class, the mean over the words of a record.

    Hendrycks & Gimpel 2017, section 2. Of "sigmoid" it is the largest of any label.
    """
    kind = "multi" if probability == "sigmoid" else "single"
    return np.asarray([float(probabilities(each, {}, kind).max(axis=-1).mean()) for each in logits])


@dataclasses.dataclass(frozen=True)
class Gaussians:
    """One normal distribution a class with a covariance that all share.

    Attributes:
      means: [C, D].
      precision: [D, D], the inverse of the covariance.
    """

    means: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, vectors_ND: np.ndarray, classes_N: np.ndarray | None) -> "Gaussians":
        """Fits them (Lee et al. 2018, equation 1); without classes a single one.

        The covariance is shrunk towards a multiple of the identity (Ledoit & Wolf 2004), so that it can be inverted
        however few vectors there are.
        """
        vectors = np.asarray(vectors_ND, np.float64)
        classes = (
            np.zeros(len(vectors), np.int64) if classes_N is None else np.unique(classes_N, return_inverse=True)[1]
        )
        means = np.stack([vectors[classes == number].mean(axis=0) for number in range(int(classes.max()) + 1)])
        return cls(means, np.linalg.inv(shrunk_covariance(vectors - means[classes])))

    def scores(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Returns the negative squared Mahalanobis distance [N] to the nearest class."""
        apart_NCD = np.asarray(vectors_ND, np.float64)[:, None] - self.means
        return -np.einsum("ncd,de,nce->nc", apart_NCD, self.precision, apart_NCD, optimize=True).min(axis=-1)


def shrunk_covariance(centred_ND: np.ndarray) -> np.ndarray:
    """Returns the covariance [D, D] of vectors of mean 0 with Ledoit and Wolf's shrinkage (2004, section 3.3).

    Where all vectors are equal it is a small multiple of the identity.
    """
    count, size = centred_ND.shape
    sample = centred_ND.T @ centred_ND / count
    scale = np.trace(sample) / size
    if scale <= 0:
        return np.eye(size) * 1e-12
    apart = ((sample - scale * np.eye(size)) ** 2).sum()
    squares = centred_ND**2
    error = ((squares.T @ squares).sum() / count - (sample**2).sum()) / count
    shrinkage = 1.0 if apart <= 0 else float(min(max(error / apart, 0.0), 1.0))
    # However well the shrinkage fits, a direction that no vector takes must not have a variance of 0.
    return (1 - shrinkage) * sample + (shrinkage + 1e-9) * scale * np.eye(size)


def detect(
    score: str,
    inside_N: np.ndarray,
    outside_N: np.ndarray,
    source: str,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Detection:
    """Measures a score on both sets; intervals by a bootstrap that draws each set anew."""
    ones = np.ones((1, len(inside_N) + len(outside_N)))
    curves = _Ranked(inside_N, outside_N)
    auroc, false = (float(each[0]) for each in curves.measured(ones))
    generator = np.random.default_rng(seed)
    sizes = (len(inside_N), len(outside_N))

    def draw() -> np.ndarray:
        return np.concatenate([np.bincount(generator.integers(0, n, n), minlength=n) for n in sizes])

    def computed(weight_RN: np.ndarray) -> list[dict[str, np.ndarray]]:
        return [dict(zip(("auroc", "false"), curves.measured(weight_RN), strict=True))]

    (samples,) = in_chunks(draw, computed, resamples, sum(sizes))
    tail = tail_probability(min(sizes))

    def interval(value: float, name: str) -> Interval:
        if tail is None:
            return Interval(value, float("nan"), float("nan"))
        low, high = np.quantile(samples[name], [tail, 1 - tail])
        return Interval(value, float(low), float(high))

    return Detection(score, interval(auroc, "auroc"), interval(false, "false"), *sizes, source)


class _Ranked:
    """Both sets in the order of their scores; measures under weights of the records."""

    def __init__(self, inside_N: np.ndarray, outside_N: np.ndarray):
        """Sorts once: weights change no order."""
        scores = np.concatenate([inside_N, outside_N])
        self._order = np.argsort(scores, kind="stable")
        self._is_inside = self._order < len(inside_N)
        # The last place of each run of equal scores: they count alike.
        ordered = scores[self._order]
        self._ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)

    def measured(self, weight_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns AUROC and the false positives at a true share of 95 %, both [R]."""
        weight = weight_RN[:, self._order]
        inside = np.cumsum(weight * self._is_inside, axis=-1)[:, self._ends]
        outside = np.cumsum(weight * ~self._is_inside, axis=-1)[:, self._ends]
        of_inside, of_outside = inside[:, -1:], outside[:, -1:]
        before = np.pad(outside, ((0, 0), (1, 0)))[:, :-1]
        gained = np.diff(inside, axis=-1, prepend=0.0)
        area = (gained * (before + outside) / 2).sum(axis=-1) / (of_inside * of_outside)[:, 0]
        # The highest threshold that 95 % of the domain reach: the last run of scores before which at most 5 % lie.
        below = np.pad(inside, ((0, 0), (1, 0)))[:, :-1]
        allowed = below <= (1 - TRUE_SHARE) * of_inside * (1 + 1e-12)
        at = allowed.sum(axis=-1) - 1
        false = 1 - np.take_along_axis(before, at[:, None], axis=-1)[:, 0] / of_outside[:, 0]
        return area, false


def detection_table(found: Sequence[Detection]) -> Table:
    """Lays out detections."""
    one = found[0]
    title = f"Out of domain: {one.inside:,} records of the split against {one.outside:,} of {one.source}"
    columns = ("score", "AUROC", "from", "to", "FPR at 95% TPR", "from ", "to ")
    rows = [
        (each.score, *dataclasses.astuple(each.auroc), *dataclasses.astuple(each.false_positives)) for each in found
    ]
    return Table(title, columns, rows)
