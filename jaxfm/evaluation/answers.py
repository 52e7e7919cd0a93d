"""Scores of extractive question answering as the official script of SQuAD 2.0 defines them.

That of SQuAD 1.1 gives the same but for answers that are nothing once normalised ("the").

Rajpurkar et al. 2016 and 2018: answers are compared without case, punctuation, articles and extra space; of several
gold answers the best one counts. A question without an answer is right where nothing is answered.
"""

# E questions

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxfm.core.evaluation import PRIOR_WEIGHT, BootstrapData, Prior, Units

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """Returns an answer in lower case, without punctuation (of ASCII), English articles and extra space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def is_exact(answer: str, gold: str) -> bool:
    """Whether two answers are equal once normalised."""
    return normalised(answer) == normalised(gold)


def overlap_f1(answer: str, gold: str) -> float:
    """Returns the harmonic mean of the shares of words that two answers have in common; nothing has all of nothing."""
    found, wanted = normalised(answer).split(), normalised(gold).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((collections.Counter(found) & collections.Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


class AnswerScore(NamedTuple):
    """Exact match (0 or 1) and F1 of one question."""

    exact: float
    f1: float


def score_answer(answer: str, gold: Sequence[str]) -> AnswerScore:
    """Returns the best scores over the gold answers; without any, whether `answer` is empty."""
    # As in the official script, a gold answer that is nothing once normalised ("the") does not count.
    wanted = [one for one in gold if normalised(one)] or [""]
    return AnswerScore(
        float(max(is_exact(answer, one) for one in wanted)), max(overlap_f1(answer, one) for one in wanted)
    )


def best_threshold(score_E: np.ndarray, right_E: np.ndarray, has_answer_E: np.ndarray) -> tuple[float, float]:
    """Returns the threshold of the no-answer score that gives most, and the mean it gives (Rajpurkar et al. 2018).

    A question is left unanswered where its score is above the threshold. Of equal means the one with fewest answers is
    taken, and a threshold in the middle between two scores, so that new questions on either side are treated alike.

    Args:
      score_E: how much a question seems to have no answer.
      right_E: exact match or F1 of the answer that would be given.
      has_answer_E: bool, whether the question has one.
    """
    order = np.argsort(score_E, kind="stable")
    # All are unanswered at first: right are those without an answer. Then they are answered one by one.
    gains = np.where(has_answer_E, right_E, -1.0)[order]
    totals = np.count_nonzero(~has_answer_E) + np.concatenate([[0.0], np.cumsum(gains)])
    # Questions of one score are answered together.
    scores = score_E[order]
    ends = np.concatenate([[True], np.append(scores[1:] != scores[:-1], True)]) if len(scores) else np.ones(1, bool)
    places = np.flatnonzero(ends)
    best = int(places[np.argmax(totals[places])])
    if not len(scores):
        return 0.0, 0.0
    low = scores[best - 1] if best else scores[0] - 1.0
    high = scores[best] if best < len(scores) else scores[-1] + 1.0
    threshold = float((low + high) / 2)
    # Between neighbouring floats there is no middle; the lower one is not above itself.
    return (threshold if low <= threshold < high else float(low)), float(totals[best] / len(scores))


def answer_metrics(
    scores: Sequence[AnswerScore], has_answer_E: np.ndarray, loss_E: np.ndarray, identity: Sequence[object]
) -> BootstrapData:
    """Returns f1, exact_match, loss and, where some questions have no answer, has_answer_f1 and no_answer_accuracy."""
    units = {
        "f1": np.asarray([score.f1 for score in scores], np.float64),
        "exact_match": np.asarray([score.exact for score in scores], np.float64),
        "has_answer": has_answer_E.astype(np.float64),
        "loss": np.asarray(loss_E, np.float64),
    }
    return BootstrapData(
        sampling_unit="questions",
        units=units,
        computed=_with_unanswered if not has_answer_E.all() and has_answer_E.any() else _means,
        identity=identity,
        right=units["exact_match"] == 1,
        less_is_better=("loss",),
        shares=("exact_match",),
        prior=_prior(has_answer_E),
    )


def _prior(has_answer_E: np.ndarray) -> Prior:
    """Returns a question that is right and one that is wrong, with an answer and, where there are such, without one."""
    kinds = np.asarray([kind for kind in (1.0, 0.0) if (has_answer_E == kind).any()])
    right = np.repeat([1.0, 0.0], len(kinds))
    units = {
        "f1": right,
        "exact_match": right,
        "has_answer": np.tile(kinds, 2),
        "loss": np.zeros(len(right)),
    }
    weights = np.full(len(right), PRIOR_WEIGHT / max(len(kinds), 1))
    return Prior(units, weights, ("f1", "has_answer_f1", "no_answer_accuracy"))


def _means(units: Units, weights_RE: np.ndarray) -> dict[str, np.ndarray]:
    total_R = np.maximum(weights_RE.sum(axis=-1), 1e-12)
    return {name: weights_RE @ units[name] / total_R for name in ("f1", "exact_match", "loss")}


def _with_unanswered(units: Units, weights_RE: np.ndarray) -> dict[str, np.ndarray]:
    has = weights_RE * units["has_answer"]
    has_not = weights_RE - has
    return _means(units, weights_RE) | {
        "has_answer_f1": has @ units["f1"] / np.maximum(has.sum(axis=-1), 1e-12),
        "no_answer_accuracy": has_not @ units["exact_match"] / np.maximum(has_not.sum(axis=-1), 1e-12),
    }


def as_metrics(data: BootstrapData) -> Mapping[str, float]:
    """Returns the metrics over all questions."""
    return data.metrics(np.arange(data.count))
