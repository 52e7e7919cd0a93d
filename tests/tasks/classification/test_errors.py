"""The examples that a classifier has most wrong, as a person is shown them."""

import numpy as np
import pytest

from jaxfm.data.records.examples import Example
from jaxfm.observe.examples import SHOWN
from jaxfm.tasks.classification.errors import worst_examples
from jaxfm.tasks.classification.spec import ClassifierSpec
from tests import tiny


def spec(kind: str) -> ClassifierSpec:
    labels = ("score",) if kind == "regression" else ("bad", "fine", "good")
    return ClassifierSpec(
        kind, labels, tiny.ENCODER, "cls", pairs=False, row_length=48, window=48, segments=4, threshold=0.5
    )


def test_single_label() -> None:
    read = [Example(f"text {index}", None, "good", f"a.csv:{index}") for index in range(3)]
    found = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.9, 0.08, 0.02]])
    first, second = worst_examples(spec("single"), read, found, -np.log(found[:, 2]))
    assert (first.origin, second.origin) == ("a.csv:2", "a.csv:0")
    assert first.facts[:4] == (
        ("gold", "good"),
        ("predicted", "bad"),
        ("probability", 0.9),
        ("of the gold class", 0.02),
    )
    assert first.facts[4] == ("loss", pytest.approx(-np.log(0.02)))
    assert [view.text for view in first.views] == ["text 2"]


def test_several_labels() -> None:
    targets = (("bad", "good"), (), ("fine",))
    read = [Example("text", None, target, f"a.csv:{index}") for index, target in enumerate(targets)]
    found = np.array([[0.9, 0.1, 0.5], [0.6, 0.1, 0.1], [0.1, 0.4, 0.1]])
    first, second = worst_examples(spec("multi"), read, found, np.array([9.0, 1.0, 2.0]))
    assert (first.origin, second.origin) == ("a.csv:2", "a.csv:1")  # the threshold itself counts as said
    assert first.facts[:2] == (("gold", "fine"), ("predicted", "(no label)"))
    assert second.facts[:2] == (("gold", "(no label)"), ("predicted", "bad"))


def test_numbers_of_pairs() -> None:
    read = [Example("one", "other", value, f"a.csv:{index}") for index, value in enumerate((1.0, 2.0, 3.0))]
    found = np.array([1.5, 2.0, 1.0])
    first, second = worst_examples(spec("regression"), read, found, np.array([0.25, 0.0, 4.0]))
    assert [view.text for view in first.views] == ["one", "other"]
    assert first.facts == (("gold", 3.0), ("predicted", 1.0), ("error", -2.0), ("loss", 4.0))
    assert second.origin == "a.csv:0"


def test_no_more_are_shown_than_a_person_reads() -> None:
    read = [Example("text", None, "good", "a.csv:1")] * (SHOWN + 5)
    found = np.tile([0.9, 0.1, 0.0], (len(read), 1))
    assert len(worst_examples(spec("single"), read, found, np.ones(len(read)))) == SHOWN
