"""Pairs as groups: the ranking of the second texts of each first text, and where there is nothing to rank."""

import json
import math
import pathlib
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxfm.data.records.examples import Example
from jaxfm.evaluation import bootstrap
from jaxfm.evaluation.calibration import probabilities
from jaxfm.evaluation.coverage import THRESHOLD
from jaxfm.observe.summary import result_of, summary_table
from jaxfm.programs.evaluate import compare
from jaxfm.tasks.classification.groups import METRICS, best_scores, can_rank, ranking_of_pairs, undefined_rankings
from jaxfm.tasks.classification.predictor import ClassifierPredictor, EncodedRecords
from jaxfm.tasks.classification.scorer import ClassifierScorer, directions
from jaxfm.tasks.classification.spec import ClassifierSpec
from jaxfm.tasks.classification.task import ClassificationTask
from jaxfm.training.results import with_intervals
from tests import tiny
from tests.tasks.classification.test_task import create


def spec(kind: str = "single", labels: tuple[str, ...] = ("no", "yes"), *, pairs: bool = True) -> ClassifierSpec:
    return ClassifierSpec(
        kind, labels, tiny.ENCODER, "cls", pairs=pairs, row_length=48, window=48, segments=4, threshold=0.5
    )


def drawn(kind: str, seed: int) -> tuple[list[Example], np.ndarray]:
    """Pairs of 12 first texts in any order, some of whose second texts are all alike, and scores without ties."""
    draw = np.random.default_rng(seed)
    examples = []
    for query in range(12):
        for candidate in range(int(draw.integers(1, 15))):
            target = float(draw.integers(1, 5)) if kind == "regression" else ("no", "yes")[int(draw.random() < 0.3)]
            examples.append(Example(f"q{query}", f"c{candidate}", target, ""))
    draw.shuffle(examples)  # type: ignore[arg-type]
    return examples, draw.permutation(len(examples)) / len(examples)


def by_definition(examples: list[Example], scores: np.ndarray, least: float) -> dict[str, float]:
    """Returns the mean of each metric, rank by rank."""
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for example, score in zip(examples, scores, strict=True):
        grade = example.target - least if isinstance(example.target, float) else float(example.target == "yes")
        groups[example.text].append((float(score), grade))
    found = defaultdict(list)
    for pairs in groups.values():
        grades = [grade for _, grade in sorted(pairs, reverse=True)]
        if len(set(grades)) == 1:
            continue
        gain, best = (
            sum(grade / math.log2(rank + 2) for rank, grade in enumerate(order[:10]))
            for order in (grades, sorted(grades, reverse=True))
        )
        hits = [rank for rank, grade in enumerate(grades, start=1) if grade > 0]
        found["ndcg@10"].append(gain / best)
        found["mrr@10"].append(1 / hits[0] if hits[0] <= 10 else 0.0)
        found["accuracy@1"].append(float(hits[0] == 1))
        found["map"].append(float(np.mean([number / rank for number, rank in enumerate(hits, start=1)])))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["single", "regression"])
def test_second_texts_are_ranked_for_each_first_text(kind: str, seed: int) -> None:
    examples, scores = drawn(kind, seed)
    data = ranking_of_pairs(spec(kind), examples, scores)
    assert data is not None and data.sampling_unit == "queries"
    least = min((example.target for example in examples if isinstance(example.target, float)), default=0.0)
    expected = by_definition(examples, scores, least)
    assert set(expected) == set(METRICS)
    assert data.metrics(np.arange(data.count)) == pytest.approx(expected, abs=1e-12)
    # The queries of another model over the same pairs are the same ones, and can be compared.
    other = ranking_of_pairs(spec(kind), examples, -scores)
    assert other is not None
    assert bootstrap.compare(data, other, resamples=20, rounds=20).differences["map"].b == pytest.approx(
        by_definition(examples, -scores, least)["map"]
    )


@pytest.mark.parametrize(
    ("targets", "texts", "said"),
    [
        (("yes", "no", "yes"), ("a", "b", "c"), "no first text of the 3 pairs has several second texts of different"),
        (("yes", "yes", "no", "no"), ("a", "a", "b", "b"), "different classes"),
        (("yes", "no"), ("a", "a"), ""),
        ((2.0, 2.0, 3.0), ("a", "a", "b"), "different numbers"),
        ((2.0, 3.0), ("a", "a"), ""),
    ],
)
def test_where_every_order_is_right_there_is_no_ranking(
    targets: tuple[str | float, ...], texts: tuple[str, ...], said: str
) -> None:
    made = spec("single" if isinstance(targets[0], str) else "regression")
    both = zip(texts, targets, strict=True)
    examples = [Example(text, str(number), target, "") for number, (text, target) in enumerate(both)]
    found = undefined_rankings(made, examples)
    assert set(found) == (set(METRICS) if said else set()) and all(said in why for why in found.values())
    assert (ranking_of_pairs(made, examples, np.arange(len(examples))) is None) == bool(said)


def test_a_score_that_is_not_a_number_ranks_nothing() -> None:
    examples = [Example("a", "1", "yes", ""), Example("a", "2", "no", "")]
    assert ranking_of_pairs(spec(), examples, np.array([np.nan, 1.0])) is None


def test_only_pairs_of_one_score_can_be_ranked() -> None:
    for other in (spec(pairs=False), spec(labels=("a", "b", "c")), spec("multi"), spec("regression", pairs=False)):
        assert not can_rank(other) and not set(METRICS) & set(directions(other))
        assert not undefined_rankings(other, [])
    for one in (spec(), spec("regression", ("score",))):
        assert can_rank(one) and all(directions(one)[name] for name in METRICS)


def questions(directory: pathlib.Path, *, alone: bool = False) -> None:
    """Writes splits of 6 questions with 4 answers each, one of which is right; alone: every pair has its question."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, fillers in (("train", "met saw"), ("valid", "near old"), ("test", "town left")):
        rows = [
            {"text": f"{name} {filler}{f' {answer}' * alone}", "pair": answer, "label": "yn"[answer != right]}
            for filler in fillers.split()
            for name, right in zip(("ada", "boole", "curry"), ("arles", "bergen", "cadiz"), strict=True)
            for answer in ("arles", "bergen", "cadiz", "delft")
        ]
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(tmp_path: pathlib.Path, **overrides: Any) -> tuple[ClassificationTask, tuple[str, ...]]:
    task, _, notes = create(
        tiny.classification_config(tmp_path, pairs=True, eval__metric="ndcg@10", model__dropout=0.0, **overrides)
    )
    return task, notes


def test_the_scorer_ranks_by_the_scores_of_the_predictor(tmp_path: pathlib.Path) -> None:
    questions(tmp_path / "single_pairs")
    task, notes = opened(tmp_path)
    assert not any("not defined" in note for note in notes)
    scorer, made = task.scorer("test"), task.objective.spec
    assert made.labels == ("n", "y")
    logits = np.random.default_rng(0).normal(size=(len(task.datasets["test"]), made.segments, 2)).astype(np.float32)
    outputs = {"outputs": logits}
    evaluation = with_intervals(scorer.report(outputs))
    # The order in which a reranker puts them.
    predictor = ClassifierPredictor(made, task.tokenizer)
    scores = predictor.pair_scores(EncodedRecords((), task.encoded["test"]), outputs)
    examples = [
        Example(each.text, each.pair, {"y": "yes", "n": "no"}[str(each.target)], "") for each in scorer.examples
    ]
    expected = by_definition(examples, scores, 0.0)
    assert {name: evaluation.metrics[name] for name in METRICS} == pytest.approx(expected)
    assert {name: scorer.metrics(outputs)[name] for name in METRICS} == pytest.approx(expected)
    # Two kinds of units: pairs and questions, each metric with those that it is a mean of.
    intervals = evaluation.scores["intervals"]
    assert (intervals["unit"], intervals["count"]) == ("examples", 24) and "accuracy" in intervals["metrics"]
    assert (intervals["groups"]["unit"], intervals["groups"]["count"]) == ("queries", 6)
    assert set(intervals["groups"]["metrics"]) == set(METRICS) and not set(METRICS) & set(intervals["metrics"])
    for name, (low, high) in intervals["groups"]["metrics"].items():
        assert low <= expected[name] <= high
    assert [table.title for table in evaluation.tables[:2]] == [
        "Scores with 95% intervals (24 examples)",
        "Scores with 95% intervals (6 queries)",
    ]
    splits = {"test": {**evaluation.metrics, **evaluation.scores}}
    assert "over 6 queries)" in str(result_of(splits, "ndcg@10")) and "over 24 ex" in str(result_of(splits, "accuracy"))
    assert {row[0] for row in summary_table(splits, "ndcg@10", most=None).rows} >= {"map", "accuracy", "accuracy@1"}


def test_a_metric_of_rankings_that_valid_does_not_define_is_said_before_the_first_step(tmp_path: pathlib.Path) -> None:
    questions(tmp_path / "single_pairs", alone=True)
    task, notes = opened(tmp_path)
    assert notes[-1].startswith("NOTE: on valid ndcg@10 is not defined: no first text of the 24 pairs has several")
    outputs = {"outputs": np.zeros((len(task.datasets["test"]), task.objective.spec.segments, 2), np.float32)}
    evaluation = with_intervals(task.scorer("test").report(outputs))
    assert not set(METRICS) & set(evaluation.metrics) and "groups" not in evaluation.scores["intervals"]


def test_two_runs_are_compared_over_pairs_and_over_questions(tmp_path: pathlib.Path) -> None:
    questions(tmp_path / "single_pairs")
    run = tiny.write_runs(tmp_path, ["pairs"])["pairs"]
    found = compare(run, run)
    assert found.groups is not None and (found.unit, found.groups.unit) == ("examples", "queries")
    assert (found.count, found.groups.count) == (24, 6) and set(found.groups.differences) == set(METRICS)
    assert found.to_dict()["groups"]["metrics"]["map"]["p"] == 1.0
    titles = [table.title for table in bootstrap.comparison_tables(found, "test")]
    assert [title.split(": ")[0] for title in titles[::2]] == ["test, 24 examples", "test, 6 queries"]


@pytest.mark.parametrize("kind", ["single", "regression"])
def test_the_threshold_of_answers_is_that_of_the_scores_of_the_predictor(tmp_path: pathlib.Path, kind: str) -> None:
    """80 % of the first texts have a best second text of at least the threshold, as `jaxfm.retrieve` will score it."""
    draw = np.random.default_rng(3)
    made = spec(kind, ("no", "yes") if kind == "single" else ("score",))
    pairs = [(query, candidate) for query in range(30) for candidate in range(3)]
    right = [candidate == query % 3 for query, candidate in pairs]
    targets = [("no", "yes")[one] if kind == "single" else float(one) for one in right]
    examples = [
        Example(f"q{query}", f"c{each}", target, "") for (query, each), target in zip(pairs, targets, strict=True)
    ]
    examples += [Example("of one class", f"c{each}", targets[1], "") for each in range(3)]
    # Much too sure, so that there is a temperature, and wrong of every tenth query.
    margin = np.where(right, 6.0, -6.0) * np.asarray([-1.0 if query % 10 == 0 else 1.0 for query, _ in pairs])
    margin = np.concatenate([margin, np.full(3, 30.0)]) + draw.normal(size=len(examples))
    logits = np.stack([-margin, margin], axis=-1) if kind == "single" else margin[:, None]
    rows = SimpleNamespace(per_example=lambda values: values, cut=np.zeros(len(examples), bool))
    scorer = ClassifierScorer(made, tuple(examples), rows)  # type: ignore[arg-type]
    outputs = {"outputs": logits.astype(np.float32)}
    calibration = scorer.calibrate(outputs)
    assert ("temperature" in calibration) == (kind == "single")
    scores = probabilities(outputs["outputs"], calibration)[:, -1] if kind == "single" else outputs["outputs"][:, 0]
    best = np.sort(scores[:90].reshape(30, 3).max(axis=1))[::-1]
    assert calibration[THRESHOLD] == pytest.approx(best[23]), "24 of 30; a first text of one class does not count"
    answers = scorer.report(outputs, calibration).scores["answers"]
    assert answers["coverage"] == 0.8 and answers[THRESHOLD] == calibration[THRESHOLD]
    assert answers["precision"] == answers["precision_at_80_percent"] == 21 / 24, "the 3 wrong are sure"
    few = ClassifierScorer(made, tuple(examples[:57]), rows).calibrate({"outputs": outputs["outputs"][:57]})  # type: ignore[arg-type]
    assert THRESHOLD not in few, "19 first texts are too few"


def test_without_rankings_there_is_no_threshold() -> None:
    assert not len(best_scores(spec(labels=("a", "b", "c")), [Example("a", "1", "b", "")], np.ones(1)))
    assert not len(best_scores(spec(), [Example("a", "1", "yes", "")], np.ones(1)))
