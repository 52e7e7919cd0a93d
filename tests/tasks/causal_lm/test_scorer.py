"""Scores of next tokens, by hand."""

import math
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.tasks import registry
from jaxfm.tasks.causal_lm.scorer import CausalLMScorer
from jaxfm.tasks.causal_lm.task import CausalLMTask
from jaxfm.training.initial import resolve
from tests import tiny


def created(config: Config) -> CausalLMTask:
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, CausalLMTask)
    return task


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("scorer")


@pytest.fixture(scope="module")
def task(folder: pathlib.Path) -> CausalLMTask:
    return created(tiny.masked_lm_config(folder, "causal_lm"))


@pytest.fixture(scope="module")
def scorer(task: CausalLMTask) -> CausalLMScorer:
    return task.scorer("valid")


def outputs_of(task: CausalLMTask) -> dict[str, np.ndarray]:
    """Outputs of no model: losses count up, and every third target is predicted right."""
    rows = task.text.held_out["valid"]
    batch = rows.take(np.arange(len(rows)))
    tokens, segments = batch["tokens"], batch["segment_ids"]
    target = np.full_like(tokens, -1)
    follows = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    target[:, :-1] = np.where(follows, tokens[:, 1:], -1)
    loss = np.arange(tokens.size, dtype=np.float64).reshape(tokens.shape) / tokens.size
    predicted = np.where(np.arange(tokens.size).reshape(tokens.shape) % 3 == 0, target, 7)
    return {"target": target, "loss": np.where(target >= 0, loss, 0.0), "predicted": predicted}


def test_metrics_are_means_over_all_targets(task: CausalLMTask, scorer: CausalLMScorer) -> None:
    outputs = outputs_of(task)
    valid = outputs["target"] >= 0
    loss = outputs["loss"][valid].mean()
    accuracy = (outputs["predicted"] == outputs["target"])[valid].mean()
    wanted = {"loss": loss, "accuracy": accuracy, "perplexity": math.exp(loss)}
    assert scorer.metrics(outputs) == pytest.approx(wanted)
    evaluation = scorer.report(outputs)
    assert evaluation.metrics == pytest.approx(wanted)
    assert evaluation.scores["targets"] == valid.sum() and evaluation.scores["rows"] == len(valid)
    data = evaluation.bootstrap_data
    assert data is not None and data.metrics(np.arange(data.count)) == pytest.approx(wanted)
    twice = np.zeros(2, np.int64)
    row = {name: values[:1] for name, values in outputs.items()}
    assert data.metrics(twice)["loss"] == pytest.approx(row["loss"][row["target"] >= 0].mean())


def test_the_baseline_is_the_frequency_of_tokens_and_of_the_ends_of_segments(task: CausalLMTask) -> None:
    rows: Any = task.text.training["train"]
    batch = rows.take(np.arange(len(rows)))
    segments = int(batch["segment_ids"].max(axis=1).sum())
    tokenizer: Any = task.text.tokenizer
    sep, cls, pad = tokenizer.sep_token_id, tokenizer.cls_token_id, tokenizer.pad_token_id
    counts = np.bincount(
        batch["tokens"][batch["segment_ids"] > 0], minlength=task.objective.spec.encoder.padded_vocab_size
    )
    counts[cls] = 0
    assert counts[sep] == segments
    baseline = task.text.baseline
    np.testing.assert_array_equal(baseline.counts, counts)
    assert baseline.top == counts.argmax()
    # Neither padding nor what starts a segment is ever a target; nor is what no token of the tokenizer is.
    impossible = np.isneginf(baseline.log_probs)
    wanted = {pad, cls, *range(len(tiny.VOCABULARY), len(counts))}
    assert set(np.flatnonzero(impossible).tolist()) == wanted
    assert np.exp(baseline.log_probs).sum() == pytest.approx(1.0)


def test_records_name_the_least_expected_tokens(task: CausalLMTask, scorer: CausalLMScorer) -> None:
    outputs = outputs_of(task)
    records = list(scorer.report(outputs).predictions)
    assert len(records) == len(outputs["target"])
    name = task.text.tokenizer.convert_ids_to_tokens
    for row, record in enumerate(records):
        valid = np.flatnonzero(outputs["target"][row] >= 0)
        worst = valid[-1]  # losses count up
        first = record["least_expected"][0]
        assert (first["place"], first["token"]) == (worst + 1, name(int(outputs["target"][row, worst])))
        assert record["targets"] == len(valid) and len(record["least_expected"]) == min(8, len(valid))
        assert record["correct"] == bool((outputs["target"] == outputs["predicted"])[row, valid].all())
    wrong = scorer.report(outputs).wrong
    assert wrong and wrong[0].facts[0] == ("tokens", str((outputs["target"][-1] >= 0).sum()))


def test_a_model_that_knows_frequencies_alone_is_told_so(task: CausalLMTask, scorer: CausalLMScorer) -> None:
    outputs = outputs_of(task)
    valid = outputs["target"] >= 0
    unigram = -task.text.baseline.log_probs[outputs["target"]]
    (said,) = scorer.warnings({**outputs, "loss": np.where(valid, unigram, 0.0)})
    assert "loss of next tokens" in said and "predicting by frequency alone" in said
    assert scorer.warnings({**outputs, "loss": np.where(valid, unigram - 1.0, 0.0)}) == ()


def test_some_rows_stand_for_a_split(folder: pathlib.Path, task: CausalLMTask) -> None:
    all_rows = task.text.held_out["valid"]
    few = created(tiny.masked_lm_config(folder, "causal_lm", task__eval_rows=3)).text
    rows = few.held_out["valid"]
    assert len(rows) == 3 < len(all_rows) and rows.fingerprint() != all_rows.fingerprint()
    wanted = all_rows.rows.take(np.asarray([0, len(all_rows) // 3, 2 * len(all_rows) // 3]))
    for name, values in rows.take(np.arange(3)).items():
        np.testing.assert_array_equal(values, wanted[name])
    assert any("valid: 3 of its" in note for note in few.notes)
