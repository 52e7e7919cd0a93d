"""Balance, names that look alike, scores out of range, texts that say nothing."""

import collections

from jaxfm.data.records.examples import Example
from jaxfm.tasks.classification.checks import check_balance, check_names, check_range, check_words
from jaxfm.tasks.text_checks import LabelCounts


def counts(labels: dict[str, int]) -> dict[str, LabelCounts]:
    return {"train": LabelCounts(collections.Counter(labels), {})}


def test_an_imbalance_names_the_metric_and_the_weights() -> None:
    found = check_balance({"pos": 50, "neg": 47, "mixed": 3}, 100, "single")
    assert found.message == "'pos' has 50 of 100 training examples, 'mixed' has 3"
    assert found.level == "warning" and "macro_f1" in found.fix and "class_weights=balanced" in found.fix
    assert check_balance({"pos": 60, "neg": 40}, 100, "single").level == "ok"


def test_names_that_differ_in_writing_alone() -> None:
    found = check_names(counts({"Pos": 40, "pos ": 2, "neg": 40, "not-sure": 5, "not sure": 1}))
    assert found.level == "warning"
    assert found.examples == ("'Pos' (40), 'pos ' (2)", "'not-sure' (5), 'not sure' (1)")


def test_a_slip_of_the_pen_is_rare_and_alike() -> None:
    assert check_names(counts({"positive": 400, "postive": 2, "negative": 300})).examples == (
        "'positive' (400), 'postive' (2)",
    )
    # As frequent, too short, or told apart by a number: another class.
    for labels in ({"positive": 40, "postive": 20}, {"pos": 400, "po": 1}, {"class 10": 400, "class 11": 1}):
        assert check_names(counts(labels)).level == "ok", labels


def example(text: str, target: float, line: int) -> Example:
    return Example(text, None, target, f"test.csv:{line}")


def test_scores_outside_those_of_training_are_found() -> None:
    import numpy as np

    splits = {
        "train": [example("a", 0.0, 1), example("b", 5.0, 2)],
        "test": [example("c", 4.0, 2), example("d", 50.0, 3)],
    }
    scores = {split: np.asarray([each.target for each in found]) for split, found in splits.items()}
    found = check_range(splits, scores)
    assert (found.level, found.examples) == ("warning", ("test.csv:3: 50",))
    assert check_range(splits, scores | {"test": np.asarray([1.0, 2.0])}).level == "ok"


def test_texts_of_signs_alone_are_found() -> None:
    found = check_words({"train": [example("!!!", 0.0, 4), example("a !", 0.0, 5)]})
    assert (found.level, found.examples) == ("warning", ("test.csv:4: !!!",))
    assert check_words({"train": [example("中", 0.0, 5)]}).level == "ok"
