"""Scores of a split of pairs, its records and its worst errors."""

import pathlib

import numpy as np
import pytest

from jaxfm.tasks.relations.errors import worst_pairs
from jaxfm.tasks.relations.scorer import targets_of
from tests import tiny
from tests.tasks.relations.test_task import create


def test_a_report_of_made_up_answers(tmp_path: pathlib.Path) -> None:
    task, _, _ = create(tiny.relations_config(tmp_path))
    spec, examples = task.objective.spec, task.examples["test"]
    gold, rows = targets_of(spec, examples), task.datasets["test"]
    said = gold.copy()
    one = 1 + int(np.bincount(gold, minlength=3)[1:].argmax())
    wrong = np.flatnonzero(gold == one)[:2]  # taken for its reverse
    said[wrong] = 3 - one
    logits = np.zeros((len(rows), spec.segments, 3), np.float32)
    for (row, segment, _), answer in zip(rows.example_locations, said, strict=True):
        logits[row, segment, answer] = 4.0
    scorer = task.scorer("test")
    evaluation = scorer.report({"outputs": logits})
    count = len(gold)
    assert evaluation.metrics["accuracy"] == pytest.approx((count - len(wrong)) / count)
    related = int((gold > 0).sum())
    # One relation, both directions: these predictions go the wrong way, and count in precision and in recall.
    assert (
        evaluation.metrics["macro_f1"]
        == pytest.approx((related - len(wrong)) / related)
        == evaluation.metrics["micro_f1"]
    )
    assert scorer.metrics({"outputs": logits}) == pytest.approx(dict(evaluation.metrics))
    records = list(evaluation.predictions)
    assert [record["correct"] for record in records].count(False) == len(wrong) > 0 and records[0]["head"]["type"] in (
        "PER",
        "LOC",
    )
    assert records[wrong[0]]["gold"] == spec.labels[one] and records[wrong[0]]["predicted"] == spec.labels[3 - one]
    assert len(evaluation.wrong) == len(wrong) and dict(evaluation.wrong[0].facts)["predicted"] == spec.labels[3 - one]
    (view,) = evaluation.wrong[0].views
    assert [mark.label.split()[0] for mark in view.marks] == ["e1", "e2"]
    assert {"confusion", "reliability"} <= set(evaluation.plots) and not evaluation.warnings
    assert evaluation.bootstrap_data is not None and evaluation.bootstrap_data.count == count


def test_one_answer_to_everything_is_said(tmp_path: pathlib.Path) -> None:
    task, _, _ = create(tiny.relations_config(tmp_path))
    logits = np.zeros((len(task.datasets["test"]), task.objective.spec.segments, 3), np.float32)
    counts = np.bincount(targets_of(task.objective.spec, task.examples["test"]), minlength=3)
    logits[..., int(counts.argmax())] = 1
    (warning,) = task.scorer("test").report({"outputs": logits}).warnings
    assert "no better than always answering" in warning


def test_the_worst_pairs_come_first(tmp_path: pathlib.Path) -> None:
    task, _, _ = create(tiny.relations_config(tmp_path))
    spec, examples = task.objective.spec, task.examples["test"][:3]
    found = np.asarray([[0.0, 0.0, 0.0]] * 3)
    gold = targets_of(spec, examples)
    found[np.arange(3), (gold + 1) % 3] = [0.6, 0.9, 0.7]
    worst = worst_pairs(spec, examples, found, np.asarray([1.0, 3.0, 2.0]))
    assert [each.origin for each in worst] == [examples[1].origin, examples[2].origin, examples[0].origin]
    found[1] = np.eye(3)[gold[1]]
    assert len(worst_pairs(spec, examples, found, np.asarray([1.0, 0.0, 2.0]))) == 2
