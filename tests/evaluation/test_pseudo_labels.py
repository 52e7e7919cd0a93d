"""Which pseudo-labels are taken: confidence, thresholds, classes and agreement."""

import numpy as np
import pytest

from jaxfm.evaluation.pseudo_labels import agreement, choose, confidence, label_digest


def test_confidence_of_words_and_labels() -> None:
    words = np.asarray([[0.9, 0.1], [0.4, 0.6]])
    assert confidence(words, "softmax", "min") == 0.6
    assert confidence(words, "softmax", "mean") == pytest.approx(0.75)
    assert confidence(np.asarray([[0.1, 0.7]]), "sigmoid", "min") == 0.7
    assert confidence(np.asarray([[0.1, 0.7]]), "sigmoid", "mean") == pytest.approx(0.8)
    assert confidence(np.zeros((0, 2)), "softmax", "min") == 0.0


def test_thresholds_and_classes() -> None:
    sure = np.asarray([0.99, 0.7, 0.95, 0.9, 0.92])
    classes = [["a"], ["b"], ["a"], ["b"], ["a"]]
    assert choose(sure, classes, 0.9) == [0, 2, 3, 4]
    assert choose(sure, classes, 0.9, per_class=1) == [0, 3]
    assert choose(sure, classes, 0.9, balance=True) == [0, 3]  # b has one
    assert choose(sure, classes, 0.9, per_class=2) == [0, 2, 3]
    assert choose(sure, classes, 1.0) == []
    assert choose(sure, classes, 0.0, balance=True) == [0, 1, 2, 3]


def test_several_classes_and_none() -> None:
    sure = np.asarray([0.9, 0.8, 0.7, 0.6])
    classes = [["PER", "PER"], ["PER", "LOC"], [], []]
    assert choose(sure, classes, 0.5, per_class=1) == [0, 1, 2]  # LOC has room, as has what has no entity


def test_agreement_of_two_rounds() -> None:
    one, same, other = ({"text": "a", "label": label} for label in ("x", "x", "y"))
    assert label_digest(one) == label_digest(same) != label_digest(other)
    assert agreement([label_digest(one), label_digest(other)], [label_digest(same), label_digest(one)]) == 0.5
    assert agreement([], []) == 0.0
