"""Scores out of range, texts that say nothing."""

from jaxfm.data.records.examples import Example
from jaxfm.tasks.classification.checks import check_range, check_words


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
