"""Confident learning against cleanlab, and against counting by hand."""

import numpy as np
import pytest

from jaxfm.evaluation.confident_learning import (
    BOTH,
    CLASS,
    CONFIDENT,
    FILTERS,
    MARGIN,
    NOISE_RATE,
    SELF_CONFIDENCE,
    class_thresholds,
    confident_joint,
    find_errors,
    find_label_set_errors,
    label_quality,
    round_keeping_sum,
    suggested_classes,
)


def noisy(count: int, classes: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with some flipped, probabilities that know the true ones somewhat, and which are flipped."""
    draw = np.random.default_rng(seed)
    true = draw.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    flipped = draw.random(count) < noise
    labels = np.where(flipped, (true + draw.integers(1, classes, count)) % classes, true)
    logits = draw.normal(size=(count, classes))
    logits[np.arange(count), true] += 2.5
    shares = np.exp(logits)
    return labels, shares / shares.sum(axis=1, keepdims=True), flipped


CASES = [noisy(400, 4, 0.1, 0), noisy(300, 2, 0.2, 1), noisy(250, 9, 0.05, 2), noisy(60, 6, 0.6, 3)]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_counts_and_errors_are_those_of_cleanlab(case: int) -> None:
    count = pytest.importorskip("cleanlab.count")
    filters = pytest.importorskip("cleanlab.filter")
    rank = pytest.importorskip("cleanlab.rank")
    labels, probabilities, _ = CASES[case]
    ours = confident_joint(labels, probabilities)
    np.testing.assert_allclose(ours.thresholds, count.get_confident_thresholds(labels, probabilities), rtol=1e-12)
    np.testing.assert_array_equal(ours.counts, count.compute_confident_joint(labels, probabilities, calibrate=False))
    np.testing.assert_array_equal(ours.joint, count.compute_confident_joint(labels, probabilities))
    for method in FILTERS:
        theirs = filters.find_label_issues(labels, probabilities, filter_by=method, n_jobs=1)
        np.testing.assert_array_equal(find_errors(labels, probabilities, method), theirs, err_msg=method)
        assert theirs.any()
    for score, name in ((MARGIN, "normalized_margin"), (SELF_CONFIDENCE, "self_confidence")):
        theirs = rank.get_label_quality_scores(labels, probabilities, method=name, adjust_pred_probs=False)
        np.testing.assert_allclose(label_quality(labels, probabilities, score), theirs, rtol=1e-12)


def test_several_classes_a_record_are_those_of_cleanlab() -> None:
    filters = pytest.importorskip("cleanlab.multilabel_classification.filter")
    draw = np.random.default_rng(5)
    true = draw.random((300, 3)) < [0.2, 0.5, 0.7]
    present = true ^ (draw.random(true.shape) < 0.08)
    present[:3] = np.eye(3, dtype=bool)  # cleanlab reads the number of classes off the labels
    probabilities = 1 / (1 + np.exp(-(np.where(true, 1.8, -1.8) + draw.normal(size=true.shape))))
    labels = [np.flatnonzero(row).tolist() for row in present]
    for method in FILTERS:
        theirs = filters.find_multilabel_issues_per_class(labels, probabilities, filter_by=method, n_jobs=1)
        np.testing.assert_array_equal(find_label_set_errors(present, probabilities, method), theirs, err_msg=method)
        assert theirs.any()


def test_words_are_those_of_cleanlab() -> None:
    filters = pytest.importorskip("cleanlab.token_classification.filter")
    labels, probabilities, _ = CASES[0]
    cut = [3, 4, 60, 200, 333]
    theirs = filters.find_label_issues(
        [each.tolist() for each in np.split(labels, cut)],
        np.split(probabilities, cut),
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    starts = [0, *cut]
    flat = [starts[sentence] + word for sentence, word in theirs]
    ours = np.flatnonzero(find_errors(labels, probabilities))
    quality = label_quality(labels, probabilities)
    assert ours[np.argsort(quality[ours])].tolist() == flat


def test_by_hand() -> None:
    labels = np.asarray([0, 0, 0, 1, 1, 1])
    first = np.asarray([0.9, 0.8, 0.1, 0.2, 0.3, 0.95])
    probabilities = np.stack([first, 1 - first], axis=1)
    np.testing.assert_allclose(class_thresholds(labels, probabilities), [0.6, (0.8 + 0.7 + 0.05) / 3])
    joint = confident_joint(labels, probabilities)
    # 0.9, 0.8 and 0.95 reach the first threshold; 0.9, 0.8 and 0.7 of the second class reach its one.
    assert joint.counts.tolist() == [[2, 1], [1, 2]] and joint.joint.tolist() == [[2, 1], [1, 2]]
    assert joint.noise == pytest.approx(1 / 3)
    for method in FILTERS:
        assert find_errors(labels, probabilities, method).tolist() == [False, False, True, False, False, True]
    assert suggested_classes(labels, probabilities).tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_allclose(label_quality(labels, probabilities), [0.9, 0.8, 0.1, 0.8, 0.7, 0.05])


def test_flipped_labels_are_found() -> None:
    labels, probabilities, flipped = CASES[0]
    for method in (NOISE_RATE, CLASS, BOTH, CONFIDENT):
        found = find_errors(labels, probabilities, method)
        assert (found & flipped).sum() > 0.5 * flipped.sum()
        assert (found & flipped).sum() > 0.5 * found.sum()
    assert find_errors(labels, probabilities, BOTH).sum() <= find_errors(labels, probabilities, CLASS).sum()
    assert abs(confident_joint(labels, probabilities).noise - flipped.mean()) < 0.05


def test_a_class_without_labels_and_right_labels() -> None:
    labels = np.asarray([0, 0, 2, 2])
    probabilities = np.asarray([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.2, 0.6]])
    joint = confident_joint(labels, probabilities)
    assert joint.thresholds[1] > 1 and joint.joint.sum() == 4 and joint.noise == 0
    assert not find_errors(labels, probabilities).any()
    none = find_errors(np.zeros(0, np.int64), np.zeros((0, 3)))
    assert none.shape == (0,)


def test_rounding_keeps_the_sum() -> None:
    assert round_keeping_sum(np.asarray([0.4, 0.4, 0.4, 1.8])).tolist() in ([1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2])
    assert round_keeping_sum(np.asarray([1.6, 1.6, 0.8])).sum() == 4
    draw = np.random.default_rng(0)
    for _ in range(50):
        values = draw.random(7) * 5
        assert round_keeping_sum(values).sum() == round(values.sum())
