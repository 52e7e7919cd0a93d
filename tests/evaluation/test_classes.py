"""Every metric against scikit-learn and scipy, degenerate inputs included."""

import json
import pathlib
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.evaluation.classes import (
    Scores,
    add_counts,
    report,
    score_classes,
    score_labels,
    score_table,
    score_values,
    undefined_metrics,
)

sklearn = pytest.importorskip("sklearn.metrics")
stats = pytest.importorskip("scipy.stats")

NAMES = ("d", "b", "a", "c", "e")
# Few values and few examples: classes that are missing on one side or both, constant predictions, ties.
CLASSES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12)
VALUES = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12)


def of_classes(gold: np.ndarray, predicted: np.ndarray, names: tuple[str, ...] = NAMES) -> Scores:
    probability = np.eye(len(names))[predicted] * 0.5 + 0.1
    return score_classes(gold, probability, names)


def quiet(function: Any, *arguments: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracles': scores itself must be silent, as warnings are errors here
        return function(*arguments, **named)


@given(CLASSES)
@settings(deadline=None, max_examples=80)
def test_classes_score_as_in_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.asarray(pairs).T
    scores = of_classes(gold, predicted)
    wanted = {
        "accuracy": sklearn.accuracy_score(gold, predicted),
        "macro_f1": sklearn.f1_score(gold, predicted, average="macro", zero_division=0),
        "weighted_f1": sklearn.f1_score(gold, predicted, average="weighted", zero_division=0),
        "macro_precision": sklearn.precision_score(gold, predicted, average="macro", zero_division=0),
        "macro_recall": sklearn.recall_score(gold, predicted, average="macro", zero_division=0),
        "mcc": quiet(sklearn.matthews_corrcoef, gold, predicted),
    }
    assert scores.metrics == pytest.approx(wanted, abs=1e-12)
    there = sorted(set(gold) | set(predicted))
    report = quiet(
        sklearn.classification_report,
        gold,
        predicted,
        labels=there,
        target_names=[NAMES[index] for index in there],
        output_dict=True,
        zero_division=0,
    )
    found = {**scores.detail["per_class"], "macro avg": scores.detail["macro"]}
    found["weighted avg"] = scores.detail["weighted"]
    for name, row in found.items():
        wanted = {"f1" if key == "f1-score" else key: value for key, value in report[name].items()}
        assert row == pytest.approx(wanted, abs=1e-12), name
    assert list(scores.detail["per_class"]) == [NAMES[index] for index in there]
    matrix = sklearn.confusion_matrix(gold, predicted, labels=range(5))
    np.testing.assert_array_equal(scores.detail["confusion"], matrix)
    json.dumps(scores.detail, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_of_two_classes_the_second_is_the_positive_one(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.asarray(pairs).T
    metrics = of_classes(gold, predicted, ("yes", "no")).metrics
    for name in ("f1", "precision", "recall"):
        wanted = getattr(sklearn, f"{name}_score")(gold, predicted, zero_division=0)
        assert metrics[name] == pytest.approx(wanted, abs=1e-12), name


def test_losses_are_averaged() -> None:
    scores = score_classes(np.array([0, 1]), np.eye(2), ("no", "yes"), loss_N=np.array([0.5, 1.0]))
    assert scores.metrics["loss"] == 0.75


def test_tables_of_classes_name_what_is_taken_for_what() -> None:
    gold, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 2, 2])
    report, confusions = of_classes(gold, predicted).tables
    assert [row[0] for row in report.rows] == ["d", "b", "a", "micro average", "macro average", "weighted average"]
    assert report.footer == 3
    assert list(confusions.rows) == [("d", "b", 2, 2 / 3), ("b", "a", 1, 0.5)]
    assert len(of_classes(gold, gold).tables) == 1  # nothing is confused


@given(st.lists(st.tuples(*[st.booleans()] * 6), min_size=1, max_size=10))
@settings(deadline=None, max_examples=80)
def test_labels_score_as_in_scikit_learn(rows: list[tuple[bool, ...]]) -> None:
    gold, predicted = np.split(np.asarray(rows, int), 2, axis=1)
    # Exactly at the threshold counts as predicted.
    scores = score_labels(gold, np.where(predicted, 0.3, 0.29), NAMES[:3], threshold=0.3)
    wanted = {
        f"{average}_f1": sklearn.f1_score(gold, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "weighted")
    }
    wanted["micro_precision"] = sklearn.precision_score(gold, predicted, average="micro", zero_division=0)
    wanted["micro_recall"] = sklearn.recall_score(gold, predicted, average="micro", zero_division=0)
    wanted["exact_match"] = sklearn.accuracy_score(gold, predicted)
    assert scores.metrics == pytest.approx(wanted, abs=1e-12)
    each = sklearn.precision_recall_fscore_support(gold, predicted, average=None, zero_division=0)
    for index, name in enumerate(NAMES[:3]):
        found = scores.detail["per_label"][name]
        assert tuple(found.values()) == pytest.approx([values[index] for values in each], abs=1e-12)


@given(VALUES)
@settings(deadline=None, max_examples=80)
def test_values_score_as_in_scipy(pairs: list[tuple[int, int]]) -> None:
    gold, predicted = np.asarray(pairs, float).T * 0.7
    metrics = score_values(gold, predicted).metrics
    wanted = {
        "pearson": quiet(stats.pearsonr, gold, predicted).statistic,
        "spearman": quiet(stats.spearmanr, gold, predicted).statistic,
        "mse": sklearn.mean_squared_error(gold, predicted),
        "loss": sklearn.mean_squared_error(gold, predicted),
        "mae": sklearn.mean_absolute_error(gold, predicted),
    }
    # What is not defined is left out.
    assert metrics == pytest.approx({name: x for name, x in wanted.items() if not np.isnan(x)}, abs=1e-9)


def test_values_of_all_sizes_correlate_as_in_scipy() -> None:
    random = np.random.default_rng(0)
    gold = random.normal(size=500)
    for scale, shift in ((1.0, 0.0), (1e-6, 1e3), (1e8, -5.0)):
        predicted = (gold + random.normal(size=500)) * scale + shift
        metrics = score_values(gold, predicted).metrics
        assert metrics["pearson"] == pytest.approx(stats.pearsonr(gold, predicted).statistic, abs=1e-7)
        assert metrics["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic, abs=1e-12)


def test_a_diverged_model_is_scored_in_silence() -> None:
    values = score_values(np.array([1.0, 2.0, 3.0]), np.array([1.0, np.nan, 2.0]))
    assert np.isnan([values.metrics[name] for name in ("loss", "mse", "mae")]).all()
    assert "pearson" not in values.metrics
    assert not values.plots
    assert score_classes(np.array([0, 1]), np.full((2, 2), np.nan), ("no", "yes")).metrics["accuracy"] == 0.5


# The metrics as a function of the examples: what `jaxfm.evaluation.bootstrap` draws from.


def several() -> dict[str, Scores]:
    random = np.random.default_rng(0)
    gold = random.integers(0, 5, 40)
    return {
        "classes": score_classes(gold, random.random((40, 5)) + np.eye(5)[gold], NAMES, loss_N=random.random(40)),
        "two classes": score_classes(gold % 2, random.random((40, 2)), ("no", "yes")),
        "labels": score_labels(random.random((40, 5)) < 0.4, random.random((40, 5)), NAMES, loss_N=random.random(40)),
        "values": score_values(gold, random.normal(size=40).round(1) + gold),
    }


def again(scores: Scores, kind: str, index: np.ndarray) -> dict[str, float]:
    """The metrics of the examples that `index` picks, scored from nothing."""
    units = scores.bootstrap_data.units
    if kind == "values":
        return score_values(units["gold"][index], units["predicted"][index]).metrics
    losses = units["loss"][index] if "loss" in units else None
    names = scores.bootstrap_data.classes
    if kind == "labels":
        _, predicted, gold = np.split(units["counts"][index], 3, axis=1)
        return score_labels(gold, predicted, names, loss_N=losses).metrics
    return score_classes(
        units["gold"][index], np.eye(len(names))[units["predicted"][index]], names, loss_N=losses
    ).metrics


@pytest.mark.parametrize("kind", several())
def test_resampled_metrics_are_those_of_the_examples_picked(kind: str) -> None:
    scores, random = several()[kind], np.random.default_rng(1)
    resample = scores.bootstrap_data
    assert resample.count == 40
    assert resample.metrics(np.arange(40)) == pytest.approx(scores.metrics, abs=1e-12)
    indices = [random.integers(0, 40, 40) for _ in range(5)] + [np.arange(7), np.array([3, 3, 3])]
    weights = np.stack([np.bincount(index, minlength=40) for index in indices]).astype(float)
    together = resample.computed(resample.units, weights)
    for row, index in enumerate(indices):
        wanted = again(scores, kind, index)
        for found in (resample.metrics(index), {name: values[row] for name, values in together.items()}):
            assert {name: x for name, x in found.items() if not np.isnan(x)} == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "gold", "said"),
    [
        ("regression", [3.0] * 4, {"pearson": "is not defined: all 4 scores are 3", "spearman": ""}),
        ("regression", [3.0], {"pearson": "all 1 scores are 3", "spearman": ""}),
        ("regression", [3.0, 4.0], {}),
        ("single", [0, 0, 0], {"mcc": "the 3 examples have one class", "f1": "", "precision": "", "recall": ""}),
        ("single", [1, 1], {"mcc": "is 0 for all predictions"}),
        ("single", [0, 1], {}),
        ("multi", [[0, 0], [0, 0]], {"micro_f1": "", "macro_f1": "", "weighted_f1": "", "micro_recall": "has a label"}),
        ("multi", [[0, 0], [0, 1]], {}),
    ],
)
def test_metrics_that_say_nothing_of_these_targets_are_known_beforehand(
    kind: str, gold: list[Any], said: dict[str, str]
) -> None:
    found = undefined_metrics(kind, np.asarray(gold))
    assert set(found) == set(said) and all(words in found[name] for name, words in said.items())
    # An oracle: no prediction changes them.
    random = np.random.default_rng(0)
    for _ in range(5):
        count = len(gold)
        if kind == "regression":
            metrics = score_values(np.asarray(gold), random.normal(size=count)).metrics
            assert not set(found) & set(metrics)
        elif kind == "single":
            metrics = score_classes(np.asarray(gold), random.random((count, 2)), ("no", "yes")).metrics
            assert all(metrics[name] == 0 for name in found)
        else:
            metrics = score_labels(np.asarray(gold), random.random((count, 2)), ("a", "b")).metrics
            assert all(metrics[name] == 0 for name in found)


def test_models_that_number_their_classes_otherwise_can_be_compared() -> None:
    gold, probability = np.array([0, 1, 2, 2]), np.random.default_rng(0).random((4, 3))
    turned = [2, 0, 1]
    one = score_classes(gold, probability, ("x", "y", "z"))
    other = score_classes(np.argsort(turned)[gold], probability[:, turned], ("z", "x", "y"))
    assert one.metrics == other.metrics and one.bootstrap_data.classes == other.bootstrap_data.classes
    assert list(one.bootstrap_data.identity) == list(other.bootstrap_data.identity) == ["x", "y", "z", "z"]
    for name in ("gold", "predicted"):
        np.testing.assert_array_equal(one.bootstrap_data.units[name], other.bootstrap_data.units[name])


@pytest.mark.parametrize("kind", several())
def test_pictures_are_drawn(kind: str, tmp_path: pathlib.Path) -> None:
    for name, drawn in several()[kind].plots.items():
        drawn(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert len(list(tmp_path.iterdir())) == 1


def test_counts_of_thousands_of_classes_add_up_alike() -> None:
    draw = np.random.default_rng(0)
    counts = np.zeros((50, 900), np.float32)
    counts[draw.integers(0, 50, 70), draw.integers(0, 900, 70)] = draw.integers(1, 5, 70)
    weight = draw.integers(0, 4, (7, 50)).astype(np.float64)
    wanted = np.stack(np.split(weight @ counts.astype(np.float64), 3, axis=-1))
    np.testing.assert_array_equal(add_counts(counts, weight), wanted)
    np.testing.assert_array_equal(add_counts(np.zeros_like(counts), weight), np.zeros((3, 7, 300)))
    full = np.ones_like(counts)
    np.testing.assert_array_equal(add_counts(full, weight)[0, :, 0], weight.sum(axis=1))


def test_a_table_of_thousands_of_classes_shows_the_most_frequent() -> None:
    names, gold = [f"T{index}" for index in range(3000)], np.arange(3000)
    items, averages = report(names, gold * 0, gold * 0, gold)
    table = score_table("Entities", "type", items, averages)
    assert [row[0] for row in table.rows] == [*names[-50:], "and 2,950 more", *averages]
    assert table.rows[50][1:] == (None, None, None, sum(range(2950)))
    assert len(score_table("Entities", "type", dict(list(items.items())[:50]), averages).rows) == 53
