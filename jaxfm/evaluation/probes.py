"""Probes on frozen vectors: what a linear classifier and k-means find in them, by the library scikit-learn.

The classifier is a logistic regression with an L2 penalty (Alain and Bengio 2016). Vectors are divided by one number,
the root mean square of the training vectors' entries, so that the penalty means the same for encoders whose vectors
have other lengths. Clusters are scored by V-measure (Rosenberg and Hirschberg 2007) and the adjusted Rand index (Hubert
and Arabie 1985).
"""

# N texts, D numbers a vector, C classes

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData
from jaxfm.errors import UserError, install_hint
from jaxfm.evaluation.bootstrap import Interval
from jaxfm.evaluation.classes import score_classes
from jaxfm.evaluation.intervals import intervals

METRICS = ("accuracy", "macro_f1")
CLUSTER_METRICS = ("v_measure", "adjusted_rand")
SEEDS = 10  # of k-means
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse weights of the penalty, of which a part of train that is held out chooses
_HELD_OUT = 0.2
_LEAST_TEXTS = 50  # of train below which nothing is held out
_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a logistic regression finds.

    Attributes:
      intervals: metric of `METRICS` -> value with its 95 % interval over the texts that are scored.
      data: the metrics as a function of these texts, for comparisons.
      strength: the one of `STRENGTHS` that was chosen.
      converged: whether the optimum was found.
    """

    intervals: dict[str, Interval]
    data: BootstrapData
    strength: float
    converged: bool = True


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds."""

    mean: float
    deviation: float


def check_library() -> None:
    """Raises UserError without the package scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError(f"jaxfm.probe needs the package scikit-learn: {install_hint('probe')}.") from None


def fit_probe(
    train_ND: np.ndarray,
    train_labels: Sequence[str],
    test_ND: np.ndarray,
    test_labels: Sequence[str],
    *,
    identity: Sequence[Any],
    seed: int = 0,
) -> Probe:
    """Fits a logistic regression to the vectors of train and scores it on those of test.

    The weight of the penalty is the one of `STRENGTHS` with the best accuracy on a fifth of train, drawn by the seed;
    the regression is then fitted to all of train. Of fewer than 50 texts none are held out, and the middle weight is
    taken.

    Args:
      train_ND: f32, vectors.
      train_labels: of them; at least two different ones.
      test_ND: f32, vectors.
      test_labels: of them; one that train does not have is never predicted, and so always wrong.
      identity: see `BootstrapData`.
      seed: of the draw.
    """
    scale = float(np.sqrt(np.mean(np.square(train_ND, dtype=np.float64)))) or 1.0
    train, test = train_ND.astype(np.float64) / scale, test_ND.astype(np.float64) / scale
    known = np.asarray(train_labels)
    order = np.random.default_rng(seed).permutation(len(train))
    held, kept = np.split(order, [int(_HELD_OUT * len(order))])
    strength = STRENGTHS[len(STRENGTHS) // 2]
    if len(train) >= _LEAST_TEXTS and len(set(known[kept])) > 1:
        right = [
            float((_fit(train[kept], known[kept], c).predict(train[held]) == known[held]).mean()) for c in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax(right))]
    model = _fit(train, known, strength)
    labels = sorted({*train_labels, *test_labels})
    probability_NC = np.zeros((len(test), len(labels)))
    probability_NC[:, [labels.index(name) for name in model.classes_.tolist()]] = model.predict_proba(test)
    found, data = _scored(probability_NC, labels, test_labels, identity)
    return Probe(found, data, strength, bool(np.max(model.n_iter_) < _STEPS))


def fit_majority(train_labels: Sequence[str], test_labels: Sequence[str], *, identity: Sequence[Any]) -> Probe:
    """Returns the scores of answering the most frequent label of train to everything."""
    names, counts = np.unique(np.asarray(train_labels), return_counts=True)
    labels = sorted({*train_labels, *test_labels})
    probability_NC = np.zeros((len(test_labels), len(labels)))
    probability_NC[:, labels.index(str(names[counts.argmax()]))] = 1.0
    return Probe(*_scored(probability_NC, labels, test_labels, identity), strength=0.0)


def _scored(
    probability_NC: np.ndarray, labels: Sequence[str], gold: Sequence[str], identity: Sequence[Any]
) -> tuple[dict[str, Interval], BootstrapData]:
    numbers = {name: number for number, name in enumerate(labels)}
    gold_N = np.asarray([numbers[name] for name in gold], np.int64)
    scores = score_classes(gold_N, probability_NC, labels, identity=identity)
    return intervals(scores.bootstrap_data, {name: scores.metrics[name] for name in METRICS}), scores.bootstrap_data


def _fit(vectors_ND: np.ndarray, labels_N: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `Probe.converged` says so
        return LogisticRegression(C=strength, max_iter=_STEPS).fit(vectors_ND, labels_N)


def cluster(vectors_ND: np.ndarray, labels: Sequence[str], seeds: int = SEEDS) -> dict[str, Spread]:
    """Returns metric of `CLUSTER_METRICS` -> mean and deviation over seeds of k-means with a cluster for each label.

    Raises:
      ValueError: fewer different vectors than labels.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, v_measure_score

    names, count = list(labels), len(set(labels))
    if len(np.unique(vectors_ND, axis=0)) < count:
        raise ValueError(f"fewer different vectors than the {count} labels")
    vectors = vectors_ND.astype(np.float64)
    found: dict[str, list[float]] = {name: [] for name in CLUSTER_METRICS}
    for seed in range(seeds):
        members = KMeans(count, n_init="auto", random_state=seed).fit_predict(vectors)
        found["v_measure"].append(float(v_measure_score(names, members)))
        found["adjusted_rand"].append(float(adjusted_rand_score(names, members)))
    return {name: Spread(float(np.mean(values)), float(np.std(values, ddof=1))) for name, values in found.items()}
