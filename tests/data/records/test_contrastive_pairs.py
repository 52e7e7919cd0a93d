"""Pairs of examples beside those that two loops over the examples find."""

import collections
import itertools

import pytest

from jaxfm.data.records.contrastive_pairs import SAMPLINGS, Pairs, all_pairs, pair_records, sample_pairs
from jaxfm.errors import UserError

CLASSES = ["a", "b", "a", "c", "a", "b", "c", "b", "a"]
LABELS = [("a",), ("a", "b"), (), ("c",), ("b", "c"), ("d",)]


def brute_force(targets: list) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Unordered pairs with a label in common, and those without one."""
    alike, unlike = set(), set()
    for one in range(len(targets)):
        for other in range(one, len(targets)):
            same = (
                targets[one] == targets[other]
                if isinstance(targets[one], str)
                else any(label in targets[other] for label in targets[one])
            )
            if same:
                alike.add((one, other))
            elif one != other:
                unlike.add((one, other))
    return alike, unlike


def sets(pairs: Pairs) -> tuple[collections.Counter, collections.Counter]:
    positive, negative = (collections.Counter(map(tuple, each.tolist())) for each in pairs)
    return positive, negative


@pytest.mark.parametrize("targets", [CLASSES, LABELS], ids=["classes", "labels"])
def test_all_pairs_are_those_of_two_loops(targets: list) -> None:
    positive, negative = sets(all_pairs(targets))
    assert (set(positive), set(negative)) == brute_force(targets)
    assert set(positive.values()) == set(negative.values()) == {1}


@pytest.mark.parametrize("targets", [CLASSES, LABELS], ids=["classes", "labels"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_how_often_each_pair_is_taken(targets: list, sampling: str) -> None:
    every = brute_force(targets)
    few, many = sorted(map(len, every))
    found = sets(sample_pairs(targets, sampling, iterations=5, seed=3))
    for pairs, known in zip(found, every, strict=True):
        wanted = {"unique": len(known), "oversampling": many, "undersampling": few, "iterations": 5 * len(targets)}
        assert pairs.total() == wanted[sampling] and set(pairs) <= known
        # Again and again: no pair is taken twice more often than another.
        assert max(pairs.values()) - min([pairs[pair] for pair in known]) <= 1


def test_most_pairs_and_seeds() -> None:
    capped = sample_pairs(CLASSES, "unique", most=10)
    assert [len(each) for each in capped] == [5, 5]
    draws = {tuple(itertools.chain(*sample_pairs(CLASSES, "unique", most=10, seed=s).positive)) for s in range(8)}
    assert len(draws) > 4
    again = sample_pairs(CLASSES, "oversampling", seed=1)
    for one, other in zip(again, sample_pairs(CLASSES, "oversampling", seed=1), strict=True):
        assert (one == other).all()


def test_records_say_which_are_alike() -> None:
    texts = [f"text {number}" for number in range(len(CLASSES))]
    records = pair_records(texts, all_pairs(CLASSES))
    classes = dict(zip(texts, CLASSES, strict=True))
    assert {record["score"] for record in records} == {0.0, 1.0}
    assert all((classes[str(each["text"])] == classes[str(each["pair"])]) == each["score"] for each in records)


def test_one_class_is_refused() -> None:
    with pytest.raises(UserError, match="all training examples have a label in common"):
        sample_pairs(["a", "a"], "unique")
