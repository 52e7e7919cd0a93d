"""Confident learning: which labels are probably wrong, by probabilities of models that have not seen them.

Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 70). A label of
class j is counted as truly of class k where the probability of k reaches what is usual for examples labelled k (section
3.1). These counts, scaled to the numbers of labels, say how many labels of each class are wrong; which ones they are is
decided by ranking (section 3.2). Numbers and choices are those of cleanlab 2.9, which the tests compare with.
"""

# N labels, C classes

import dataclasses

import numpy as np

NOISE_RATE, CLASS, BOTH, CONFIDENT = "prune_by_noise_rate", "prune_by_class", "both", "confident_learning"
FILTERS = (NOISE_RATE, CLASS, BOTH, CONFIDENT)
"""How labels are chosen: section 3.2, methods 4, 3, 5 and 2 of the paper, under cleanlab's names."""
MARGIN, SELF_CONFIDENCE = "normalised_margin", "self_confidence"
SCORES = (MARGIN, SELF_CONFIDENCE)
_LEAST_THRESHOLD = 2e-4  # a class whose labels all look wrong would have each example counted into it
_ABSENT = 2.0  # the threshold of a class without a label: no probability reaches it
_EQUAL = 1e-6  # probabilities that differ by less are equal
_LEFT = 1  # labels of a class that are never all called wrong


@dataclasses.dataclass(frozen=True, eq=False)
class ConfidentJoint:
    """How many labels of each class are truly of which.

    Attributes:
      thresholds: float64 [C] mean probability of a class over the examples labelled so.
      counts: int [C, C] labels of the class of the row that are confidently of the class of the column; at least 1 on
        the diagonal.
      joint: int [C, C] the same scaled so that each row sums to the labels of its class.
      off_diagonal: bool [N] whether the label is counted outside the diagonal.
    """

    thresholds: np.ndarray
    counts: np.ndarray
    joint: np.ndarray
    off_diagonal: np.ndarray

    @property
    def noise(self) -> float:
        """Estimated share of wrong labels."""
        return 1.0 - float(np.trace(self.joint) / max(self.joint.sum(), 1))


def class_thresholds(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Returns the mean self-confidence [C] of each class; 2, which none reaches, for one without labels."""
    classes = probabilities_NC.shape[1]
    counts_C = np.bincount(labels_N, minlength=classes)
    sums_C = np.bincount(labels_N, weights=self_confidence(labels_N, probabilities_NC), minlength=classes)
    return np.where(counts_C > 0, np.maximum(sums_C / np.maximum(counts_C, 1), _LEAST_THRESHOLD), _ABSENT)


def confident_joint(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> ConfidentJoint:
    """Counts labels by the class that they confidently are of.

    Args:
      labels_N: given classes, int.
      probabilities_NC: of models that were not trained on these labels.
    """
    classes = probabilities_NC.shape[1]
    thresholds_C = class_thresholds(labels_N, probabilities_NC)
    reached_NC = probabilities_NC >= thresholds_C - _EQUAL
    several = reached_NC.sum(axis=1) > 1
    guess_N = np.where(several, probabilities_NC.argmax(axis=1), reached_NC.argmax(axis=1))
    confident_N = reached_NC.any(axis=1)
    pairs = labels_N[confident_N] * classes + guess_N[confident_N]
    counts_CC = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    np.fill_diagonal(counts_CC, np.maximum(counts_CC.diagonal(), 1))
    scaled_CC = counts_CC / counts_CC.sum(axis=1, keepdims=True) * np.bincount(labels_N, minlength=classes)[:, None]
    joint_CC = np.stack([round_keeping_sum(row) for row in scaled_CC])
    return ConfidentJoint(thresholds_C, counts_CC, joint_CC, confident_N & (guess_N != labels_N))


def find_errors(
    labels_N: np.ndarray, probabilities_NC: np.ndarray, method: str = NOISE_RATE, joint: ConfidentJoint | None = None
) -> np.ndarray:
    """Returns which labels are probably wrong, bool [N].

    A label that is the likeliest class never is. Of each class one label at least is left.

    Args:
      labels_N: given classes, int.
      probabilities_NC: of models that were not trained on these labels.
      method: one of FILTERS.
      joint: what `confident_joint` gives, where it is known.
    """
    assert method in FILTERS, method
    joint = joint or confident_joint(labels_N, probabilities_NC)
    if method == CONFIDENT:
        found_N = joint.off_diagonal.copy()
    else:
        counts_CC = _leaving_some(joint.joint)
        found_N = np.ones(len(labels_N), bool)
        if method in (NOISE_RATE, BOTH):
            found_N &= _by_noise_rate(labels_N, probabilities_NC, counts_CC)
        if method in (CLASS, BOTH):
            found_N &= _by_class(labels_N, probabilities_NC, counts_CC)
    own_N = self_confidence(labels_N, probabilities_NC)
    return found_N & (probabilities_NC.max(axis=1, initial=0.0) > own_N + _EQUAL)


def find_label_set_errors(present_NC: np.ndarray, probabilities_NC: np.ndarray, method: str = NOISE_RATE) -> np.ndarray:
    """Returns which classes, of records that may have any number, are wrongly given or wrongly absent, bool [N, C].

    Each class is judged by itself as two: absent and present (one against the rest).
    """
    columns = []
    for present_N, probability_N in zip(present_NC.T, probabilities_NC.T, strict=True):
        both = np.stack([1.0 - probability_N, probability_N], axis=1)
        columns.append(find_errors(present_N.astype(np.int64), both, method))
    return np.stack(columns, axis=1)


def label_quality(labels_N: np.ndarray, probabilities_NC: np.ndarray, score: str = MARGIN) -> np.ndarray:
    """Returns how good each label is, 0 to 1 [N]; the worst labels come first when sorted.

    "normalised_margin": (own probability - the greatest of the others + 1) / 2. "self_confidence": own probability.
    """
    assert score in SCORES, score
    own_N = self_confidence(labels_N, probabilities_NC)
    if score == SELF_CONFIDENCE:
        return own_N
    others_NC = np.array(probabilities_NC, np.float64)
    others_NC[np.arange(len(labels_N)), labels_N] = -np.inf
    return (own_N - others_NC.max(axis=1, initial=-np.inf) + 1.0) / 2.0


def self_confidence(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Returns the probability [N] of the given class."""
    return np.take_along_axis(probabilities_NC, np.asarray(labels_N)[:, None], axis=1)[:, 0]


def suggested_classes(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """Returns the likeliest class [N] other than the given one."""
    others_NC = np.array(probabilities_NC, np.float64)
    others_NC[np.arange(len(labels_N)), labels_N] = -np.inf
    return others_NC.argmax(axis=1)


def round_keeping_sum(values: np.ndarray) -> np.ndarray:
    """Rounds numbers to integers [...] that sum to their rounded sum: those that lost most by rounding give way."""
    floats = np.asarray(values, np.float64)
    rounded = floats.round()
    lacking = int(np.round(floats.sum()) - rounded.sum())
    if lacking:
        step = 1 if lacking > 0 else -1
        order = np.argsort(floats - rounded)[::-step]
        rounded[order[: abs(lacking)]] += step
    return rounded.astype(np.int64)


def _leaving_some(joint_CC: np.ndarray) -> np.ndarray:
    """Returns the joint with at least `_LEFT` labels of each class on the diagonal, taken evenly from other cells."""
    diagonal = np.maximum(joint_CC.diagonal(), _LEFT)
    more = diagonal - joint_CC.diagonal()
    cells = np.maximum(np.count_nonzero(joint_CC, axis=1) - 1.0, 1.0)
    left = np.maximum(joint_CC - (more / cells)[:, None], 0)
    np.fill_diagonal(left, diagonal)
    # Rounded along true classes, as cleanlab does.
    return np.stack([round_keeping_sum(column) for column in left.astype(np.int64).T], axis=1)


def _by_noise_rate(labels_N: np.ndarray, probabilities_NC: np.ndarray, counts_CC: np.ndarray) -> np.ndarray:
    """Of labels j the counts[j, k] with the largest margin p(k) - p(j), for each k."""
    found_N = np.zeros(len(labels_N), bool)
    for given, row in enumerate(counts_CC):
        own = np.flatnonzero(labels_N == given)
        if len(own) <= _LEFT:
            continue
        for true in np.flatnonzero(row):
            if true != given:
                margin = probabilities_NC[own, true] - probabilities_NC[own, given]
                found_N[own[np.argsort(-margin)[: row[true]]]] = True
    return found_N


def _by_class(labels_N: np.ndarray, probabilities_NC: np.ndarray, counts_CC: np.ndarray) -> np.ndarray:
    """Of labels j those with the lowest p(j), as many as are off the diagonal."""
    found_N = np.zeros(len(labels_N), bool)
    for given, row in enumerate(counts_CC):
        own = np.flatnonzero(labels_N == given)
        wrong = len(own) - row[given]
        if len(own) > _LEFT and wrong > 0:
            found_N[own[np.argsort(probabilities_NC[own, given])[:wrong]]] = True
    return found_N
