"""Intervals and comparisons against scipy, and by simulation: do they hold as often as they say?"""

import dataclasses
import json
import math

import numpy as np
import pytest

from jaxfm.core.evaluation import BootstrapData
from jaxfm.errors import UserError
from jaxfm.evaluation import bootstrap
from jaxfm.evaluation.bootstrap import bootstrap_intervals, compare, comparison_tables
from jaxfm.evaluation.classes import score_classes, score_labels, score_values
from jaxfm.tasks.classification.scorer import directions
from jaxfm.tasks.classification.spec import ClassifierSpec
from tests import tiny

stats = pytest.importorskip("scipy.stats")

NAMES = ("no", "yes")
CLASSIFIERS = [
    ClassifierSpec(kind, labels, tiny.ENCODER, "cls", False, 48, 48, 1, 0.5)
    for kind, labels in (
        ("single", NAMES),
        ("single", (*NAMES, "perhaps")),
        ("multi", NAMES),
        ("regression", ("score",)),
    )
]


def classified(right: np.ndarray, gold: np.ndarray | None = None) -> BootstrapData:
    """Two classes, right where `right` says so."""
    gold = np.arange(len(right)) % 2 if gold is None else gold
    return score_classes(gold, np.eye(2)[np.where(right, gold, 1 - gold)], NAMES).bootstrap_data


def widened(count: int) -> float:
    """The share of resamples left out at either end (Hesterberg 2015, section 5.2), by scipy.stats."""
    return stats.norm.cdf(-math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1))


def of_all(bootstrap_data: BootstrapData) -> dict[str, float]:
    return bootstrap_data.metrics(np.arange(bootstrap_data.count))


# Intervals.


def test_the_interval_is_that_of_scipy() -> None:
    random = np.random.default_rng(3)
    right = random.random(70) < 0.8
    resample = classified(right)
    found = bootstrap_intervals(resample, of_all(resample), resamples=400, seed=11)["accuracy"]
    # The same stream of random numbers, and so the very same resamples.
    wanted = stats.bootstrap(
        (right.astype(float),),
        np.mean,
        n_resamples=400,
        confidence_level=1 - 2 * widened(70),
        method="percentile",
        rng=np.random.default_rng(11),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.value == right.mean() and found.low < found.value < found.high


def test_the_interval_of_a_correlation_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    gold = random.normal(size=40).round(1)
    predicted = (gold + random.normal(size=40)).round(1)
    resample = score_values(gold, predicted).bootstrap_data
    found = bootstrap_intervals(resample, of_all(resample), resamples=200, seed=5)
    for name, statistic in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        wanted = stats.bootstrap(
            (gold, predicted),
            lambda x, y, statistic=statistic: statistic(x, y).statistic,
            paired=True,
            vectorized=False,
            n_resamples=200,
            confidence_level=1 - 2 * widened(40),
            method="percentile",
            rng=np.random.default_rng(5),
        ).confidence_interval
        assert (found[name].low, found[name].high) == pytest.approx((wanted.low, wanted.high), abs=1e-9), name


def test_only_the_metrics_asked_for_get_an_interval_and_the_seed_is_fixed() -> None:
    resample = classified(np.arange(30) % 3 > 0)
    once, again = (bootstrap_intervals(resample, {"f1": of_all(resample)["f1"]}) for _ in range(2))
    assert set(once) == {"f1"} and once == again
    assert bootstrap_intervals(resample, {"f1": 0.5}, seed=1) != bootstrap_intervals(resample, {"f1": 0.5}, seed=2)


def test_a_metric_that_is_never_defined_has_no_interval() -> None:
    resample = score_values(np.array([1.0, 2.0, 3.0]), np.ones(3)).bootstrap_data
    found = bootstrap_intervals(resample, of_all(resample), resamples=20)
    assert math.isnan(found["pearson"].low) and math.isnan(found["pearson"].high) and found["mse"].low <= 5 / 3
    # Defined in some: those where not all three are the same one.
    resample = score_values(np.array([1.0, 2.0]), np.array([1.0, 2.0])).bootstrap_data
    found = bootstrap_intervals(resample, of_all(resample), resamples=50)["pearson"]
    assert found.low == found.high == pytest.approx(1.0)
    alone = score_values(np.ones(1), np.zeros(1)).bootstrap_data
    assert math.isnan(bootstrap_intervals(alone, of_all(alone), resamples=5)["mse"].low)


# Comparisons.


def test_a_model_does_not_differ_from_itself() -> None:
    right = np.random.default_rng(0).random(60) < 0.7
    found = compare(classified(right), classified(right), rounds=200)
    for difference in found.differences.values():
        interval = difference.interval
        assert (interval.value, interval.low, interval.high, difference.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.mcnemar is not None and found.mcnemar.p == 1.0
    assert (found.mcnemar.both, found.mcnemar.only_a, found.mcnemar.only_b) == (right.sum(), 0, 0)


def pair(random: np.random.Generator, count: int, of_a: float, of_b: float) -> tuple[BootstrapData, BootstrapData]:
    """Two models with these true accuracies; most examples are easy or hard for both."""
    easy = random.random(count)
    return tuple(classified(0.7 * easy + 0.3 * random.random(count) < bound) for bound in (of_a, of_b))  # type: ignore[return-value]


def test_equal_models_are_told_apart_as_seldom_as_promised_and_different_ones_mostly() -> None:
    """120 comparisons each: 5 % of 120 is 6, and 3 deviations more is 13; the power was found to be near 1."""
    random = np.random.default_rng(0)
    found = {"equal": [], "different": []}
    for _ in range(120):
        for name, of_b in (("equal", 0.6), ("different", 0.7)):
            a, b = pair(random, 200, 0.6, of_b)
            found[name].append(compare(a, b, resamples=200, rounds=200))
    p_values = {name: np.array([one.differences["accuracy"].p for one in all]) for name, all in found.items()}
    assert (p_values["equal"] < 0.05).sum() <= 13
    assert 0.35 < p_values["equal"].mean() < 0.75
    assert (p_values["different"] < 0.05).mean() > 0.9
    exact = {name: np.array([one.mcnemar.p for one in all if one.mcnemar]) for name, all in found.items()}
    assert (exact["equal"] < 0.05).sum() <= 13 and (exact["different"] < 0.05).mean() > 0.9
    # Accuracy is what McNemar's test is about: the two tests must nearly agree.
    assert np.abs(exact["different"] - p_values["different"]).max() < 0.1
    # Interval and test are two views of one thing: 0 is outside the interval about as often as p < 0.05.
    outside = [d.interval.low > 0 or d.interval.high < 0 for d in (c.differences["accuracy"] for c in found["equal"])]
    assert sum(outside) <= 14
    middle = np.mean([one.differences["accuracy"].interval.value for one in found["different"]])
    assert middle == pytest.approx(0.1, abs=0.05)


def test_the_randomisation_is_that_of_all_exchanges() -> None:
    """With 10 examples all 1,024 ways to exchange can be counted."""
    random = np.random.default_rng(4)
    gold = np.arange(10.0)
    a, b = gold + random.normal(size=10), gold + 2.5 * random.normal(size=10)
    found = compare(
        score_values(gold, a).bootstrap_data, score_values(gold, b).bootstrap_data, resamples=10, rounds=20_000
    )
    for name, statistic in (
        ("mae", lambda x: np.abs(x - gold).mean()),
        ("pearson", lambda x: stats.pearsonr(x, gold).statistic),
        ("spearman", lambda x: stats.spearmanr(x, gold).statistic),
    ):
        observed, as_large = abs(statistic(a) - statistic(b)), 0
        for way in range(1024):
            stays = (way >> np.arange(10)) & 1 == 1
            one, other = np.where(stays, a, b), np.where(stays, b, a)
            as_large += abs(statistic(one) - statistic(other)) >= observed - 1e-12
        assert found.differences[name].p == pytest.approx(as_large / 1024, abs=0.012), name


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 5), (3, 3), (4, 11), (40, 61), (900, 1100)])
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, False])
    found = compare(classified(a), classified(b), resamples=2, rounds=2).mcnemar
    assert found is not None
    assert (found.both, found.only_a, found.only_b, found.neither) == (1, only_a, only_b, 1)
    wanted = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert found.p == pytest.approx(wanted, rel=1e-9)


def test_differences_are_paired() -> None:
    """Two models that fail on the same examples: each interval is wide, that of the difference is not."""
    right = np.random.default_rng(0).random(400) < 0.6
    better = right.copy()
    better[np.flatnonzero(~right)[:12]] = True
    a, b = classified(right), classified(better)
    alone = bootstrap_intervals(a, of_all(a))["accuracy"]
    found = compare(a, b).differences["accuracy"]
    assert found.interval.value == pytest.approx(12 / 400) and alone.high - alone.low > 0.09
    assert 0 < found.interval.low < found.interval.high < 0.05 and found.p < 0.01


def test_a_comparison_is_told_in_words_and_numbers() -> None:
    gold = np.arange(50.0)
    noise = np.random.default_rng(0).normal(size=50)
    near, far = (
        score_values(gold, gold + noise).bootstrap_data,
        score_values(gold, gold + 8 * noise[::-1]).bootstrap_data,
    )
    table = comparison_tables(compare(far, near, ("runs/a", "runs/b")), "test")[0]
    assert table.title == "test, 50 examples: A = runs/a, B = runs/b"
    verdicts = {row[0]: row[-1] for row in table.rows}
    better = dict.fromkeys(("pearson", "spearman", "loss", "mse", "mae"), "B better")  # mse: less is better
    assert verdicts == better
    other = comparison_tables(compare(near, far), "test")[0]
    assert {row[-1] for row in other.rows} == {"A better"}
    same = comparison_tables(compare(near, near), "test")[0]
    assert {row[-1] for row in same.rows} == {"no difference shown"}
    told = compare(far, near, ("runs/a", "runs/b")).to_dict()
    assert (told["a"], told["b"], told["count"], told["unit"]) == ("runs/a", "runs/b", 50, "examples")
    assert told["mcnemar"] is None and told["metrics"]["mse"]["difference"] < 0
    assert set(told["metrics"]["mse"]) == {"a", "b", "difference", "interval", "p", "least_p"}
    json.dumps(told, allow_nan=False)
    accuracy = comparison_tables(compare(classified(gold > 5), classified(gold > 9)), "test")
    assert accuracy[1].rows == [("count", 40, 4, 0, 6, 0.125)]


@pytest.mark.parametrize("spec", CLASSIFIERS, ids=lambda spec: f"{spec.kind}{len(spec.labels)}")
def test_which_metrics_are_better_when_less_is_what_choosing_a_checkpoint_says(spec: ClassifierSpec) -> None:
    draw = np.random.default_rng(0)
    found = draw.random((12, len(spec.labels)))
    if spec.kind == "single":
        scores = score_classes(np.arange(12) % len(spec.labels), found, spec.labels)
    elif spec.kind == "multi":
        scores = score_labels((found > 0.3).astype(int), draw.random(found.shape), spec.labels, 0.5)
    else:
        scores = score_values(found[:, 0], draw.random(12))
    less = {name for name, more_is_better in directions(spec).items() if not more_is_better}
    assert less and less == set(scores.bootstrap_data.less_is_better)


def test_which_of_two_is_better() -> None:
    zero = bootstrap.Interval(1.0, 1.0, 1.0)
    for less_is_better, verdict in ((True, "A better"), (False, "B better")):
        difference = bootstrap.Difference(0.0, 1.0, zero, 0.01)
        assert bootstrap._verdict(difference, "rows", less_is_better=less_is_better) == verdict


def lossy(losses: list[float]) -> BootstrapData:
    """Rows with these losses."""
    return BootstrapData(
        sampling_unit="rows",
        units={"loss": np.array(losses)},
        computed=lambda units, weight: {"loss": weight @ units["loss"]},
        identity=range(len(losses)),
        less_is_better=("loss",),
    )


@pytest.mark.parametrize("count", range(1, 9))
def test_few_units_cannot_show_a_difference_and_say_so(count: int) -> None:
    """Every row is worse in B: of 2 ** n exchanges two are as extreme, whatever the difference."""
    losses = np.linspace(1.0, 1.3, count)
    found = compare(lossy(list(losses)), lossy(list(losses + np.linspace(0.5, 0.6, count)))).differences["loss"]
    assert found.p == found.least_p == pytest.approx(min(2.0 ** (1 - count), 1.0))
    oracle = stats.wilcoxon(np.linspace(0.5, 0.6, count), method="exact").pvalue if count > 1 else 1.0
    assert found.p == pytest.approx(oracle)  # equal where all signs are
    told = comparison_tables(compare(lossy(list(losses)), lossy(list(losses + 0.5))), "valid")[0]
    if count < 6:
        assert math.isnan(found.interval.low) and found.verdict == "too few"
        assert told.rows[0][4:6] == (None, None) and told.rows[0][-1] == "too few rows differ"
    else:
        assert found.interval.low > 0 and found.verdict == "different" and told.rows[0][-1] == "A better"


@pytest.mark.parametrize("only_b", [1, 3, 5, 6, 7, 9, 12, 40])
def test_few_examples_that_differ_among_many(only_b: int) -> None:
    """Interval and p rest on the examples that one model alone has right, not on all 300."""
    a = np.arange(300) >= 60
    b = a | (np.arange(300) < only_b)
    found = compare(classified(a), classified(b)).differences["accuracy"]
    assert found.least_p == pytest.approx(max(2.0 ** (1 - only_b), 1 / 2001), rel=0.3)
    if only_b < 6:
        assert found.verdict == "too few" and math.isnan(found.interval.low) and found.p > 0.05
    else:
        assert (found.interval.low > 0) == (found.p < 0.05) or found.verdict == "border"
    if only_b > 6:
        assert found.verdict == "different" and found.interval.low > 0


def test_the_p_value_of_few_units_is_that_of_scipy() -> None:
    random = np.random.default_rng(1)
    for count in (4, 7, 10):
        a, b = random.normal(size=(2, count))
        found = compare(lossy(list(a)), lossy(list(b))).differences["loss"]
        wanted = stats.permutation_test(
            (a, b), lambda x, y: (y - x).sum(), permutation_type="samples", n_resamples=5000, vectorized=False
        )
        assert found.p == pytest.approx(wanted.pvalue, abs=1e-9)


def test_interval_and_p_tell_one_story() -> None:
    """Small comparisons: 0 outside an interval where p says nothing is on the border, and rare."""
    random = np.random.default_rng(0)
    verdicts = []
    for _ in range(150):
        count = int(random.integers(2, 40))
        base, shift = random.normal(size=count), random.choice([0.0, 0.3, 1.0])
        a, b = base + 0.3 * random.normal(size=count), base + shift + 0.3 * random.normal(size=count)
        found = compare(lossy(list(a)), lossy(list(b)), resamples=200, rounds=500).differences["loss"]
        verdicts.append(found.verdict)
        if found.verdict == "different":
            assert found.p < 0.05 and (found.interval.low > 0 or found.interval.high < 0)
        if found.verdict == "same":
            assert found.p >= 0.05 and found.interval.low <= 0 <= found.interval.high
    assert verdicts.count("border") <= 15 and {"same", "different", "too few"} <= set(verdicts)


# What is refused.


def refusal(a: BootstrapData, b: BootstrapData) -> str:
    with pytest.raises(UserError) as caught:
        compare(a, b, ("runs/a", "runs/b"), resamples=2, rounds=2)
    message = str(caught.value)
    assert message.startswith("--compare=runs/a,runs/b: ")
    return message


def test_models_scored_on_other_data_are_refused() -> None:
    a = classified(np.ones(6, bool))
    assert "runs/a on 6 examples, runs/b on 5 examples" in refusal(a, classified(np.ones(5, bool)))
    message = refusal(a, classified(np.ones(6, bool), gold=np.array([0, 1, 0, 0, 0, 1])))
    assert "runs/a has at number 4 of the examples 'yes', runs/b has at number 4 of the examples 'no'" in message
    assert "on 6 sentences" in refusal(a, dataclasses.replace(a, sampling_unit="sentences"))
    long = dataclasses.replace(a, identity=["x" * 500, *a.identity[1:]])
    assert len(refusal(a, long)) < 500


def test_models_of_other_classes_are_refused() -> None:
    a = classified(np.ones(6, bool))
    message = refusal(a, dataclasses.replace(a, classes=("no", "perhaps", "yes")))
    assert "runs/b alone ['perhaps']" in message
    assert "the positive class is 'yes' in runs/a and 'no' in runs/b" in refusal(
        a, dataclasses.replace(a, classes=("yes", "no"))
    )
    other = dataclasses.replace(a, units={"entities": np.zeros((6, 3))})
    assert "runs/a by gold, predicted, runs/b by entities" in refusal(a, other)
