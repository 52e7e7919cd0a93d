"""The metric that suits the balance of the classes, and the warning of a model that has learned nothing."""

import numpy as np
import pytest

from jaxfm.evaluation.classes import score_classes, score_labels, score_values
from jaxfm.tasks.class_balance import choose_metric, constant_answer_warning

NAMES = ("a", "b", "c")


@pytest.mark.parametrize(
    ("kind", "counts", "metric"),
    [
        ("single", [30, 30, 40], "accuracy"),
        ("single", [60, 20, 20], "accuracy"),
        ("single", [60, 37, 3], "macro_f1"),
        ("single", [70, 30], "accuracy"),
        ("single", [90, 10], "macro_f1"),
        ("multi", [30, 30, 40], "micro_f1"),
        ("multi", [60, 37, 3], "macro_f1"),
    ],
)
def test_a_class_of_less_than_half_an_even_share_asks_for_macro_f1(kind: str, counts: list[int], metric: str) -> None:
    chosen, note = choose_metric(kind, NAMES[: len(counts)], np.asarray(counts))
    assert chosen == metric and bool(note) == (metric == "macro_f1")
    if note:
        rare = NAMES[int(np.argmin(counts))]
        assert f"{rare!r} has {min(counts)} of the {sum(counts)}" in note and "class_weights=balanced" in note


def test_numbers_are_judged_by_their_correlation() -> None:
    assert choose_metric("regression", ("score",), None) == ("pearson", "")


def warned(gold: np.ndarray, predicted: np.ndarray) -> tuple[str, ...]:
    metrics = score_classes(gold, np.eye(3)[predicted], NAMES).metrics
    return constant_answer_warning("single", gold, metrics, NAMES)


def test_one_answer_to_everything_is_said_with_both_numbers() -> None:
    gold = np.asarray([0] * 12 + [1] * 5 + [2] * 3)
    (sentence,) = warned(gold, np.zeros(20, int))
    assert (
        "no better than always answering 'a', the most frequent class: accuracy 0.6000, always 'a' 0.6000" in sentence
    )
    assert "class_weights=balanced" in sentence and "python -m jaxfm.check" in sentence
    (worse,) = warned(gold, np.full(20, 2))
    assert "accuracy 0.1500, always 'a' 0.6000" in worse


def test_a_model_that_knows_a_rare_class_is_not_warned_of() -> None:
    gold = np.asarray([0] * 12 + [1] * 5 + [2] * 3)
    assert warned(gold, gold) == ()
    # Less accurate than the constant, but it tells the classes apart: its macro F1 is higher.
    mixed = np.asarray([0] * 7 + [1] * 5 + [1] * 3 + [2] * 2 + [2] * 3)
    assert (mixed == gold).mean() > 0.6 or warned(gold, mixed) == ()


def test_the_macro_f1_of_the_constant_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    gold = np.asarray([0] * 12 + [1] * 5 + [2] * 3)
    constant = metrics.f1_score(gold, np.zeros(20, int), average="macro", zero_division=0)
    just_above = {"accuracy": 0.5, "macro_f1": constant + 1e-6}
    just_below = {"accuracy": 0.5, "macro_f1": constant - 1e-6}
    assert constant_answer_warning("single", gold, just_above, NAMES) == ()
    assert len(constant_answer_warning("single", gold, just_below, NAMES)) == 1


def test_labels_and_numbers_have_a_constant_too() -> None:
    gold = np.asarray([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]])
    always = np.tile([0.9, 0.1, 0.1], (4, 1))
    metrics = score_labels(gold, always, NAMES).metrics
    (sentence,) = constant_answer_warning("multi", gold, metrics, NAMES)
    assert "the most frequent label: micro_f1 0.6667, always 'a' 0.6667" in sentence
    perfect = score_labels(gold, gold.astype(float), NAMES).metrics
    assert constant_answer_warning("multi", gold, perfect, NAMES) == ()
    values = np.asarray([1.0, 2.0, 3.0, 6.0])
    flat = score_values(values, np.full(4, 3.0)).metrics
    assert "always the mean 3.5" in constant_answer_warning("regression", values, flat, ("score",))[0]
    near = score_values(values, values + 0.1).metrics
    assert constant_answer_warning("regression", values, near, ("score",)) == ()
