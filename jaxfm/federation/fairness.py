"""A score over clients: the mean hides whom a model serves badly, so the worst client stands beside it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.federation.update import Scores


def summary(scores: Sequence[Scores], metric: str, *, more_is_better: bool) -> dict[str, Any]:
    """Returns a score over clients as JSON values; those for whom it is not defined are left out, and counted.

    "clients" has the score of each (None where it is not defined), "mean" that of all clients alike, "weighted_mean"
    by held-out examples, "worst" that of "worst_client", "gap" the distance from the mean to the worst (how much a
    client may lose by the common model), "deviation" the standard deviation over clients (Li et al. 2020, "Fair
    resource allocation", definition 1, its square), "undefined" how many are left out.
    """
    known = [(each, value) for each in scores if math.isfinite(value := each.metrics.get(metric, math.nan))]
    found: dict[str, Any] = {
        "clients": {str(each.client): _finite(each.metrics.get(metric)) for each in scores},
        "undefined": len(scores) - len(known),
    }
    names = ("mean", "weighted_mean", "worst", "worst_client", "gap", "deviation")
    if not known:
        return found | dict.fromkeys(names)
    values = np.asarray([value for _, value in known])
    examples = np.asarray([each.examples for each, _ in known], np.float64)
    place = int(values.argmin() if more_is_better else values.argmax())
    mean, worst = float(values.mean()), float(values[place])
    return found | {
        "mean": mean,
        "weighted_mean": float(values @ examples / examples.sum()),
        "worst": worst,
        "worst_client": known[place][0].client,
        "gap": abs(mean - worst),
        "deviation": float(values.std()),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
