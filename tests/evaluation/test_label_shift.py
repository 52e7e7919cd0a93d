"""Shares of classes from what a model predicts: exact where only they changed, refused where nothing follows."""

import numpy as np
import pytest

from jaxfm.evaluation.label_shift import class_shares

CLASSES = ("a", "b", "c")
# Of each class (rows) what is predicted.
CONFUSION = np.asarray([[80, 15, 5], [10, 60, 30], [5, 5, 90]])


def records(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and prediction of records, as many as a table says."""
    gold, predicted = np.nonzero(table)
    times = table[gold, predicted]
    return np.repeat(gold, times), np.repeat(predicted, times)


def test_the_shares_are_exact_where_nothing_else_changed() -> None:
    gold, predicted = records(CONFUSION)
    _, new = records(CONFUSION * np.asarray([[6], [1], [3]]))
    found = class_shares(gold, predicted, new, CLASSES)
    assert [each.value for each in found.estimated] == pytest.approx([0.6, 0.1, 0.3])
    assert found.reference == pytest.approx([1 / 3] * 3)
    assert found.predicted == pytest.approx(np.bincount(new) / len(new)) and found.predicted[1] > 0.15
    assert found.predicted_reference == pytest.approx(CONFUSION.sum(axis=0) / 300)
    for each, truth in zip(found.estimated, (0.6, 0.1, 0.3), strict=True):
        assert each.low <= truth <= each.high and each.high - each.low < 0.25


def test_without_a_shift_intervals_hold_the_shares() -> None:
    generator, held = np.random.default_rng(0), 0
    for number in range(60):
        drawn = [generator.integers(0, 3, count) for count in (300, 200)]
        says = [np.asarray([generator.choice(3, p=CONFUSION[each] / 100) for each in gold]) for gold in drawn]
        found = class_shares(drawn[0], says[0], says[1], CLASSES, resamples=200, seed=number)
        held += found.estimated[0].low <= 1 / 3 <= found.estimated[0].high
    assert held / 60 > 0.88


def test_what_cannot_be_estimated_says_why() -> None:
    gold, predicted = records(CONFUSION[:2])
    found = class_shares(gold, predicted, predicted, CLASSES)
    assert found.estimated == () and found.problem == "no labelled record has the class c"
    gold, predicted = records(np.asarray([[50, 50, 0], [48, 52, 0], [0, 0, 100]]))
    found = class_shares(gold, predicted, predicted, CLASSES)
    assert found.estimated == () and "hardly tells some classes apart" in found.problem
    assert found.predicted == pytest.approx([98 / 300, 102 / 300, 1 / 3])
