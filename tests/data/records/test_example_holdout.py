"""What is held out: in proportion, the same in any order, and never the last example of a class."""

import collections
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.example_holdout import choose_held_out


def counts(targets, chosen, side):
    names = collections.Counter()
    for target, is_held_out in zip(targets, chosen, strict=True):
        if is_held_out == side:
            names.update(target if isinstance(target, tuple) else (target,))
    return names


TARGETS = st.lists(st.sampled_from("aaaabbc") | st.sampled_from("defghijkl"), max_size=60)
SEVERAL = st.lists(st.lists(st.sampled_from("abcdef"), max_size=3, unique=True).map(tuple), max_size=40)


@settings(max_examples=100, deadline=None)
@given(targets=TARGETS | SEVERAL, share=st.sampled_from([0.05, 0.1, 0.3, 0.9]), texts=st.integers(1, 80))
def test_every_class_stays_in_training(targets, share, texts):
    names = [f"text {index % texts}" for index in range(len(targets))]
    chosen = choose_held_out(names, targets, share)
    assert set(counts(targets, chosen, False)) == set(counts(targets, chosen, False) + counts(targets, chosen, True))
    if targets:
        assert not all(chosen)
    left = {frozenset(t) for t, is_held_out in zip(targets, chosen, strict=True) if not is_held_out}
    assert len(left) > 1 or len({frozenset(target) for target in targets}) < 2
    held = {text for text, is_held_out in zip(names, chosen, strict=True) if is_held_out}
    assert not held & {text for text, is_held_out in zip(names, chosen, strict=True) if not is_held_out}
    order = list(range(len(targets)))
    random.Random(0).shuffle(order)
    again = choose_held_out([names[i] for i in order], [targets[i] for i in order], share)
    assert again == [chosen[i] for i in order]


def test_classes_are_held_out_in_proportion():
    targets = ["a"] * 900 + ["b"] * 90 + ["c"] * 10 + ["d"] * 3 + ["e"]
    chosen = choose_held_out([f"t{i}" for i in range(len(targets))], targets, 0.1)
    assert counts(targets, chosen, True) == {"a": 90, "b": 9, "c": 1}
    several = [("x", "y")] * 100 + [("x",)] * 100 + [()] * 100
    chosen = choose_held_out([f"t{i}" for i in range(300)], several, 0.2)
    assert counts(several, chosen, True) == {"x": 40, "y": 20} and sum(chosen) == 60


def test_rare_classes_share_what_is_left_over():
    targets = [f"class {i // 4}" for i in range(160)]  # 40 classes of 4, of which each has 0.4 to give
    chosen = choose_held_out([f"t{i}" for i in range(160)], targets, 0.1)
    assert sum(chosen) == 16 and max(counts(targets, chosen, True).values()) == 1


def test_scores_are_held_out_in_proportion():
    targets = [float(i) for i in range(200)]
    chosen = choose_held_out([f"t{i}" for i in range(200)], targets, 0.1)
    held = [target for target, is_held_out in zip(targets, chosen, strict=True) if is_held_out]
    assert [sum(20 * part <= score < 20 * part + 20 for score in held) for part in range(10)] == [2] * 10


def test_few_examples():
    assert choose_held_out(["a", "b"], ["x", "y"], 0.1) == [False, False]
    assert sum(choose_held_out(["a", "b", "c", "d"], ["x", "x", "y", "y"], 0.1)) == 1
    assert choose_held_out(["a", "b", "c"], [1.0, 2.0, 3.0], 0.1).count(True) == 1
    # Something must be left to tell apart.
    assert choose_held_out(["a", "b", "c", "d"], [("x",), ("x",), (), ("x",)], 0.1)[2] is False
    assert choose_held_out(["a", "b", "c"], [1.0, 1.0, 2.0], 0.9)[2] is False
    # A text that is everywhere is no validation split.
    assert not any(choose_held_out(["a"] * 10 + ["b"], ["x", "y"] * 5 + ["y"], 0.1)[:10])
