"""A linear head beside the logistic regression of scikit-learn that it is made of."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxfm.evaluation.logistic import fit_linear_head

GENERATOR = np.random.default_rng(0)
TRAIN, TEST = (GENERATOR.standard_normal((count, 12)).astype(np.float32) for count in (60, 200))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_probabilities_are_those_of_scikit_learn(classes: int, penalty: float) -> None:
    targets = (TRAIN[:, :classes].argmax(axis=1)).astype(np.int32)
    head = fit_linear_head(TRAIN, targets, classes, penalty)
    assert head.kernel.shape == (12, classes) and head.bias.shape == (classes,) and head.converged
    logits = TEST @ head.kernel + head.bias
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    model = LogisticRegression(C=1 / penalty, max_iter=1000).fit(TRAIN.astype(np.float64), targets)
    np.testing.assert_allclose(found, model.predict_proba(TEST.astype(np.float64)), atol=1e-5)
    assert (logits.argmax(axis=1) == model.predict(TEST.astype(np.float64))).all()


def test_labels_are_fitted_one_by_one() -> None:
    targets = (TRAIN[:, :3] > 0.3).astype(np.int32)
    head = fit_linear_head(TRAIN, targets, 3, 1.0)
    found = 1 / (1 + np.exp(-(TEST @ head.kernel + head.bias)))
    for label in range(3):
        model = LogisticRegression(max_iter=1000).fit(TRAIN.astype(np.float64), targets[:, label])
        expected = model.predict_proba(TEST.astype(np.float64))[:, 1]
        np.testing.assert_allclose(found[:, label], expected, atol=1e-5)


def test_a_penalty_of_next_to_nothing_says_that_it_is_not_done() -> None:
    wide = GENERATOR.standard_normal((300, 200)).astype(np.float32) * np.geomspace(1e-3, 1e3, 200, dtype=np.float32)
    targets = GENERATOR.integers(0, 2, 300).astype(np.int32)
    assert not fit_linear_head(wide, targets, 2, 1e-12).converged
