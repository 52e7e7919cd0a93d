"""How often each class occurs in data without labels: black box shift estimation (Lipton et al. 2018).

It supposes that classes became more or less frequent and nothing else changed: texts of one class are what they were.
Then the classes that a model predicts are a mixture of what it predicts of each class of labelled data, and which
mixture follows from its confusion matrix (section 3, proposition 2).
"""

# N records, C classes, R rounds

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxfm.evaluation.bootstrap import SEED, Interval, tail_probability

RESAMPLES = 500
LEAST_SINGULAR = 0.1
"""Of the matrix P(predicted | class): below that it hardly tells the classes apart, and errors are magnified."""


@dataclasses.dataclass(frozen=True)
class ClassShares:
    """Shares of classes.

    Attributes:
      reference: of the labelled data, by their labels [C].
      predicted: of the new data, by what is predicted [C].
      predicted_reference: of the labelled data, by what is predicted [C].
      estimated: of the new data, corrected; empty where `problem` says why not.
      problem: why there is no estimate.
    """

    reference: np.ndarray
    predicted: np.ndarray
    predicted_reference: np.ndarray
    estimated: tuple[Interval, ...] = ()
    problem: str = ""


def class_shares(
    gold_N: np.ndarray,
    predicted_N: np.ndarray,
    new_N: np.ndarray,
    classes: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> ClassShares:
    """Estimates how often classes occur in new data; intervals by a bootstrap of both.

    Args:
      gold_N: number of the class of each labelled record.
      predicted_N: what the model predicts of it.
      new_N: what it predicts of each new record.
      classes: their names.
    """
    size = len(classes)
    reference, before, after = (np.bincount(each, minlength=size) / len(each) for each in (gold_N, predicted_N, new_N))
    joint_CC = _joint(gold_N, predicted_N, size)
    found = ClassShares(reference, after, before)
    if missing := [name for name, share in zip(classes, reference, strict=True) if not share]:
        listed = ", ".join(missing[:5])
        return dataclasses.replace(found, problem=f"no labelled record has the class {listed}")
    least = float(np.linalg.svd(joint_CC / reference, compute_uv=False)[-1])
    if least < LEAST_SINGULAR:
        why = f"the model hardly tells some classes apart (least singular value {least:.3f}, below {LEAST_SINGULAR})"
        return dataclasses.replace(found, problem=why)
    value_C = _solved(joint_CC, reference, after)
    generator, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        chosen = generator.integers(0, len(gold_N), len(gold_N))
        gold, predicted = gold_N[chosen], predicted_N[chosen]
        shares = np.bincount(gold, minlength=size) / len(gold)
        new = generator.multinomial(len(new_N), after) / len(new_N)
        drawn.append(_solved(_joint(gold, predicted, size), shares, new))
    tail = tail_probability(min(len(gold_N), len(new_N)))
    assert tail is not None
    low_C, high_C = np.quantile(np.stack(drawn), [tail, 1 - tail], axis=0)
    ends = zip(value_C.tolist(), low_C.tolist(), high_C.tolist(), strict=True)
    return dataclasses.replace(found, estimated=tuple(Interval(*each) for each in ends))


def _joint(gold_N: np.ndarray, predicted_N: np.ndarray, size: int) -> np.ndarray:
    """Returns the share of the records that are predicted as i and have the class j [C, C]."""
    return np.bincount(predicted_N * size + gold_N, minlength=size * size).reshape(size, size) / len(gold_N)


def _solved(joint_CC: np.ndarray, shares_C: np.ndarray, predicted_C: np.ndarray) -> np.ndarray:
    """Returns shares of the classes: weights w with joint @ w = predicted, of the classes' shares; none below 0."""
    weights_C = np.linalg.lstsq(joint_CC, predicted_C, rcond=None)[0]
    found = np.maximum(weights_C * shares_C, 0.0)
    return found / found.sum() if found.sum() > 0 else shares_C
