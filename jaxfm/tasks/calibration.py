"""Probabilities that mean what they say: one temperature, fitted on the validation split (Guo et al. 2017, sec. 4.2).

Dividing logits by a positive number moves no argmax and no sign, so that no prediction changes; only how sure it is.
"""

# N examples (words, rows), C classes

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError

CALIBRATION_FILE = "calibration.json"
# "single": one class is right (softmax). "multi": each label is there or not, by itself (sigmoid).
Kind = Literal["single", "multi"]
# Bounds of 1 / temperature. Only a model no better than chance comes to the lower one.
_SHARPEST, _FLATTEST = 100.0, 0.01


def probabilities(logits_NC: np.ndarray, calibration: Mapping[str, float], kind: Kind = "single") -> np.ndarray:
    """Returns calibrated probabilities float64 of the shape of the logits; as they are where nothing was fitted."""
    scaled = np.asarray(logits_NC, np.float64) / calibration.get("temperature", 1.0)
    return np.exp(_log_softmax(scaled)) if kind == "single" else np.exp(_log_sigmoid(scaled))


def losses(logits_NC: np.ndarray, gold: np.ndarray, calibration: Mapping[str, float], kind: Kind) -> np.ndarray:
    """Returns the negative log-likelihood [N] in nats; for "multi" the mean over the labels that are not -1.

    `gold`: int [N] (single), or 0, 1 and -1 (not known) [N, C] (multi).
    """
    scaled = np.asarray(logits_NC, np.float64) / calibration.get("temperature", 1.0)
    if kind == "single":
        return -np.take_along_axis(_log_softmax(scaled), gold[:, None], axis=-1)[:, 0]
    known = gold >= 0
    each = -np.where(known, _log_sigmoid(np.where(gold == 1, scaled, -scaled)), 0.0)
    return each.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def fit_temperature(logits_NC: np.ndarray, gold: np.ndarray, kind: Kind = "single") -> dict[str, float]:
    """Returns {"temperature": T} of the least negative log-likelihood, T within 0.01 to 100; `gold` as for `losses`.

    Empty where there is none: without examples, or where every prediction is right (the sharper, the likelier then, so
    that the data say nothing about how sure to be). The likelihood is convex in 1 / T: Newton's steps, kept within a
    bracket that halves where they leave it.
    """
    logits, wanted = np.asarray(logits_NC, np.float64), np.asarray(gold)
    if kind == "multi":  # each label as two classes with the logits x and 0
        known = wanted >= 0
        logits, wanted = np.stack([np.zeros(known.sum()), logits[known]], axis=-1), wanted[known]
    if not len(wanted):
        return {}
    right_N = np.take_along_axis(logits, wanted[:, None], axis=-1)[:, 0]
    if (right_N >= logits.max(axis=-1)).all():
        return {}
    low, high, inverse = _FLATTEST, _SHARPEST, 1.0
    for _ in range(60):
        probability_NC = np.exp(_log_softmax(logits * inverse))
        mean_N = (probability_NC * logits).sum(axis=-1)
        slope = (mean_N - right_N).mean()
        curvature = (probability_NC * (logits - mean_N[:, None]) ** 2).sum(axis=-1).mean()
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else low
        step = step if low < step < high else float(np.sqrt(low * high))
        moved, inverse = abs(step - inverse), step
        if moved <= 1e-10 * inverse:
            break
    return {"temperature": float(1.0 / inverse)}


def write_calibration(workdir: pathlib.Path, calibration: Mapping[str, float]) -> None:
    """Writes what a run fitted on its validation split."""
    files.write_json(workdir / CALIBRATION_FILE, dict(calibration))


def read_calibration(workdir: str | os.PathLike[str]) -> dict[str, float]:
    """Reads what a run fitted; empty for a run that has not ended. UserError for a file that jaxfm did not write."""
    path = pathlib.Path(workdir) / CALIBRATION_FILE
    if not path.is_file():
        return {}
    try:
        values = {str(name): float(value) for name, value in files.read_json(path).items()}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a calibration written by jaxfm ({error!r}).") from error
    if not all(0 < value < float("inf") for value in values.values()):
        raise UserError(f"{path}: {values} must be positive numbers. Delete the file to use probabilities as they are.")
    return values


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -logits)
