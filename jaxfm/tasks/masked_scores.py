"""Scores of masked tokens, by the unit in which held-out text was masked."""

# N rows, P masked positions a row, U units, R rounds

import math
import zlib
from collections.abc import Mapping

import numpy as np

from jaxfm.core.evaluation import Units
from jaxfm.tasks.running_text import Baseline

# Nats below the unigram loss under which a model is held to have learnt nothing but how frequent tokens are.
_PLATEAU = 0.3


def unit_parts(units: tuple[str, ...], outputs: Mapping[str, np.ndarray]) -> dict[str, slice]:
    """Returns which of the held-out rows were masked in which unit; see `MaskedRows`."""
    rows = len(outputs["target"])
    each = rows // len(units)
    assert each * len(units) == rows, "one copy of the rows for each unit"
    return {unit: slice(number * each, (number + 1) * each) for number, unit in enumerate(units)}


def row_sums(
    units: tuple[str, ...], outputs: Mapping[str, np.ndarray], each: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns values of the held-out rows, float64 [N], under "NAME UNIT" for each unit they were masked in."""
    parts = unit_parts(units, outputs)
    return {f"{name} {unit}": values[parts[unit]].astype(np.float64) for unit in units for name, values in each.items()}


def row_identity(
    units: tuple[str, ...], outputs: Mapping[str, np.ndarray], gold: Mapping[str, np.ndarray]
) -> list[tuple[str, ...]]:
    """Returns what tells a row's targets from those of other data: checksums of the arrays `gold`, for each unit."""
    each = [
        [f"{name} tokens (by {unit}) with checksum {zlib.crc32(row.tobytes()):08x}" for row in values[part]]
        for unit, part in unit_parts(units, outputs).items()
        for name, values in gold.items()
    ]
    return list(zip(*each, strict=True))


def unigram_plateau_warning(loss: float, unigram_loss: float, what: str = "masked loss") -> tuple[str, ...]:
    """Says so where a loss over tokens is still about what predicting by frequency alone reaches."""
    if not loss > unigram_loss - _PLATEAU:
        return ()
    return (
        f"NOTE: the {what}, {loss:.2f}, is not yet clearly below that of predicting by frequency alone, "
        f"{unigram_loss:.2f}. Where it stays there for thousands of steps, the usual causes are too small a batch, no "
        "warm-up or too high a rate for a deep encoder, and many duplicates in the text.",
    )


def unit_scores(outputs: Mapping[str, np.ndarray], baseline: Baseline) -> dict[str, float]:
    """Returns loss, perplexity and accuracy of the targets (of one unit), and those of the baseline."""
    valid = outputs["target"] >= 0
    target = outputs["target"][valid]
    # A split of a few tokens may have none masked: no score is better than a perfect one.
    loss = float(outputs["loss"][valid].mean(dtype=np.float64)) if len(target) else math.nan
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": float((outputs["predicted"][valid] == target).mean()) if len(target) else math.nan,
        "targets": len(target),
        "unigram_loss": float(-baseline.log_probs[target].mean()) if len(target) else math.nan,
        "unigram_accuracy": float((target == baseline.top).mean()) if len(target) else math.nan,
    }


def row_metrics(rows: Units, weight_RN: np.ndarray, *, own: str, units: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the metrics [R] of rounds that weigh the rows of `row_sums`; those of other units than `own` by name."""
    metrics = {}
    for unit in units:
        loss, right, targets = (weight_RN @ rows[f"{name} {unit}"] for name in ("loss", "right", "targets"))
        none = np.where(targets > 0, 0.0, math.nan)  # as `unit_scores`: no score is better than a perfect one
        found = {name: value / np.maximum(targets, 1.0) + none for name, value in (("loss", loss), ("accuracy", right))}
        if unit == own:
            metrics |= found | {"perplexity": np.exp(np.minimum(found["loss"], 700.0))}
        else:
            metrics |= {f"{name}_{unit}": value for name, value in found.items()}
    return metrics
