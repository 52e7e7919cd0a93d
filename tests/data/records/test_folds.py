"""Folds: each class in all of them alike, groups whole, the same for the same records."""

import collections
import random

import numpy as np
import pytest

from jaxfm.data.records.folds import assign_folds
from jaxfm.errors import UserError


def dealt(count: int, folds: int, seed: int = 0) -> tuple[list[str], list[tuple[str, ...]], np.ndarray]:
    draw = random.Random(3)
    groups = [f"text {draw.randrange(count * 4 // 5)}" for _ in range(count)]
    classes = [(draw.choice("aaaaabbc"),) for _ in range(count)]
    return groups, classes, assign_folds(groups, classes, groups, folds, seed)


def test_classes_are_even_and_groups_whole() -> None:
    groups, classes, found = dealt(300, 5)
    assert set(found.tolist()) == set(range(5))
    for group in set(groups):
        assert len({fold for fold, own in zip(found.tolist(), groups, strict=True) if own == group}) == 1
    counts = collections.Counter(zip((own[0] for own in classes), found.tolist(), strict=True))
    for name in "abc":
        held = [counts[name, fold] for fold in range(5)]
        assert max(held) - min(held) <= 0.25 * sum(held) / 5 + 3
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 8


def test_the_same_for_the_same_records_in_any_order() -> None:
    groups, classes, found = dealt(100, 4)
    order = np.random.default_rng(0).permutation(100)
    again = assign_folds([groups[n] for n in order], [classes[n] for n in order], groups, 4, 0)
    np.testing.assert_array_equal(again, found[order])
    assert (dealt(100, 4, seed=1)[2] != found).any()


def test_records_of_several_classes_or_none() -> None:
    classes = [("a", "b"), ("a",), ("b",), (), ("a", "b"), ()]
    found = assign_folds(range(6), classes, list("uvwxyz"), 2, 0)
    for name in "ab":
        assert len({fold for fold, own in zip(found.tolist(), classes, strict=True) if name in own}) == 2


@pytest.mark.parametrize(
    ("folds", "classes", "message"),
    [
        (1, ["a", "a"], "--folds=1: must be at least 2"),
        (5, ["a", "a"], "--folds=5: is more than the 2 different examples"),
        (3, ["a", "a", "a", "b", "b"], r"class 'b' has 2 different examples in train \(first: 3\).*--folds=2"),
        (2, ["a", "a", "a", "b"], "class 'b' has 1 different example .*--folds=0"),
    ],
)
def test_bad_numbers(folds: int, classes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign_folds(range(len(classes)), [(each,) for each in classes], list("0123456"[: len(classes)]), folds, 0)
