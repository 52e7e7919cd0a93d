"""A few examples of each class, by a seed."""

import collections

import pytest

from jaxfm.data.records.shots import draw_shots
from jaxfm.errors import UserError

CLASSES = ["a", "b", "a", "c", "b", "a", "c", "b", "a", "c"] * 3
LABELS = [("a",), ("a", "b"), ("b",), (), ("c",), ("a", "c"), ("b", "c")] * 3


def drawn(targets: list, shots: int, seed: int = 0) -> list[int]:
    return draw_shots(targets, shots, seed, "config.task.shots", "csv:x")


def test_each_class_has_exactly_so_many() -> None:
    found = drawn(CLASSES, 4)
    assert found == sorted(set(found))
    assert collections.Counter(CLASSES[index] for index in found) == {"a": 4, "b": 4, "c": 4}
    assert len(drawn(CLASSES, 9)) == 27  # all there are of the rarest class


def test_a_seed_decides() -> None:
    assert drawn(CLASSES, 2, seed=1) == drawn(CLASSES, 2, seed=1)
    assert len({tuple(drawn(CLASSES, 2, seed=seed)) for seed in range(20)}) > 15


def test_every_example_can_be_drawn_and_as_often() -> None:
    counts = collections.Counter(index for seed in range(1000) for index in drawn(CLASSES, 1, seed=seed))
    of_a = [counts[index] for index, name in enumerate(CLASSES) if name == "a"]  # 12 of them, each with 1000 / 12
    assert min(of_a) > 50 and max(of_a) < 120


def test_each_label_has_at_least_so_many_and_none_is_superfluous() -> None:
    for seed in range(10):
        found = drawn(LABELS, 3, seed)
        counts = collections.Counter(label for index in found for label in LABELS[index])
        assert min(counts.values()) >= 3 and len(found) <= 9 and all(LABELS[index] for index in found)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"config\.task\.shots: 10 examples of each class are wanted, but csv:x has 9 "):
        drawn(CLASSES, 10)
    with pytest.raises(UserError, match=r"and too few of 1 more classes\. Set config\.task\.shots=9 or less\."):
        drawn(CLASSES, 10)
