"""Answers to the surest queries alone: how many are right, and the score from which on to answer.

A query is answered with its best text where the score of that text reaches a threshold. Coverage is the share of the
queries that are answered, precision the share of these whose best text is right (El-Yaniv and Wiener 2010, section 2).
"""

# Q queries

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.evaluation.intervals import exact_share
from jaxfm.observe.tables import Cell, Table

THRESHOLD = "answer_threshold"  # key of a run's calibration
COVERAGE = 0.8
# Queries of valid below which no threshold is fitted: of so few the surest 80 % are any from 56 to 94 %.
LEAST_QUERIES = 20


def fit_threshold(best_Q: np.ndarray, coverage: float = COVERAGE) -> dict[str, float]:
    """Returns {`THRESHOLD`: the score that the share `coverage` of the queries reach}.

    Empty where there are fewer than `LEAST_QUERIES`, or where a score is not finite.

    Args:
      best_Q: score of each query's best text.
      coverage: above 0, at most 1; rounded up to whole queries.
    """
    if len(best_Q) < LEAST_QUERIES or not np.isfinite(best_Q).all():
        return {}
    return {THRESHOLD: float(np.sort(best_Q)[::-1][_count(len(best_Q), coverage) - 1])}


def precision_at(best_Q: np.ndarray, right_Q: np.ndarray, coverage: float = COVERAGE) -> float:
    """Returns the share of right first texts among the share `coverage` of the queries with the highest best score.

    Of queries with one score the wrong ones come first. NaN without queries.

    Args:
      best_Q: score of each query's best text.
      right_Q: bool, whether that text is right.
      coverage: see `fit_threshold`.
    """
    if not len(best_Q):
        return math.nan
    return float(right_Q[_surest(best_Q, right_Q, coverage)].mean())


def describe_answers(
    best_Q: np.ndarray, right_Q: np.ndarray, calibration: Mapping[str, float]
) -> tuple[dict[str, Any], tuple[Table, ...]]:
    """Returns JSON values and a table: precision of all answers, of the surest 80 %, and from the threshold on.

    Args:
      best_Q: score of each query's best text.
      right_Q: bool, whether that text is right.
      calibration: of the run; without a threshold in it its row is left out.
    """
    if not len(best_Q):
        return {}, ()
    percent = f"{COVERAGE:.0%}".removesuffix("%")
    kept = {"all queries": np.ones(len(best_Q), bool), f"the surest {percent} %": np.zeros(len(best_Q), bool)}
    kept[f"the surest {percent} %"][_surest(best_Q, right_Q, COVERAGE)] = True
    values: dict[str, Any] = {f"precision_at_{percent}_percent": precision_at(best_Q, right_Q)}
    if (threshold := calibration.get(THRESHOLD)) is not None:
        answered_Q = best_Q >= threshold
        kept[f"a score of at least {threshold:.4f}, as calibrated"] = answered_Q
        precision = float(right_Q[answered_Q].mean()) if answered_Q.any() else None
        values |= {THRESHOLD: threshold, "coverage": float(answered_Q.mean()), "precision": precision}
    rows: list[tuple[Cell, ...]] = []
    for name, answered_Q in kept.items():
        right, count = int(right_Q[answered_Q].sum()), int(answered_Q.sum())
        shares = (right / count, *exact_share(right, count)) if count else (None, None, None)
        rows.append((name, count, count / len(best_Q), *shares))
    columns = ("answered", "queries", "coverage", "precision", "95% from", "to")
    return values, (Table("Answers: is the first text right?", columns, rows),)


def _count(queries: int, coverage: float) -> int:
    return max(math.ceil(coverage * queries - 1e-9), 1)


def _surest(best_Q: np.ndarray, right_Q: np.ndarray, coverage: float) -> np.ndarray:
    """Returns the numbers of the queries with the highest best scores."""
    return np.lexsort((right_Q, -best_Q))[: _count(len(best_Q), coverage)]
