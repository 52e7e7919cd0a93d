"""Scores of a split: by hand on logits that point at chosen answers; thresholds, temperature, reports."""

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.evaluation.answers import normalised
from jaxfm.evaluation.calibration import TEMPERATURES
from jaxfm.tasks import registry
from jaxfm.tasks.qa.scorer import THRESHOLD, QaScorer
from jaxfm.tasks.qa.spec import token_span
from jaxfm.tasks.qa.task import QaTask
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> QaTask:
    config = tiny.qa_config(tmp_path_factory.mktemp("qa"), data__window=40)
    made, _ = registry.create(config, resolve(config.model))
    assert isinstance(made, QaTask)
    return made


def outputs_for(task: QaTask, answered: list[bool], sure: float = 9.0) -> dict[str, np.ndarray]:
    """Logits that give the gold answer, or none, where `answered` says so, and the other thing elsewhere."""
    encoded, questions = task.encoded["test"], task.questions["test"]
    logits = np.zeros((*encoded.rows.tokens.shape, 2), np.float32)
    for window, question in enumerate(encoded.windows.question.tolist()):
        row, _, begin = encoded.rows.example_locations[window]
        gold, right = questions[question].answers, answered[question]
        offsets, context = encoded.windows.contexts[question].offsets, questions[question].context
        span = token_span(offsets, gold[0].start, gold[0].end) if gold else None
        spoken = next(token for token, (start, end) in enumerate(offsets) if normalised(context[start:end]))
        wanted = span if right else (None if span else (spoken, spoken))
        if wanted is None:
            logits[row, begin] = sure
            continue
        first, last = (int(place - encoded.windows.start[window]) for place in wanted)
        if first >= 0 and last < encoded.windows.size[window]:
            logits[row, begin + encoded.windows.first[window] + first, 0] = sure
            logits[row, begin + encoded.windows.first[window] + last, 1] = sure
    return {"spans": logits}


def test_all_right_and_all_wrong(task: QaTask) -> None:
    scorer, count = task.scorer("test"), len(task.questions["test"])
    right = scorer.metrics(outputs_for(task, [True] * count))
    assert {
        name: right[name] for name in ("f1", "exact_match", "has_answer_f1", "no_answer_accuracy")
    } == dict.fromkeys(("f1", "exact_match", "has_answer_f1", "no_answer_accuracy"), 1.0)
    assert right["loss"] < 0.1
    wrong = scorer.metrics(outputs_for(task, [False] * count))
    assert wrong["exact_match"] == wrong["f1"] == 0.0 and wrong["loss"] > 5


def test_a_part_of_them(task: QaTask) -> None:
    questions = task.questions["test"]
    answered = [number % 3 > 0 for number in range(len(questions))]
    outputs = outputs_for(task, answered)
    scorer = task.scorer("test")
    found = scorer.report(outputs)
    assert found.metrics["exact_match"] == pytest.approx(np.mean(answered))
    has = [bool(each.answers) for each in questions]
    assert found.metrics["has_answer_f1"] == pytest.approx(
        np.mean([right for right, there in zip(answered, has, strict=True) if there])
    )
    records = list(found.predictions)
    assert [record["correct"] for record in records] == answered
    for record, question in zip(records, questions, strict=True):
        assert record["id"] == question.id and record["gold"] == [each.text for each in question.answers]
        if record["predicted"]:
            assert question.context[record["start"] : record["end"]] == record["predicted"]
    assert found.tables[0].rows[0][1] == len(questions) and found.warnings == ()
    assert {example.origin for example in found.wrong} == {
        question.origin for question, right in zip(questions, answered, strict=True) if not right
    }
    assert found.bootstrap_data is not None and found.bootstrap_data.right is not None
    assert found.bootstrap_data.right.tolist() == answered


def test_a_threshold_is_fitted_where_answers_are_given_too_often(task: QaTask) -> None:
    count = len(task.questions["test"])
    outputs = outputs_for(task, [True] * count)
    rows = task.encoded["test"].rows
    rows_of_first = rows.example_locations
    shifted = outputs["spans"].copy()
    for row, _, begin in rows_of_first:
        shifted[row, begin] -= 20  # no answer is never the likelier one
    scorer = task.scorer("test")
    plain = scorer.metrics({"spans": shifted})
    # Where all spans are alike the first token is answered, which may be nothing once normalised ("the").
    assert plain["no_answer_accuracy"] < 0.5 and plain["has_answer_f1"] == 1.0
    calibration = scorer.calibrate({"spans": shifted})
    assert calibration[THRESHOLD] < 0
    fitted = scorer.report({"spans": shifted}, calibration)
    assert fitted.metrics["f1"] > plain["f1"]
    # What is fitted does not change what chooses a checkpoint.
    assert scorer.metrics({"spans": shifted})["f1"] == plain["f1"]


def test_a_model_that_is_too_sure_gets_a_temperature(task: QaTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxfm.evaluation.calibration.LEAST_EXAMPLES", 10)
    count = len(task.questions["test"])
    outputs = outputs_for(task, [number % 3 > 0 for number in range(count)], sure=14.0)
    calibration = task.scorer("test").calibrate(outputs)
    assert calibration["temperature"] in TEMPERATURES and calibration["temperature"] > 1.5
    before, after = (
        task.scorer("test").report(outputs, given).scores["calibration"]["confidence"] for given in ({}, calibration)
    )
    assert calibration["gain"] > calibration["gain_error"] and after < before


def test_silence_is_said_aloud(task: QaTask) -> None:
    spans: dict[str, Any] = {"spans": np.zeros((*task.encoded["test"].rows.tokens.shape, 2), np.float32)}
    for row, _, begin in task.encoded["test"].rows.example_locations:
        spans["spans"][row, begin] = 5
    (warning,) = task.scorer("test").report(spans).warnings
    assert warning.startswith("the model answers none of the 18 questions")


def test_questions_that_all_have_an_answer(tmp_path: pathlib.Path) -> None:
    tiny.write_questions(tmp_path / "questions")
    for path in (tmp_path / "questions").glob("*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if '"text": []' not in line))
    config = tiny.qa_config(tmp_path)
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, QaTask) and not task.objective.spec.no_answer
    scorer = task.scorer("test")
    assert isinstance(scorer, QaScorer)
    rows = task.encoded["test"].rows
    spans = np.zeros((*rows.tokens.shape, 2), np.float32)
    for row, _, begin in rows.example_locations:
        spans[row, begin] = 99  # no answer is not among the choices
    found = scorer.report({"spans": spans})
    assert set(found.metrics) == {"f1", "exact_match", "loss"} == set(task.directions)
    assert all(record["predicted"] for record in found.predictions)
    assert THRESHOLD not in scorer.calibrate({"spans": spans})
