"""Scores of made-up outputs: sums, texts, baselines, warnings, intervals, and what is shown."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.seq2seq import text_scores as module
from jaxfm.tasks.seq2seq.scorer import Seq2SeqScorer
from jaxfm.tasks.seq2seq.task import Seq2SeqTask
from jaxfm.tasks.seq2seq.text_scores import baselines, exact_matches, text_scores
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Seq2SeqTask:
    config = tiny.seq2seq_config(tmp_path_factory.mktemp("scorer"), task__test_written=6)
    return registry.create(config, resolve(config.model))[0]  # type: ignore[return-value]


def outputs_of(task: Seq2SeqTask, texts: list[str]) -> dict[str, np.ndarray]:
    """Outputs in which these texts are written for the chosen test pairs, and example e has loss e / 10 a token."""
    rows, spec = task.held_out["test"], task.objective.spec
    shape = (len(rows), spec.segments)
    found: dict[str, Any] = {
        name: np.zeros(shape, np.float32) for name in ("loss", "right", "weight", "count", "score")
    }
    found["written"] = np.full((*shape, spec.lengths.most), -1, np.int32)
    for number, (row, segment, _) in enumerate(rows.scored.example_locations.tolist()):
        found["count"][row, segment], found["weight"][row, segment] = 4, 8
        found["loss"][row, segment], found["right"][row, segment] = 4 * number / 10, 6
    first = len(rows.scored)
    for text, (row, segment, _) in zip(texts, rows.blank.example_locations.tolist(), strict=True):
        tokens = task.tokenizer(text, add_special_tokens=False)["input_ids"]
        found["written"][first + row, segment, : len(tokens)] = tokens
        found["score"][first + row, segment] = -0.5
    return found


def gold(task: Seq2SeqTask) -> list[str]:
    return [task.pairs["test"][index].targets[0] for index in task.held_out["test"].chosen.tolist()]


def test_right_texts_have_the_best_scores(task: Seq2SeqTask) -> None:
    scorer = task.scorer("test")
    assert isinstance(scorer, Seq2SeqScorer)
    outputs, pairs = outputs_of(task, gold(task)), len(task.pairs["test"])
    metrics = scorer.metrics(outputs)
    assert metrics["loss"] == pytest.approx(np.mean(np.arange(pairs) / 10), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(0.75) and metrics["exact_match"] == 1.0
    assert scorer.warnings(outputs) == () and scorer.calibrate(outputs) == {}
    report = scorer.report(outputs)
    assert report.scores["written"] == 6 and set(report.scores["baselines"]) == {"copy", "lead"}
    assert report.scores["baselines"]["copy"]["exact_match"] == 0.0 and report.wrong == ()
    records = list(report.predictions)
    # The space that WordPiece sets before a full stop is not of a text.
    assert [record["predicted"] for record in records] == [text.replace(" .", ".") for text in gold(task)]
    assert all(record["correct"] for record in records)
    assert records[0]["score"] == -0.5 and set(task.directions) >= {"loss", "accuracy", "exact_match", "bleu"}
    # The whole as a function of all pairs, each once, is what the metrics say.
    data = report.bootstrap_data
    assert data is not None and data.count == pairs
    found = data.metrics(np.arange(pairs))
    for name in ("loss", "accuracy", "exact_match"):
        assert found[name] == pytest.approx(metrics[name])
    # A pair that is not written has no share in the exact matches.
    other = next(number for number in range(pairs) if number not in task.held_out["test"].chosen)
    assert data.metrics(np.asarray([0, other]))["exact_match"] == 1.0
    titles = [table.title for table in report.tables]
    assert titles == ["Target tokens", "Written for 6 sources", "Samples"]


def test_wrong_texts_are_shown_by_their_loss(task: Seq2SeqTask) -> None:
    texts = gold(task)
    texts[2], texts[4] = "met", ""
    scorer, outputs = task.scorer("test"), outputs_of(task, texts)
    report = scorer.report(outputs)
    assert report.metrics["exact_match"] == pytest.approx(4 / 6)
    chosen = task.held_out["test"].chosen
    assert [each.origin for each in report.wrong] == [task.pairs["test"][chosen[place]].origin for place in (4, 2)]
    shown = {view.heading: view.text for view in report.wrong[0].views}
    assert shown["written"] == "(nothing)" and shown["reference"] == gold(task)[4]


def test_one_text_for_all_and_copies_are_said(task: Seq2SeqTask) -> None:
    scorer = task.scorer("test")
    assert isinstance(scorer, Seq2SeqScorer)
    (said,) = scorer.warnings(outputs_of(task, ["met in"] * 6))
    assert said.startswith("'met in' is written for 6 of 6 sources: the source is not used yet.")
    (said,) = scorer.warnings(outputs_of(task, [""] * 6))
    assert said.startswith("nothing is written for 6 of 6 sources")
    pairs = [dataclasses.replace(pair, source=f"{tiny.FILLERS[n % 11]} saw") for n, pair in enumerate(scorer.pairs)]
    copying = dataclasses.replace(scorer, pairs=tuple(pairs))
    sources = [pairs[index].source for index in task.held_out["test"].chosen.tolist()]
    assert copying.warnings(outputs_of(task, sources)) == ("6 of 6 sources are copied as they are.",)


def test_the_best_reference_counts() -> None:
    tokens = str.split
    written = [["a", "b"], ["c"], []]
    references = [("x", "a b"), ("d",), ("e",)]
    assert exact_matches(written, references, tokens) == [True, False, False]
    pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    scores = text_scores(["a b", "c", ""], references)
    assert "exact_match" not in scores and scores["rougeL"] == pytest.approx(1 / 3)
    found = baselines(["d", "x y. z. u. v"], [("d",), ("x y. z. u.",)], tokens)
    assert found["copy"]["exact_match"] == 0.5 and found["lead"]["exact_match"] == 1.0
    assert text_scores([], []) == {} and baselines([], [], tokens) == {}


def test_without_the_packages_exact_match_is_left(task: Seq2SeqTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise UserError("BLEU and ROUGE need the packages sacrebleu and rouge-score.")

    monkeypatch.setattr(module, "generation_scores", refuse)
    assert module.missing_packages().endswith("Without them what is written is scored by exact match alone.")
    metrics = task.scorer("test").metrics(outputs_of(task, gold(task)))
    assert set(metrics) == {"loss", "accuracy", "exact_match"}


def test_a_split_may_be_written_not_at_all(tmp_path: pathlib.Path) -> None:
    config = tiny.seq2seq_config(tmp_path, task__valid_written=0)
    task = registry.create(config, resolve(config.model))[0]
    assert isinstance(task, Seq2SeqTask)
    rows, spec = task.held_out["valid"], task.objective.spec
    shape = (len(rows), spec.segments)
    outputs: dict[str, Any] = {
        name: np.ones(shape, np.float32) for name in ("loss", "right", "weight", "count", "score")
    }
    outputs["written"] = np.full((*shape, spec.lengths.most), -1, np.int32)
    report = task.scorer("valid").report(outputs)
    assert set(report.metrics) == {"loss", "accuracy"} and list(report.predictions) == [] and len(report.tables) == 1
