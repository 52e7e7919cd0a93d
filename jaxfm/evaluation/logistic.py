"""A linear head by logistic regression, of the library scikit-learn: a layer that decides as the regression does."""

# E examples, D numbers a vector, C classes

import warnings
from typing import Any, NamedTuple

import numpy as np

from jaxfm.errors import UserError, install_hint

_STEPS = 1000  # of lbfgs; scikit-learn's own default of 100 is too few for vectors that have not length 1


class LinearHead(NamedTuple):
    """What a linear layer needs.

    Attributes:
      kernel: f32 [D, C].
      bias: f32 [C].
      converged: whether the optimum was found.
    """

    kernel: np.ndarray
    bias: np.ndarray
    converged: bool


def check_library(key: str) -> None:
    """Raises UserError, naming the config's `key`, without the package scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError(f"{key} needs the package scikit-learn: {install_hint('probe')}.") from None


def fit_linear_head(vectors_ED: np.ndarray, targets: np.ndarray, classes: int, penalty: float) -> LinearHead:
    """Fits classes to vectors; `softmax(vectors @ kernel + bias)`, or the sigmoid, are scikit-learn's probabilities.

    Args:
      vectors_ED: of the training examples, f32.
      targets: class numbers int [E], each class occurring; or 0 or 1, int [E, C], of labels that may hold together,
        which are fitted one by one.
      classes: C.
      penalty: weight of the L2 penalty of the kernel, 1 / C in scikit-learn's words; biases have none.
    """
    vectors = np.asarray(vectors_ED, np.float64)
    if targets.ndim == 1:
        model = _fitted(vectors, targets, penalty)
        kernel, bias, converged = model.coef_.T, model.intercept_, _has_converged(model)
        assert model.classes_.tolist() == list(range(classes))
        if classes == 2:  # one logit, of the second class
            kernel, bias = np.concatenate([-kernel, kernel], axis=1) / 2, np.concatenate([-bias, bias]) / 2
        return LinearHead(kernel.astype(np.float32), bias.astype(np.float32), converged)
    kernel, bias, converged = np.zeros((vectors.shape[1], classes)), np.zeros(classes), True
    for label in range(classes):
        model = _fitted(vectors, targets[:, label], penalty)
        kernel[:, label], bias[label] = model.coef_[0], model.intercept_[0]
        converged &= _has_converged(model)
    return LinearHead(kernel.astype(np.float32), bias.astype(np.float32), converged)


def _fitted(vectors: np.ndarray, targets: np.ndarray, penalty: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / penalty, max_iter=_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `LinearHead.converged` says so
        return model.fit(vectors, targets)


def _has_converged(model: Any) -> bool:
    return bool(np.max(model.n_iter_) < _STEPS)
