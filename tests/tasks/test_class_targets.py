"""Classes to numbers and back, for texts and images alike."""

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.tasks import class_targets

LABELS = ("bird", "cat", "dog")


def test_numbers_of_one_class_and_of_several():
    single = class_targets.target_numbers("single", LABELS, ["dog", "bird"], ["a:1", "a:2"])
    np.testing.assert_array_equal(single, np.asarray([2, 0], np.int32), strict=True)
    several = class_targets.target_numbers("multi", LABELS, [("dog", "bird"), ()], ["a:1", "a:2"])
    np.testing.assert_array_equal(several, np.asarray([[1, 0, 1], [0, 0, 0]], np.int32), strict=True)
    np.testing.assert_array_equal(class_targets.target_counts("single", LABELS, single), [1, 0, 1])
    np.testing.assert_array_equal(class_targets.target_counts("multi", LABELS, several), [1, 0, 1])


@pytest.mark.parametrize(("kind", "targets"), [("single", ["dog", "cot"]), ("multi", [("dog",), ("cat", "cot")])])
def test_a_class_that_training_did_not_see_is_named_with_its_place(kind, targets):
    with pytest.raises(UserError, match=r"a:2: the label 'cot' does not occur.*cat"):
        class_targets.target_numbers(kind, LABELS, targets, ["a:1", "a:2"])


def test_what_is_predicted_is_the_likeliest_or_all_from_the_threshold_on():
    found = np.asarray([[0.2, 0.5, 0.5], [0.1, 0.2, 0.3]])
    assert class_targets.predicted_targets("single", LABELS, 0.5, found) == ["cat", "dog"]
    assert class_targets.predicted_targets("multi", LABELS, 0.5, found) == [("cat", "dog"), ()]


def test_numbers_come_in_their_order_before_names_and_the_chosen_one_last():
    targets = ["b", "10", "9", "-1", "a", "9"]
    assert class_targets.ordered_labels("single", targets, "csv:x") == ("-1", "9", "10", "a", "b")
    assert class_targets.ordered_labels("single", targets, "csv:x", last="9") == ("-1", "10", "a", "b", "9")
    assert class_targets.ordered_labels("multi", [("b", "a"), ("b",)], "csv:x") == ("a", "b")
    with pytest.raises(UserError, match="only the class 'a'"):
        class_targets.ordered_labels("single", ["a", "a"], "csv:x")


def test_the_order_of_several_labels_does_not_make_a_prediction_wrong():
    shares = np.asarray([0.75, 0.25, 0.5])
    described = class_targets.described_target("multi", ("dog", "bird"), ("bird", "dog"), LABELS, shares)
    assert described == {
        "correct": True,
        "gold": ("dog", "bird"),
        "predicted": ["bird", "dog"],
        "scores": {"bird": 0.75, "cat": 0.25, "dog": 0.5},
    }
    assert not class_targets.described_target("single", "dog", "cat", LABELS, shares)["correct"]
