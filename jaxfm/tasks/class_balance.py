"""How evenly the training examples are spread over the classes, and the metric that suits that."""

# C classes

from collections.abc import Mapping, Sequence

import numpy as np

# A class with less than this share of an even share (n / C examples) makes the classes imbalanced: accuracy then says
# little of it. Of two classes that is one of less than a quarter of the examples.
IMBALANCED = 0.5
_ADVICE = "Train longer (--config.train.min_steps, --config.train.epochs), or look at the data: python -m jaxfm.check."


def rarest(counts_C: np.ndarray) -> tuple[int, float]:
    """Returns the class with fewest examples, and how many it has as a share of an even share."""
    index = int(np.argmin(counts_C))
    return index, float(counts_C[index] * len(counts_C) / max(counts_C.sum(), 1))


def choose_metric(kind: str, labels: Sequence[str], counts_C: np.ndarray | None) -> tuple[str, str]:
    """Returns the metric that `eval.metric=auto` stands for, and a line for the log where balance decided it.

    Args:
      kind: "single", "multi" or "regression".
      labels: names of the classes.
      counts_C: training examples of each; None for regression.
    """
    if counts_C is None:
        return "pearson", ""
    index, share = rarest(counts_C)
    even = "accuracy" if kind == "single" else "micro_f1"
    if share >= IMBALANCED:
        return even, ""
    return "macro_f1", (
        f"eval.metric: macro_f1, which counts every class alike, since classes are imbalanced: {labels[index]!r} has "
        f"{counts_C[index]:,} of the {counts_C.sum():,} training {'examples' if kind == 'single' else 'labels'}. "
        f"({even} would hardly notice it; see also --config.task.loss.class_weights=balanced)"
    )


def constant_answer_warning(
    kind: str, gold: np.ndarray, metrics: Mapping[str, float], labels: Sequence[str]
) -> tuple[str, ...]:
    """Returns a sentence where the model is no better than one answer to everything; () where it is.

    The answer is the most frequent class or label, or the mean of the numbers, of the split that is scored.

    Args:
      kind: "single", "multi" or "regression".
      gold: [E] class numbers or numbers, [E, C] 0 or 1 (multi).
      metrics: of the model on the same examples.
      labels: names of the classes.
    """
    if not len(gold):
        return ()
    if kind == "regression":
        constant = float(np.var(np.asarray(gold, np.float64)))
        if metrics["mse"] < constant:
            return ()
        return (
            f"the model is no better than always answering the mean: squared error {metrics['mse']:.4g}, always the "
            f"mean {constant:.4g}. {_ADVICE}",
        )
    if kind == "multi":
        counts_C = np.asarray(gold).sum(axis=0)
        index = int(counts_C.argmax())
        constants = {"micro_f1": 2.0 * counts_C[index] / max(len(gold) + counts_C.sum(), 1)}
    else:
        counts_C = np.bincount(gold, minlength=len(labels))
        index = int(counts_C.argmax())
        share = counts_C[index] / len(gold)
        # Its own F1 is 2 p / (1 + p), that of each other class that occurs 0.
        constants = {"accuracy": share, "macro_f1": 2 * share / (1 + share) / np.count_nonzero(counts_C)}
    if any(metrics[name] > constant + 1e-9 for name, constant in constants.items()):
        return ()
    name, constant = next(iter(constants.items()))
    return (
        f"the model is no better than always answering {labels[index]!r}, the most frequent "
        f"{'class' if kind == 'single' else 'label'}: {name} {metrics[name]:.4f}, always {labels[index]!r} "
        f"{constant:.4f}. {_ADVICE} Rare classes count more with --config.task.loss.class_weights=balanced.",
    )
