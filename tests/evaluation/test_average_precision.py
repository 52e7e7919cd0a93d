"""Average precision as COCO counts it, on cases that are worked out by hand."""

import numpy as np
import pytest

from jaxfm.evaluation.average_precision import FoundObjects, GoldObjects, average_precision, mistakes, overlaps

pytest.importorskip("pycocotools", reason="the extra boxes is not installed")


def gold(boxes: list[list[float]], classes: list[int], crowds: list[bool] | None = None) -> GoldObjects:
    array = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    return GoldObjects(array, np.asarray(classes), np.asarray(crowds or [False] * len(classes)), areas)


def found(boxes: list[list[float]], classes: list[int], scores: list[float]) -> FoundObjects:
    return FoundObjects(np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(classes), np.asarray(scores))


def test_all_right_is_one_and_nothing_is_zero() -> None:
    objects = gold([[0, 0, 10, 10], [20, 20, 60, 60], [0, 0, 120, 120]], [0, 1, 1])
    right = average_precision([objects], [found(objects.boxes.tolist(), [0, 1, 1], [0.9, 0.8, 0.7])], 3)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap50_small")
    assert right.metrics == pytest.approx(dict.fromkeys(names, 1.0))
    assert right.classes[:2].tolist() == pytest.approx([1, 1]) and np.isnan(right.classes[2])
    nothing = average_precision([objects], [found([], [], [])], 3)
    assert set(nothing.metrics.values()) == {0.0}


def test_overlaps_and_a_false_one_by_hand() -> None:
    """Overlap 0.8 counts at 0.5 to 0.8, seven of ten; a surer false one halves precision at every recall."""
    objects = [gold([[0, 0, 10, 10]], [0])]
    near = average_precision(objects, [found([[0, 0, 10, 8]], [0], [0.5])], 1)
    assert near.metrics["ap"] == pytest.approx(0.7) and near.metrics["ap75"] == pytest.approx(1.0)
    false = average_precision(objects, [found([[50, 50, 60, 60], [0, 0, 10, 10]], [0, 0], [0.9, 0.5])], 1)
    assert false.metrics["ap"] == pytest.approx(0.5)
    less_sure = average_precision(objects, [found([[50, 50, 60, 60], [0, 0, 10, 10]], [0, 0], [0.1, 0.5])], 1)
    assert less_sure.metrics["ap"] == pytest.approx(1.0)


def test_what_lies_in_a_crowd_counts_neither_way() -> None:
    objects = [gold([[0, 0, 10, 10], [40, 40, 90, 90]], [0, 0], [False, True])]
    told = found([[50, 50, 60, 60], [0, 0, 10, 10]], [0, 0], [0.9, 0.5])
    assert average_precision(objects, [told], 1).metrics["ap"] == pytest.approx(1.0)


def test_mistakes_of_an_image() -> None:
    objects = gold([[0, 0, 10, 10], [20, 20, 30, 30], [40, 0, 50, 10]], [0, 1, 0])
    told = found([[0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30]], [0, 0, 0], [0.9, 0.8, 0.7])
    assert mistakes(objects, told) == ([1, 2], [1, 2])  # the second is a double, the third of another class
    assert mistakes(gold([], []), found([], [], [])) == ([], [])
    np.testing.assert_allclose(overlaps(objects.boxes[:1], told.boxes), [[0.9, 1.0, 0.0]])
