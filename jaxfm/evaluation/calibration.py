"""Probabilities that mean what they say: one temperature, fitted on the validation split (Guo et al. 2017, sec. 4.2).

Dividing logits by a positive number moves no argmax and no sign, so that no prediction changes; only how sure it is.
"""

# N examples or words, C classes, B bins

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe import plots
from jaxfm.observe.tables import Table

CALIBRATION_FILE = "calibration.json"
# Guo et al. 2017, section 3.
BINS = 15
# Bounds of 1 / temperature. Only a model no better than chance comes to the lower one.
_SHARPEST, _FLATTEST = 100.0, 0.01
_PARTS = 10
# Examples (sentences) of valid below which nothing is fitted: too few tell little of how sure a model should be, and a
# wrong temperature harms every later probability. See docs/trust.md for what was measured.
LEAST_EXAMPLES = 50
# Standard errors that a gain on held-out examples must exceed; see docs/trust.md for what was measured.
_SURE = 1.0


def probabilities(logits_NC: np.ndarray, calibration: Mapping[str, float], kind: str = "single") -> np.ndarray:
    """Returns calibrated probabilities float64 of the shape of the logits; the model's own where nothing was fitted.

    `kind` is "single" (one class is right: softmax) or "multi" (each label is there or not, by itself: sigmoid).
    """
    assert kind in ("single", "multi"), kind
    scaled = np.asarray(logits_NC, np.float64) / calibration.get("temperature", 1.0)
    return np.exp(_log_softmax(scaled)) if kind == "single" else np.exp(_log_sigmoid(scaled))


def losses(
    logits_NC: np.ndarray, gold: np.ndarray, calibration: Mapping[str, float], kind: str = "single"
) -> np.ndarray:
    """Returns the negative log-likelihood [N] in nats; for "multi" the mean over the labels that are not -1.

    `gold`: int [N] (single), or 0, 1 and -1 (not known) [N, C] (multi).
    """
    scaled = np.asarray(logits_NC, np.float64) / calibration.get("temperature", 1.0)
    if kind == "single":
        return -np.take_along_axis(_log_softmax(scaled), gold[:, None], axis=-1)[:, 0]
    known = gold >= 0
    each = -np.where(known, _log_sigmoid(np.where(gold == 1, scaled, -scaled)), 0.0)
    return each.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def fit_temperature(logits_NC: np.ndarray, gold: np.ndarray, kind: str = "single") -> dict[str, float]:
    """Returns {"temperature": T} of the least negative log-likelihood, T within 0.01 to 100; `gold` as for `losses`.

    Empty where there is none: without examples, with logits that are not finite, or where every prediction is right
    (the sharper, the likelier then, so that the data say nothing about how sure to be). The negative log-likelihood is
    convex in 1 / T: Newton's steps, within a bracket that is cut (in logarithms) in half where they leave it.
    """
    logits, wanted = np.asarray(logits_NC, np.float64), np.asarray(gold)
    if kind == "multi":  # each label as two classes with the logits x and 0
        known = wanted >= 0
        logits, wanted = np.stack([np.zeros(known.sum()), logits[known]], axis=-1), wanted[known]
    if not len(wanted) or not np.isfinite(logits).all():
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


def fit_calibration(
    logits_NC: np.ndarray, gold: np.ndarray, kind: str = "single", groups: np.ndarray | None = None
) -> dict[str, float]:
    """Fits a temperature, and keeps it only where it gains on examples that it was not fitted to.

    Nothing is fitted to fewer than LEAST_EXAMPLES, nor where every prediction is right; a temperature at the bound of
    the search is not kept. Probabilities are then the model's own, which is a temperature of 1.

    The examples are divided at random into 10 parts (fewer where there are fewer examples); each is scored with the
    temperature of the others. The gain is the mean fall of the negative log-likelihood there, its error the standard
    error over examples (or groups). A gain of less than `_SURE` errors is chance, and there is no temperature.

    Args:
      logits_NC: of the validation split.
      gold: as for `losses`.
      kind: "single" or "multi".
      groups: int [N], what is judged as a whole (the sentence of a word); None: every row by itself.

    Returns:
      "temperature" where it is kept; and "examples", "fitted_temperature", "gain" and "gain_error" (nats), as far as
      these were found, by which that was decided. Empty where there are no examples or logits are not finite.
    """
    logits, gold = np.asarray(logits_NC, np.float64), np.asarray(gold)
    if not len(gold) or not np.isfinite(logits).all():
        return {}
    group_N = np.arange(len(gold)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(group_N.max()) + 1
    if count < LEAST_EXAMPLES:
        return {"examples": float(count)}
    fitted = fit_temperature(logits, gold, kind)
    if not fitted:
        return {"examples": float(count)}
    if _at_bound(fitted["temperature"]):
        return {"examples": float(count), "fitted_temperature": fitted["temperature"]}
    parts = min(_PARTS, count)
    part_N = (np.random.default_rng(0).permutation(count) % parts)[group_N]
    gain_N = np.zeros(len(gold))
    for part in range(parts if parts > 1 else 0):
        held = part_N == part
        others = fit_temperature(logits[~held], gold[~held], kind)
        # Without a mistake among the others their temperature would be the sharpest one.
        others = others or {"temperature": 1.0 / _SHARPEST}
        gain_N[held] = losses(logits[held], gold[held], {}, kind) - losses(logits[held], gold[held], others, kind)
    weight_G = np.bincount(group_N, minlength=count)
    gain = gain_N.mean()
    apart_G = np.bincount(group_N, weights=gain_N, minlength=count) - gain * weight_G
    error = float(np.sqrt((apart_G**2).sum() * count / max(count - 1, 1)) / len(gold))
    found = {"fitted_temperature": fitted["temperature"], "gain": float(gain), "gain_error": error}
    found["examples"] = float(count)
    return (fitted if gain > _SURE * error else {}) | found


# Of `fit_of_losses`: from 1/8 to 8, in steps of a ninth.
TEMPERATURES: tuple[float, ...] = tuple(2.0 ** (step / 6) for step in range(-18, 19))


def fit_of_losses(loss_NG: np.ndarray) -> dict[str, float]:
    """Fits a temperature where choices are too many, and differ too much, for a table of logits.

    As `fit_calibration`, but among TEMPERATURES alone.

    Args:
      loss_NG: negative log-likelihood of each example, in nats, at each of TEMPERATURES; finite.
    """
    count = len(loss_NG)
    if count < LEAST_EXAMPLES:
        return {"examples": float(count)} if count else {}
    as_is = TEMPERATURES.index(1.0)
    best = int(loss_NG.mean(axis=0).argmin())
    found = {"examples": float(count), "fitted_temperature": TEMPERATURES[best]}
    if best in (0, len(TEMPERATURES) - 1):
        return found
    part_N = np.random.default_rng(0).permutation(count) % _PARTS
    gain_N = np.zeros(count)
    for part in range(_PARTS):
        held = part_N == part
        gain_N[held] = loss_NG[held, as_is] - loss_NG[held, loss_NG[~held].mean(axis=0).argmin()]
    gain, error = float(gain_N.mean()), float(gain_N.std(ddof=1) / np.sqrt(count))
    found |= {"gain": gain, "gain_error": error}
    return ({"temperature": TEMPERATURES[best]} if gain > _SURE * error else {}) | found


def _why(calibration: Mapping[str, float]) -> str:
    """Says why there is no temperature; empty where there is one, or no validation split to fit it to."""
    if "temperature" in calibration or "examples" not in calibration:
        return ""
    count, fitted = calibration["examples"], calibration.get("fitted_temperature")
    if "gain" not in calibration:
        if fitted is not None:
            why = f"the one fitted to valid, {fitted:g}, is at the bound of the search"
        elif count < LEAST_EXAMPLES:
            why = f"valid has {count:,.0f} examples, too few to fit one; {LEAST_EXAMPLES} are needed"
        else:
            why = f"all of valid's {count:,.0f} examples are right, which does not say how sure to be"
        return f" (no temperature: {why})"
    return (
        f" (no temperature: on held-out parts of valid's {calibration['examples']:,.0f} examples it gains "
        f"{calibration['gain']:+.4f} nats, with a standard error of {calibration['gain_error']:.4f})"
    )


def _at_bound(temperature: float) -> bool:
    return not 1.01 / _SHARPEST < temperature < 0.99 / _FLATTEST


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Predictions by how sure they are, in bins of equal width: (0, 1/15], (1/15, 2/15] ... (14/15, 1].

    Attributes:
      count: [B] predictions in each bin.
      confidence: [B] their mean probability; 0 where there are none.
      accuracy: [B] the share of them that are right; 0 where there are none.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, confidence_N: np.ndarray, right_N: np.ndarray) -> "Reliability":
        """Sorts predictions (probability, whether it came true) into bins."""
        bin_N = np.clip(np.ceil(np.nan_to_num(confidence_N) * BINS).astype(np.int64) - 1, 0, BINS - 1)
        count = np.bincount(bin_N, minlength=BINS)
        some = np.maximum(count, 1)
        return cls(
            count,
            np.bincount(bin_N, weights=confidence_N, minlength=BINS) / some,
            np.bincount(bin_N, weights=right_N, minlength=BINS) / some,
        )

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between confidence and accuracy (Naeini et al. 2015, Guo et al.)."""
        return float(np.abs(self.confidence - self.accuracy) @ self.count / max(self.count.sum(), 1))


@dataclasses.dataclass(frozen=True)
class Assessment:
    """How honest a split's probabilities are, as they come from the model and with its temperature.

    Attributes:
      detail: JSON values: those of the calibration ("temperature" where there is one), and by "model" and "calibrated":
        "nll", "ece", "brier", "confidence", "accuracy" and the bins.
      table: for people.
      plots: the reliability diagram.
    """

    detail: dict[str, Any]
    table: Table
    plots: Mapping[str, Callable[[pathlib.Path], None]]


def assess(
    logits_NC: np.ndarray, gold: np.ndarray, calibration: Mapping[str, float], kind: str = "single"
) -> Assessment:
    """Compares probabilities with what came true; arguments as for `losses`.

    What is sorted into bins is the probability of the predicted class ("single"), or that of each label ("multi", where
    "accuracy" is then how often the label is there). Brier score: the squared distance between probabilities and truth,
    summed over classes (Brier 1950; for two classes twice scikit-learn's), or averaged over labels.
    """
    named = {"model": {}} | ({"calibrated": calibration} if "temperature" in calibration else {})
    facts, bins = {}, {}
    for name, used in named.items():
        probability = probabilities(logits_NC, used, kind)
        if kind == "single":
            truth = np.arange(probability.shape[-1]) == gold[:, None]
            confidence, right = probability.max(axis=-1), probability.argmax(axis=-1) == gold
        else:
            known = gold >= 0
            truth, probability = gold[known] == 1, probability[known]
            confidence, right = probability, truth
        bins[name] = reliability = Reliability.of(confidence, right)
        facts[name] = {
            "nll": _average(losses(logits_NC, gold, used, kind)),
            "ece": reliability.error,
            "brier": _average(
                ((probability - truth) ** 2).sum(axis=-1) if kind == "single" else (probability - truth) ** 2
            ),
            "confidence": _average(confidence),
            "accuracy": _average(right),
        }
    came_true = "accuracy" if kind == "single" else "share there"
    columns = ("probabilities", "NLL", "ECE", "Brier score", "mean confidence", came_true)
    titles = {"model": "of the model"}
    if "temperature" in calibration:
        titles["calibrated"] = f"at temperature {calibration['temperature']:.3f}"
    table = Table(
        f"Calibration{_why(calibration)}", columns, [(titles[name], *found.values()) for name, found in facts.items()]
    )
    series = {
        f"{titles[name]} (ECE {bins[name].error:.3f})": (found.confidence, found.accuracy, found.count)
        for name, found in bins.items()
    }
    detail: dict[str, Any] = dict(calibration)
    for name, found in facts.items():
        lists = {field.name: getattr(bins[name], field.name).tolist() for field in dataclasses.fields(Reliability)}
        detail[name] = found | {"bins": lists}
    return Assessment(
        detail, table, {"reliability": lambda path: plots.plot_reliability(series, path, y_label=came_true)}
    )


def _average(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


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
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: is not a calibration written by jaxfm ({error}). Delete the file to use probabilities as "
            "they are."
        ) from error
    if not 0 < values.get("temperature", 1.0) < float("inf"):
        raise UserError(
            f"{path}: the temperature {values['temperature']} must be a positive number. Delete the file to use "
            "probabilities as they are."
        )
    return values


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _log_sigmoid(logits: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -logits)
