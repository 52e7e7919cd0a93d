"""An assistant that answers some requests and hands the others over: how many it answers, how many of these rightly.

Beside it stands retrieval alone, which answers every request with the first text that it finds, and retrieval at the
same coverage: the same number of requests, those with the highest scores of their first text (El-Yaniv and Wiener 2010,
section 2: selective prediction, with risk the share of answers that are wrong).
"""

# R requests, N dialogues

import dataclasses

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.evaluation.bootstrap import Interval, bootstrap_intervals

ANSWERED, RIGHT_ANSWERS, RIGHT = "answered", "right_of_answered", "right_of_all"
ALONE_RIGHT, ALONE_RIGHT_ANSWERS, ALONE_RIGHT_OF_ALL = (
    "retrieval_right",
    "retrieval_right_of_answered",
    "retrieval_right_of_all",
)
GAIN, INTENTS = "gain_of_answered", "intent_accuracy"
_POINTS = 60  # of a curve


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What became of each request.

    Attributes:
      dialogues: int [R], the number of its dialogue, from 0.
      scores: float [R], of the assistant's best answer; -inf where its rules about intents hand over, or none is found.
      right: bool [R], whether that answer is right.
      answered: bool [R], whether it is given.
      alone_scores: float [R], of the first text that retrieval finds by itself; -inf where it finds none.
      alone_right: bool [R], whether that text is right.
      intent_right: bool [R], whether the intent is.
      intent_known: bool [R], whether it is known which intent is right.
    """

    dialogues: np.ndarray
    scores: np.ndarray
    right: np.ndarray
    answered: np.ndarray
    alone_scores: np.ndarray
    alone_right: np.ndarray
    intent_right: np.ndarray
    intent_known: np.ndarray

    @property
    def alone_answered(self) -> np.ndarray:
        """Bool [R]: as many requests as are answered, of the highest `alone_scores`, of equal ones wrong first."""
        chosen = np.zeros(len(self.dialogues), bool)
        chosen[_surest_first(self.alone_scores, self.alone_right)[: int(self.answered.sum())]] = True
        return chosen


def shares(outcomes: Outcomes) -> dict[str, Interval]:
    """Returns each share with its 95 % interval over dialogues, which are drawn anew with all their requests.

    Thresholds, and which requests retrieval alone answers at the same coverage, stay as they are in every draw. NaN
    where nothing is answered, and as ends where there is one dialogue alone. `INTENTS` is left out where no intent is
    known. `GAIN` is `RIGHT_ANSWERS` less `ALONE_RIGHT_ANSWERS`.
    """
    chosen = outcomes.alone_answered
    counted = {
        "requests": np.ones(len(chosen)),
        "answered": outcomes.answered,
        "right": outcomes.answered & outcomes.right,
        "alone_right": outcomes.alone_right,
        "chosen": chosen,
        "chosen_right": chosen & outcomes.alone_right,
        "intents": outcomes.intent_known,
        "intents_right": outcomes.intent_known & outcomes.intent_right,
    }
    dialogues = np.unique(outcomes.dialogues, return_inverse=True)[1]
    units = {name: np.bincount(dialogues, weights=np.asarray(values, float)) for name, values in counted.items()}
    data = BootstrapData("dialogues", units, _shares, list(range(len(units["requests"]))))
    found = data.metrics(np.arange(data.count))
    if not outcomes.intent_known.any():
        del found[INTENTS]
    return bootstrap_intervals(data, found)


def _shares(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    sums = {name: weight_RN @ values for name, values in units.items()}

    def share(part: str, whole: str) -> np.ndarray:
        return np.divide(sums[part], sums[whole], out=np.full(len(weight_RN), np.nan), where=sums[whole] > 0)

    found = {
        ANSWERED: share("answered", "requests"),
        RIGHT_ANSWERS: share("right", "answered"),
        RIGHT: share("right", "requests"),
        ALONE_RIGHT: share("alone_right", "requests"),
        ALONE_RIGHT_ANSWERS: share("chosen_right", "chosen"),
        ALONE_RIGHT_OF_ALL: share("chosen_right", "requests"),
    }
    gain = found[RIGHT_ANSWERS] - found[ALONE_RIGHT_ANSWERS]
    return found | {GAIN: gain, INTENTS: share("intents_right", "intents")}


def risk_coverage(scores: np.ndarray, right: np.ndarray, most: int = _POINTS) -> list[tuple[float, float]]:
    """Returns (share answered, share of the answers that are wrong) for thresholds from the highest score down.

    A threshold answers all requests of its score, so that only ends of runs of equal scores are points. Scores of -inf
    are never answered. Of more than `most` points those are left out that lie between others.

    Args:
      scores: float [R].
      right: bool [R].
      most: points, at least 2.
    """
    assert most >= 2
    order = _surest_first(scores, right)
    order = order[np.isfinite(scores[order])]
    if not len(order):
        return []
    wrong, sorted_scores = np.cumsum(~right[order]), scores[order]
    ends = np.flatnonzero(np.append(sorted_scores[1:] != sorted_scores[:-1], True))
    if len(ends) > most:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).round().astype(int))]
    return [(float((end + 1) / len(scores)), float(wrong[end] / (end + 1))) for end in ends.tolist()]


def _surest_first(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the numbers of the requests by their scores, the highest first, of equal ones wrong ones first."""
    return np.lexsort((right, -scores))
