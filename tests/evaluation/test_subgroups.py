"""Scores by subgroup: those of the units of a group alone, a planted gap, and groups that are too small."""

import numpy as np
import pytest

from jaxfm.evaluation.classes import score_classes
from jaxfm.evaluation.subgroups import LEAST, by_group


def scored(groups: dict[str, tuple[int, float]], seed: int = 0) -> tuple[object, list[str], np.ndarray, np.ndarray]:
    """Predictions of two classes that are right with a probability of each group; units in a mixed order."""
    draw = np.random.default_rng(seed)
    names = [name for name, (count, _) in groups.items() for _ in range(count)]
    order = draw.permutation(len(names))
    names = [names[each] for each in order]
    gold = draw.integers(0, 2, len(names))
    right = draw.random(len(names)) < np.array([groups[name][1] for name in names])
    predicted = np.where(right, gold, 1 - gold)
    probability = np.eye(2)[predicted] * 0.6 + 0.2
    return score_classes(gold, probability, ("no", "yes")).bootstrap_data, names, gold, predicted


def test_a_group_has_the_scores_of_its_units() -> None:
    from sklearn.metrics import accuracy_score, f1_score

    data, names, gold, predicted = scored({"old": (120, 0.6), "young": (200, 0.95), "few": (LEAST - 1, 1.0)})
    found = by_group(data, names, ["accuracy", "macro_f1", "unknown"])
    assert found is not None and found.unit == "examples"
    assert list(found.counts.items()) == [("young", 200), ("old", 120)] and found.left_out == {"few": LEAST - 1}
    for group in found.counts:
        mine = np.array(names) == group
        metrics = found.metrics[group]
        assert set(metrics) == {"accuracy", "macro_f1"}
        assert metrics["accuracy"].value == pytest.approx(accuracy_score(gold[mine], predicted[mine]))
        assert metrics["macro_f1"].value == pytest.approx(f1_score(gold[mine], predicted[mine], average="macro"))
        assert metrics["accuracy"].low < metrics["accuracy"].value < metrics["accuracy"].high
    first = found.gaps[0]
    assert first.group == "old" and first.p < 0.01 and first.interval.high < -0.2
    assert first.interval.low < -0.35 < first.interval.high


def test_groups_alike_are_not_accused_and_one_group_is_none() -> None:
    accused = 0
    for seed in range(8):
        data, names, _, _ = scored({"a": (60, 0.8), "b": (90, 0.8), "c": (70, 0.8)}, seed)
        found = by_group(data, names, ["accuracy", "macro_f1"])
        assert found is not None
        accused += found.gaps[0].p < 0.05
    assert accused <= 2
    data, names, _, _ = scored({"a": (60, 0.8), "b": (LEAST - 1, 0.8)})
    assert by_group(data, names, ["accuracy"]) is None
