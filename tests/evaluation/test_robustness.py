"""Drops, calibration and flips beside brute force; what the gate lets pass."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from jaxfm.core.evaluation import BootstrapData, Evaluation
from jaxfm.errors import UserError
from jaxfm.evaluation.bootstrap import Interval
from jaxfm.evaluation.calibration import Reliability
from jaxfm.evaluation.robustness import Effect, effect_of, judge, scored, worst_units

LABELS = ("a", "b")


def evaluation(gold: Sequence[str], probability_of_b: Sequence[float]) -> Evaluation:
    """A split of texts of two classes, scored by accuracy."""
    predicted = ["b" if share >= 0.5 else "a" for share in probability_of_b]
    right = np.asarray([one == other for one, other in zip(gold, predicted, strict=True)])
    records: list[dict[str, Any]] = [
        {"gold": one, "predicted": other, "correct": one == other, "scores": {"a": 1 - share, "b": share}}
        for one, other, share in zip(gold, predicted, probability_of_b, strict=True)
    ]

    def computed(units: Any, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": (weight_RN @ units["right"]) / weight_RN.sum(axis=-1)}

    data = BootstrapData(
        "texts", {"right": right.astype(float)}, computed, list(enumerate(gold)), right=right, shares=("accuracy",)
    )
    return Evaluation({"accuracy": float(right.mean())}, {}, (), records, bootstrap_data=data)


def tagged(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Evaluation:
    right = np.asarray([list(one) == list(other) for one, other in zip(gold, predicted, strict=True)])
    records = [
        {"gold": list(one), "predicted": list(other), "probabilities": [0.9] * len(one)}
        for one, other in zip(gold, predicted, strict=True)
    ]

    def computed(units: Any, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        return {"f1": (weight_RN @ units["right"]) / weight_RN.sum(axis=-1)}

    data = BootstrapData("sentences", {"right": right.astype(float)}, computed, list(range(len(gold))), right=right)
    return Evaluation({"f1": float(right.mean())}, {}, (), records, bootstrap_data=data)


GENERATOR = np.random.default_rng(0)
GOLD = [LABELS[each] for each in GENERATOR.integers(0, 2, 120)]
BEFORE = [0.9 if label == "b" else 0.2 for label in GOLD]
BEFORE[:6] = [1 - share for share in BEFORE[:6]]
AFTER = [1 - share if number % 4 == 0 else share for number, share in enumerate(BEFORE)]


def effect(before: Sequence[float] = BEFORE, after: Sequence[float] = AFTER) -> tuple[Any, Effect]:
    clean, changed = (scored(evaluation(GOLD, each), "accuracy", False) for each in (before, after))
    return clean, effect_of(clean, changed, "typos", 3, touched=1.0, aligned=[True] * len(GOLD))


def test_a_drop_is_a_paired_difference() -> None:
    clean, found = effect()
    right = [
        np.asarray([(share >= 0.5) == (label == "b") for share, label in zip(each, GOLD, strict=True)])
        for each in (BEFORE, AFTER)
    ]
    assert found.drop.value == pytest.approx(right[0].mean() - right[1].mean())
    apart, generator = right[0].astype(float) - right[1], np.random.default_rng(9)
    samples = [apart[generator.integers(0, 120, 120)].mean() for _ in range(4000)]
    assert (found.drop.low, found.drop.high) == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.012)
    assert (
        clean.value.value == pytest.approx(right[0].mean()) and clean.value.low < clean.value.value < clean.value.high
    )


def test_calibration_is_that_of_the_report() -> None:
    clean, found = effect()
    for each, shares in ((clean, BEFORE), (found.scored, AFTER)):
        sure = np.asarray([max(share, 1 - share) for share in shares])
        right = np.asarray([(share >= 0.5) == (label == "b") for share, label in zip(shares, GOLD, strict=True)])
        assert each.ece is not None
        assert each.ece.value == pytest.approx(Reliability.of(sure, right).error)
        assert each.ece.low <= each.ece.value <= each.ece.high + 1e-9
    assert found.ece_rise is not None
    assert found.ece_rise.value == pytest.approx(found.scored.ece.value - clean.ece.value)  # type: ignore[union-attr]


def test_flips_are_counted() -> None:
    clean, found = effect()
    assert found.flips is not None
    assert found.flips.which.tolist() == [number % 4 == 0 for number in range(120)]
    assert found.flips.share.value == 0.25 and found.flips.share.low < 0.25 < found.flips.share.high
    assert (found.flips.broken, found.flips.mended) == (28, 2)
    worst = worst_units(clean, found, 10)
    assert len(worst) == 10 and all(number % 4 == 0 and number > 5 for number in worst)
    sure = [max(found.scored.predictions[number]["scores"].values()) for number in worst]
    assert sure == sorted(sure, reverse=True)


def test_nothing_changed_is_no_drop() -> None:
    _, found = effect(BEFORE, BEFORE)
    assert found.drop == Interval(0.0, 0.0, 0.0) and found.flips is not None and not found.flips.which.any()
    assert judge([found], 0.0, strict=True).passes


def test_too_few_differences_have_no_interval() -> None:
    after = [*BEFORE]
    after[50] = 1 - after[50]
    _, found = effect(BEFORE, after)
    assert found.drop.value == pytest.approx(1 / 120) and math.isnan(found.drop.low)


def test_tags_are_compared_by_words_or_by_entities() -> None:
    gold = [["B-PER", "O"], ["O", "B-LOC"]]
    clean = scored(tagged(gold, gold), "f1", False)
    longer = [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]
    changed = scored(tagged(longer, [["B-PER", "I-PER", "O"], ["O", "O"]]), "f1", False)
    found = effect_of(clean, changed, "entities", 1, touched=0.5, aligned=[False, True])
    assert found.flips is not None and found.flips.which.tolist() == [False, True]
    assert clean.ece is not None and clean.ece.value == pytest.approx(0.1)


def test_less_may_be_better() -> None:
    base = evaluation(GOLD, BEFORE)
    clean, changed = (scored(evaluation(GOLD, each), "accuracy", True) for each in (BEFORE, AFTER))
    found = effect_of(clean, changed, "x", 1, touched=1.0, aligned=[True] * 120)
    assert found.drop.value < 0 and found.drop.low <= found.drop.value <= found.drop.high
    assert base.metrics["accuracy"] > 0.9


def test_numbers_have_no_flips_and_no_calibration() -> None:
    base = evaluation(GOLD, BEFORE)
    records = [{"gold": 1.0, "predicted": float(share)} for share in BEFORE]
    found = scored(dataclasses.replace(base, predictions=records), "accuracy", False)
    assert found.ece is None
    assert effect_of(found, found, "x", 1, touched=0.0, aligned=[True] * 120).flips is None


def test_a_metric_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(UserError, match=r"--metric=f1: cannot be computed .* Those that can: accuracy"):
        scored(evaluation(GOLD, BEFORE), "f1", False)
    with pytest.raises(UserError, match="not scored by independent units"):
        scored(dataclasses.replace(evaluation(GOLD, BEFORE), bootstrap_data=None), "accuracy", False)


@pytest.mark.parametrize(
    ("drop", "state"),
    [
        (Interval(0.2, 0.1, 0.3), "above"),
        (Interval(0.08, 0.04, 0.12), "unsure"),
        (Interval(0.03, 0.01, 0.05), "within"),
        (Interval(0.04, 0.01, 0.06), "unsure"),
        (Interval(0.1, math.nan, math.nan), "unsure"),
        (Interval(0.01, math.nan, math.nan), "within"),
    ],
)
def test_the_gate_judges_by_intervals(drop: Interval, state: str) -> None:
    _, found = effect()
    found = dataclasses.replace(found, drop=drop)
    plain, strict = (judge([found], 0.05, strict=each) for each in (False, True))
    assert plain.passes == (state != "above") and strict.passes == (state == "within")
    assert ("FAILS" in plain.lines()[0]) == (state == "above")
    assert len(plain.unsure) == (state == "unsure")
    if state == "above":
        assert plain.lines()[1] == "  typos at severity 3: +0.2000 (+0.1000 to +0.3000)"
