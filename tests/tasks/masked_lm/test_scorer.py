"""Scores of held-out text by hand, and those of rows drawn anew."""

import collections
import json
import math
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.observe.examples import SHOWN
from jaxfm.tasks.masked_lm.task import MaskedLMTask
from tests import tiny
from tests.tasks.masked_lm.test_objective import PARAMS, graph, logits_of
from tests.tasks.masked_lm.test_task import created

UNITS = ("token", "whole_word", "span")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("masked_lm")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    tiny.write_text(folder / "text", {"train": 60, "valid": 16})
    return tiny.masked_lm_config(folder, model__dropout=0.0)


@pytest.fixture(scope="module")
def task(config: Config) -> MaskedLMTask:
    return created(config)[0]


@pytest.fixture(scope="module")
def outputs(task: MaskedLMTask) -> dict[str, np.ndarray]:
    """The outputs of the validation split with random weights."""
    rows = task.datasets["valid"]
    graphdef = graph(task.objective)
    batch = rows.take(np.arange(len(rows)))
    found = jax.jit(lambda params: task.objective.outputs(nnx.merge(graphdef, params), batch))(PARAMS)
    return {name: np.asarray(value) for name, value in found.items()}


def test_scores_of_each_unit_by_hand(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    rows = task.datasets["valid"]
    batch = rows.take(np.arange(len(rows)))
    logits = logits_of(task.objective, batch)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    training = task.datasets["train"].take(np.arange(len(task.datasets["train"])))
    real = task.text.vocabulary.maskable[training["tokens"]] & (training["segment_ids"] > 0)
    counts = collections.Counter(training["tokens"][real].tolist())
    ordinary = task.text.vocabulary.ordinary.tolist()
    everything = sum(counts.values()) + len(ordinary)
    scores = task.scorer("valid").report(outputs).scores
    assert tuple(scores["units"]) == UNITS and len(rows) % 3 == 0
    each = len(rows) // 3
    for number, unit in enumerate(UNITS):
        part = slice(number * each, (number + 1) * each)
        labels = batch["labels"][part]
        valid = labels >= 0
        targets = labels[valid]
        nats = -np.take_along_axis(log_probs[part], np.maximum(labels, 0)[..., None], axis=-1)[..., 0][valid]
        unigram = [-math.log((counts[target] + 1) / everything) for target in targets.tolist()]
        top = counts.most_common(1)[0][0]
        found = scores["units"][unit]
        assert found["targets"] == len(targets) >= 20
        assert found["loss"] == pytest.approx(nats.mean(), rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-4)
        assert found["accuracy"] == pytest.approx((log_probs[part].argmax(-1)[valid] == targets).mean())
        assert found["unigram_loss"] == pytest.approx(np.mean(unigram), rel=1e-9)
        assert found["unigram_accuracy"] == pytest.approx((targets == top).mean())
    metrics = task.scorer("valid").report(outputs).metrics
    assert set(task.directions) <= set(metrics)
    assert {name: metrics[name] for name in task.directions} == {
        name: scores["units"]["token"][name] for name in task.directions
    }
    assert metrics["loss_span"] == scores["units"]["span"]["loss"]


def test_a_run_says_when_it_is_at_the_loss_of_guessing_by_frequency(
    task: MaskedLMTask, outputs: dict[str, np.ndarray]
) -> None:
    unigram = task.scorer("valid").report(outputs).scores["units"]["token"]["unigram_loss"]

    def warnings(loss: float) -> tuple[str, ...]:
        return task.scorer("valid").warnings(outputs | {"loss": np.full_like(outputs["loss"], loss)})

    for loss in (unigram + 2, unigram, unigram - 0.1):
        (said,) = warnings(loss)
        assert f"{unigram:.2f}" in said and f"{loss:.2f}" in said
        assert "batch" in said and "warm-up" in said and "duplicates" in said
    assert warnings(unigram - 1) == ()


def test_a_split_with_nothing_hidden_has_no_loss(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    evaluation = task.scorer("valid").report(outputs | {"target": np.full_like(outputs["target"], -1)})
    assert math.isnan(evaluation.metrics["loss"]) and math.isnan(evaluation.metrics["accuracy"])


def _of_any_unit(metric: str) -> str:
    return metric.removesuffix("_token").removesuffix("_whole_word").removesuffix("_span")


def test_rows_drawn_anew_score_as_rows(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    evaluation = task.scorer("valid").report(outputs)
    data, random = evaluation.bootstrap_data, np.random.default_rng(0)
    assert data is not None
    less = {name for name in evaluation.metrics if not task.directions[_of_any_unit(name)]}
    assert less == set(data.less_is_better) & set(evaluation.metrics)
    each = len(outputs["target"]) // 3
    assert (data.sampling_unit, data.count) == ("rows", each)
    assert data.metrics(np.arange(each)) == pytest.approx(dict(evaluation.metrics), rel=1e-9)
    for index in (random.integers(0, each, each), np.array([1, 1, 2])):
        picked = np.concatenate([index + part * each for part in range(3)])
        wanted = task.scorer("valid").report({name: values[picked] for name, values in outputs.items()})
        assert data.metrics(index) == pytest.approx(dict(wanted.metrics), rel=1e-9)
        assert wanted.metrics["loss"] != evaluation.metrics["loss"]
    none = task.scorer("valid").report(outputs | {"target": np.full_like(outputs["target"], -1)}).bootstrap_data
    assert none is not None and all(math.isnan(value) for value in none.metrics(np.arange(each)).values())
    # Other hidden tokens are other data.
    turned = task.scorer("valid").report(outputs | {"target": np.roll(outputs["target"], 1, axis=0)}).bootstrap_data
    assert turned is not None and len(set(data.identity)) > 1 and turned.identity != data.identity


def test_every_hidden_token_is_in_one_prediction(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    rows = task.datasets["valid"]
    each = len(rows) // 3
    labels = rows.take(np.arange(each))["labels"]
    records = list(task.scorer("valid").report(outputs).predictions)
    assert [record["row"] for record in records] == list(range(each))
    loss = 0.0
    for record, row in zip(records, labels, strict=True):
        places = np.flatnonzero(row >= 0)
        assert [token["place"] for token in record["hidden"]] == places.tolist()
        wanted = task.text.tokenizer.convert_ids_to_tokens(row[places].tolist())
        assert [token["token"] for token in record["hidden"]] == wanted
        assert record["correct"] == all(token["token"] == token["predicted"] for token in record["hidden"])
        assert record["text"].startswith("[CLS]") and "[PAD]" not in record["text"]
        loss += sum(token["loss"] for token in record["hidden"])
    count = sum(len(record["hidden"]) for record in records)
    assert loss / count == pytest.approx(task.scorer("valid").report(outputs).metrics["loss"], abs=1e-3)
    json.dumps(records)


def test_the_rows_predicted_worst_are_shown_as_text(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    evaluation = task.scorer("valid").report(outputs)
    records = {f"row {record['row']:,}": record for record in evaluation.predictions}
    wrong = [record for record in records.values() if not record["correct"]]
    assert 1 < len(evaluation.wrong) == min(len(wrong), SHOWN)
    losses = []
    for shown in evaluation.wrong:
        hidden, (view,), facts = records[shown.origin]["hidden"], shown.views, dict(shown.facts)
        assert "[" not in view.text  # the words that were masked, and no special token
        marked = [view.text[mark.start : mark.end] for mark in view.marks]
        assert marked == [token["token"].removeprefix("##") for token in hidden]
        assert [mark.label for mark in view.marks] == [str(token["predicted"]) for token in hidden]
        assert [mark.status == "right" for mark in view.marks] == [
            token["token"] == token["predicted"] for token in hidden
        ]
        assert facts["masked"] == str(len(hidden))
        losses.append(float(facts["loss"]))
        assert losses[-1] == pytest.approx(np.mean([token["loss"] for token in hidden]), abs=1e-3)
    assert losses == sorted(losses, reverse=True)


def test_a_part_of_the_rows_may_be_scored(task: MaskedLMTask, config: Config) -> None:
    some = created(tiny.replaced(config, task__eval_rows=3))[0]
    each = len(task.datasets["valid"]) // 3
    assert len(some.datasets["valid"]) == 9 < 3 * each
    assert f"valid: 3 of its {each} rows are scored, evenly spread (config.task.eval_rows)" in some.notes
    whole = task.datasets["valid"].take(task.text.held_out["valid"].index[np.arange(3) * each // 3])
    for name, values in some.datasets["valid"].take(np.arange(3)).items():
        np.testing.assert_array_equal(values, whole[name])

    def zeros(rows: int) -> dict[str, np.ndarray]:
        return {name: np.zeros((rows, 24), np.int32) for name in ("place", "target", "predicted", "loss")}

    evaluation = some.scorer("valid").report(zeros(9))
    assert evaluation.scores["rows"] == 3 and evaluation.scores["rows_of_the_split"] == each
    assert f"3 of the split's {each} rows" in evaluation.tables[0].title
    assert [record["row"] for record in evaluation.predictions] == some.text.held_out["valid"].index.tolist()
    assert "split's" not in task.scorer("valid").report(zeros(3 * each)).tables[0].title
