"""What several models say together: mean probabilities, and how far the models agree (Lakshminarayanan et al. 2017)."""

# M models, N examples or words, C classes

from collections.abc import Mapping, Sequence

import numpy as np

SPREAD = "spread"  # name of the output that says how far models lie apart
KINDS = ("single", "multi", "regression")


def scaled(logits: np.ndarray, calibration: Mapping[str, float]) -> np.ndarray:
    """Returns logits of which a softmax, or sigmoid, is the calibrated probability: float64 of the same shape."""
    return np.asarray(logits, np.float64) / calibration.get("temperature", 1.0)


def mean_logits(logits: Sequence[np.ndarray], kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits of the mean of the models' probabilities, and the standard deviation of these over the models.

    Args:
      logits: arrays [..., C] of each model.
      kind: "single" (softmax over the last axis), "multi" (sigmoid), or "regression": the mean of the numbers
        themselves and their deviation.

    Returns:
      Two arrays float64 [..., C]; the deviation is over M, 0 of one model.
    """
    assert kind in KINDS, kind
    stacked = np.stack([np.asarray(each, np.float64) for each in logits])
    if kind == "regression":
        return stacked.mean(axis=0), stacked.std(axis=0)
    if kind == "multi":
        yes, no = -np.logaddexp(0.0, -stacked), -np.logaddexp(0.0, stacked)
        return np.logaddexp.reduce(yes, axis=0) - np.logaddexp.reduce(no, axis=0), np.exp(yes).std(axis=0)
    logs = stacked - np.logaddexp.reduce(stacked, axis=-1, keepdims=True)
    return np.logaddexp.reduce(logs, axis=0) - np.log(len(logs)), np.exp(logs).std(axis=0)


def disagreement(logits: Sequence[np.ndarray], kind: str, threshold: float = 0.5) -> dict[str, float]:
    """Returns how far models differ about the same examples or words.

    "disagreement" is the share of the examples about which two of the models decide differently, the mean over all
    pairs of models; of labels ("multi") each label of an example counts. "mutual_information" is the entropy of the
    mean probability less the mean entropy of the models, in nats: what the models know apart from each other (Houlsby
    et al. 2011). Of numbers there is the mean standard deviation over the models alone.

    Args:
      logits: arrays [N, C] of each model.
      kind: as for `mean_logits`.
      threshold: probability from which on a label holds.
    """
    mean, spread = mean_logits(logits, kind)
    if kind == "regression":
        return {"standard_deviation": float(spread.mean()) if spread.size else 0.0}
    if not mean.size:
        return {"disagreement": 0.0, "mutual_information": 0.0}
    if kind == "single":
        decided = np.stack([each.argmax(axis=-1) for each in logits])
    else:
        cut = np.log(threshold) - np.log1p(-threshold) if threshold < 1 else np.inf
        decided = np.stack([each >= cut for each in logits])
    count = len(logits)
    pairs = [(decided[a] != decided[b]).mean() for a in range(count) for b in range(a)]
    between = _entropy(mean, kind) - np.mean([_entropy(each, kind) for each in logits], axis=0)
    return {"disagreement": float(np.mean(pairs)) if pairs else 0.0, "mutual_information": float(between.mean())}


def _entropy(logits: np.ndarray, kind: str) -> np.ndarray:
    """Returns the entropy in nats: [N] of classes, [N, C] of labels."""
    logits = np.asarray(logits, np.float64)
    if kind == "single":
        logs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        return -(np.exp(logs) * logs).sum(axis=-1)
    yes, no = -np.logaddexp(0.0, -logits), -np.logaddexp(0.0, logits)
    return -(np.exp(yes) * yes + np.exp(no) * no)
