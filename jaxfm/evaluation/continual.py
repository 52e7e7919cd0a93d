"""Measures of learning in stages, from the scores of each stage's test data after each stage.

R[i, j] is the score on the test data of stage j after training on stage i; NaN where the model could not be scored, as
it did not know a label yet. More is better.
"""

# T stages

import math
from collections.abc import Mapping, Sequence

import numpy as np

AVERAGE, FORGETTING, BACKWARD, FORWARD = "average", "forgetting", "backward_transfer", "forward_transfer"
MEASURES: Mapping[str, bool] = {AVERAGE: True, FORGETTING: False, BACKWARD: True, FORWARD: True}
"""Name -> is more better?"""


def average_score(matrix_TT: np.ndarray, after: int | None = None) -> float:
    """Returns the mean score on all stages up to `after` (from 0, default: the last) when that one was trained."""
    last = len(matrix_TT) - 1 if after is None else after
    return float(np.mean(matrix_TT[last, : last + 1]))


def forgetting(matrix_TT: np.ndarray, after: int | None = None) -> float:
    """Returns the mean over earlier stages of their best score before minus that after `after` (default: the last).

    Chaudhry et al. 2018 (arXiv 1801.10112), equation 3: the best over all earlier stages, those before a stage's own
    training included where they are defined. NaN of a first stage, which has nothing to forget.
    """
    last = len(matrix_TT) - 1 if after is None else after
    if not last:
        return math.nan
    # Where no score of a stage is known (fmax passes NaN over), neither is what was forgotten of it.
    return float(np.mean([np.fmax.reduce(matrix_TT[:last, j]) - matrix_TT[last, j] for j in range(last)]))


def backward_transfer(matrix_TT: np.ndarray) -> float:
    """Returns the mean over all stages but the last of R[T, j] - R[j, j] (Lopez-Paz and Ranzato 2017, equation 3)."""
    last = len(matrix_TT) - 1
    return float(np.mean([matrix_TT[last, j] - matrix_TT[j, j] for j in range(last)])) if last else math.nan


def forward_transfer(matrix_TT: np.ndarray, untrained_T: Sequence[float]) -> float:
    """Returns the mean over stages j > 1 of R[j - 1, j] - b[j] (Lopez-Paz and Ranzato 2017, equation 4).

    Args:
      matrix_TT: R.
      untrained_T: b, the score on each stage's test data before any training.

    Stages of which one of the two is NaN are left out; NaN where that leaves none.
    """
    gains = [matrix_TT[j - 1, j] - untrained_T[j] for j in range(1, len(matrix_TT))]
    known = [gain for gain in gains if not math.isnan(gain)]
    return float(np.mean(known)) if known else math.nan


def measures(matrix_TT: np.ndarray, untrained_T: Sequence[float]) -> dict[str, float]:
    """Returns the measures of `MEASURES`."""
    return {
        AVERAGE: average_score(matrix_TT),
        FORGETTING: forgetting(matrix_TT),
        BACKWARD: backward_transfer(matrix_TT),
        FORWARD: forward_transfer(matrix_TT, untrained_T),
    }
