"""The updates of several clients as one: their mean, or what few clients alone cannot move.

All rules work on each coordinate by itself. Sums are in f64 in the order of the clients' numbers, so the result does
not depend on the order in which updates arrive.
"""

# C clients

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.errors import UserError, did_you_mean
from jaxfm.federation.update import Update, Values

MEAN, TRIMMED_MEAN, MEDIAN = RULES = ("mean", "trimmed_mean", "median")


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """How the updates of a round become one.

    Attributes:
      rule: "mean" by the number of examples (McMahan et al. 2017, algorithm 1), "trimmed_mean" or "median" of each
        coordinate, both without weights (Yin et al. 2018, definitions 1 and 2).
      trim: share of the clients whose values are left out at either end, for "trimmed_mean": 0 to below 0.5.
    """

    rule: str = MEAN
    trim: float = 0.1

    def __post_init__(self) -> None:
        """Raises UserError for an unknown rule or a share out of range."""
        if self.rule not in RULES:
            raise UserError(f"--aggregate={self.rule}: is no rule. {did_you_mean(self.rule, RULES)}")
        if not 0 <= self.trim < 0.5:
            raise UserError(f"--trim={self.trim:g}: must be from 0 to below 0.5: the share left out at either end.")


def combine(updates: Sequence[Update], how: Aggregation = Aggregation()) -> Values:
    """Returns path -> f32, the combined difference of a round.

    Raises UserError without an update, where updates have different paths or shapes, or where a value is not finite.
    """
    ordered = check(updates)
    return combine_values([each.difference for each in ordered], [each.examples for each in ordered], how)


def combine_controls(updates: Sequence[Update], how: Aggregation = Aggregation()) -> Values:
    """Returns path -> f32, the combined change of the clients' control variates; all clients count alike.

    SCAFFOLD's server adds it times |S| / N (Karimireddy et al. 2020, algorithm 1, line 17).
    """
    ordered = sorted(updates, key=lambda each: each.client)
    controls = [each.control for each in ordered if each.control is not None]
    assert len(controls) == len(ordered), "every client of SCAFFOLD sends the change of its control variate"
    return combine_values(controls, [1] * len(controls), how)


def combine_values(values: Sequence[Mapping[str, np.ndarray]], weights: Sequence[float], how: Aggregation) -> Values:
    """Returns path -> f32 of arrays of C clients; weights are read by "mean" alone."""
    if how.rule == MEAN:
        share_C = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
        return {path: _weighted_sum([each[path] for each in values], share_C).astype(np.float32) for path in values[0]}
    combined = _median if how.rule == MEDIAN else functools.partial(_trimmed_mean, cut=trimmed(len(values), how.trim))
    return {path: combined(np.stack([each[path] for each in values])).astype(np.float32) for path in values[0]}


def trimmed(clients: int, trim: float) -> int:
    """Returns how many values are left out at either end: the share rounded up, where that leaves one."""
    return min(math.ceil(trim * clients - 1e-9), (clients - 1) // 2)


def check(updates: Sequence[Update]) -> list[Update]:
    """Returns updates by the clients' numbers.

    Raises UserError without one, for two of one client, for different paths or shapes, and for a value that is not
    finite: a sum would make a model of NaN.
    """
    if not updates:
        raise UserError("a round without an update of any client cannot be combined.")
    ordered = sorted(updates, key=lambda each: each.client)
    shapes = {path: value.shape for path, value in ordered[0].difference.items()}
    for before, each in zip([None, *ordered], ordered, strict=False):
        if before is not None and before.client == each.client:
            raise UserError(f"client {each.client}: sent two updates in one round.")
        if {path: value.shape for path, value in each.difference.items()} != shapes:
            raise UserError(
                f"client {each.client}: its update has other parameters than that of client {ordered[0].client}: both "
                "must train the same model in the same way."
            )
        if problem := problem_of(each):
            raise UserError(f"client {each.client}: {problem}.")
    return ordered


def problem_of(update: Update) -> str:
    """Returns why an update cannot be used, "" where it can: a value that is not finite makes a model of NaN."""
    if update.examples <= 0:
        return f"says that it trains on {update.examples} examples"
    for path, value in (*update.difference.items(), *(update.control or {}).items()):
        if not np.isfinite(value).all():
            return f"its update of {path} has values that are not finite"
    return ""


def _weighted_sum(arrays: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    total = np.zeros(arrays[0].shape, np.float64)
    for array, weight in zip(arrays, weights.tolist(), strict=True):
        total += weight * array.astype(np.float64)
    return total


def _median(values_C: np.ndarray) -> np.ndarray:
    return np.median(values_C, axis=0)


def _trimmed_mean(values_C: np.ndarray, cut: int) -> np.ndarray:
    return np.sort(values_C, axis=0)[cut : len(values_C) - cut].mean(axis=0, dtype=np.float64)
