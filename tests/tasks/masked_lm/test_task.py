"""The masked-LM task: its loss against transformers and by hand, its scores, and whole tiny runs from end to end."""

import collections
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.data.text.masking import mask_tokens, max_predictions
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.tasks.masked_lm import MaskedLMTask
from jaxfm.training.initial import resolve
from tests import tiny

UNITS = ("token", "whole_word", "span")


def created(config: Config) -> tuple[MaskedLMTask, dict[str, np.ndarray], tuple[str, ...]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, MaskedLMTask)
    return task, dict(loaded), notes


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


def graph(task: MaskedLMTask) -> Any:
    return build_abstract(
        lambda: task.make_model(nnx.Rngs(0), dtype=jnp.dtype("float32"), scan=True), make_mesh(MeshConfig())
    )[0]


PARAMS = tiny.nested(tiny.random_masked_lm(tiny.ENCODER, seed=5))
KEY = jax.random.key(12)
COMPILED: dict[Any, Any] = {}  # the loss, by the ratios that give it its shape


def batch_of(task: MaskedLMTask, count: int = 8) -> dict[str, np.ndarray]:
    return task.datasets["train"].take(np.arange(count))


def hidden_by_hand(task: MaskedLMTask, batch: Mapping[str, np.ndarray], progress: float = 0.0) -> Any:
    """(tokens, labels) that `task.loss` sees with KEY."""
    first, last = task.ratios
    limit = max_predictions(task.masking.unit, max(task.ratios), batch["tokens"].shape[1])
    ratio = first + (last - first) * progress
    return mask_tokens(
        jax.random.split(KEY)[0],
        jnp.asarray(batch["tokens"]),
        jnp.asarray(batch["segment_ids"]),
        task.vocabulary,
        task.masking,
        ratio=ratio,
        limit=limit,
    )


def computed_loss(task: MaskedLMTask, batch: Any, progress: float = 0.0) -> tuple[float, float, float]:
    """Returns (sum of losses, weight, sum of right guesses)."""
    graphdef = graph(task)

    def compute(params: Any, batch: Any, progress: Any, z_loss: Any) -> Any:
        return dataclasses.replace(task, z_loss=z_loss).loss(nnx.merge(graphdef, params), batch, KEY, progress)

    if task.ratios not in COMPILED:
        COMPILED[task.ratios] = jax.jit(compute)
    loss, (weight, sums) = COMPILED[task.ratios](PARAMS, batch, progress, task.z_loss)
    return float(loss), float(weight), float(sums["accuracy"][0])


def logits_of(task: MaskedLMTask, batch: Any) -> np.ndarray:
    """The vocabulary's logits [B, T, V] at every token, in float64."""
    graphdef = graph(task)

    def compute(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        return model.logits(model.hidden(batch))

    return np.asarray(jax.jit(compute)(PARAMS), np.float64)


# The loss.


def test_the_loss_is_that_of_transformers_on_the_same_hidden_tokens(task: MaskedLMTask, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    tiny.write_masked_lm_weights(tmp_path, seed=5)
    model = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    batch = batch_of(task)
    tokens, labels = (np.asarray(array) for array in hidden_by_hand(task, batch))
    assert (labels >= 0).sum() > 30 and batch["segment_ids"].max() > 1
    wanted, right = 0.0, 0
    for row in range(len(tokens)):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            here = batch["segment_ids"][row] == segment
            targets = np.where(labels[row, here] >= 0, labels[row, here], -100)
            if (targets < 0).all():
                continue
            with torch.no_grad():
                ids = torch.tensor(tokens[row, here][None].astype(np.int64))
                found = model(input_ids=ids, labels=torch.tensor(targets[None].astype(np.int64)))
            wanted += float(found.loss) * (targets >= 0).sum()
            right += int((found.logits[0].argmax(-1).numpy() == targets).sum())
    loss, weight, sums = computed_loss(task, batch)
    assert weight == (labels >= 0).sum() and sums == right
    assert loss == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("at_once", [0, 1, 4])  # 4 of 20 places or so: the last part is not full
def test_seeing_the_vocabulary_only_where_tokens_are_hidden_changes_neither_loss_nor_gradient(
    task: MaskedLMTask, at_once: int
) -> None:
    task = dataclasses.replace(task, logits_chunk=at_once)
    batch = batch_of(task)
    labels = np.asarray(hidden_by_hand(task, batch)[1])
    graphdef = graph(task)
    states = np.random.default_rng(0).normal(size=(*labels.shape, tiny.ENCODER.hidden_size)).astype(np.float32)

    class Head:
        """The model with hidden states that are given: the encoder is the same either way."""

        def __init__(self, params: Any, hidden: jax.Array) -> None:
            self.hidden = lambda batch, key=None: hidden
            self.logits = nnx.merge(graphdef, params).logits

    def everywhere(params: Any, hidden: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(Head(params, hidden).logits(hidden))
        picked = jnp.take_along_axis(log_probs, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked * (labels >= 0))

    def gathered(params: Any, hidden: jax.Array) -> jax.Array:
        return task.loss(cast(Any, Head(params, hidden)), cast(Any, batch), KEY, 0.0)[0]

    wanted, wanted_grads = jax.jit(jax.value_and_grad(everywhere, (0, 1)))(PARAMS, states)
    found, grads = jax.jit(jax.value_and_grad(gathered, (0, 1)))(PARAMS, states)
    assert float(jnp.abs(wanted_grads[1][labels >= 0]).min(axis=-1).max()) > 0 and wanted > 30
    assert not np.any(np.asarray(grads[1])[labels < 0])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for own, other in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5 * max(1.0, float(jnp.abs(other).max())))


def test_z_loss_is_the_squared_log_partition(task: MaskedLMTask) -> None:
    batch = batch_of(task)
    tokens, labels = hidden_by_hand(task, batch)
    logits = logits_of(task, {**batch, "tokens": tokens})
    log_z = np.log(np.exp(logits).sum(-1))[np.asarray(labels) >= 0]
    plain, _, _ = computed_loss(task, batch)
    with_z, _, _ = computed_loss(dataclasses.replace(task, z_loss=0.01), batch)
    assert with_z - plain == pytest.approx(0.01 * np.sum(log_z**2), rel=1e-3) and with_z > plain + 1


def test_the_ratio_follows_its_schedule(task: MaskedLMTask) -> None:
    batch = batch_of(task)
    scheduled = dataclasses.replace(task, ratios=(0.4, 0.1))
    total = (task.vocabulary.maskable[batch["tokens"]] & (batch["segment_ids"] > 0)).sum()
    for progress, ratio in ((0.0, 0.4), (0.5, 0.25), (1.0, 0.1)):
        weight = computed_loss(scheduled, batch, progress)[1]
        assert abs(weight - ratio * total) < 8  # below one a row


def test_a_step_without_a_target_has_no_loss_and_no_weight(task: MaskedLMTask) -> None:
    batch = batch_of(task)
    # Nothing but special tokens, as text in unknown tokens is.
    batch = batch | {"tokens": np.where(batch["segment_ids"] > 0, 1, 0).astype(np.int32)}
    assert computed_loss(task, batch) == (0.0, 0.0, 0.0)
    assert computed_loss(dataclasses.replace(task, z_loss=0.01), batch) == (0.0, 0.0, 0.0)
    graphdef = graph(task)
    for at_once in (0, 4):
        other = dataclasses.replace(task, z_loss=0.01, logits_chunk=at_once)

        def loss(params: Any, other: MaskedLMTask = other) -> jax.Array:
            return other.loss(nnx.merge(graphdef, params), cast(Any, batch), KEY, 0.0)[0]

        assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(PARAMS)))


def test_a_step_says_how_much_it_masks(task: MaskedLMTask) -> None:
    batch = batch_of(task)
    labels = np.asarray(hidden_by_hand(task, batch)[1])
    graphdef = graph(task)

    def sums(params: Any) -> Any:
        return task.loss(nnx.merge(graphdef, params), cast(Any, batch), KEY, 0.0)[1][1]

    found = jax.jit(sums)(PARAMS)
    assert found["masked_share"].tolist() == [(labels >= 0).sum(), (batch["segment_ids"] > 0).sum()]
    assert found["rows_without_target"].tolist() == [(labels < 0).all(1).sum(), len(labels)]


# Scores.


@pytest.fixture(scope="module")
def outputs(task: MaskedLMTask) -> dict[str, np.ndarray]:
    """The outputs of the validation split with random weights."""
    rows = task.datasets["valid"]
    graphdef = graph(task)
    batch = rows.take(np.arange(len(rows)))
    found = jax.jit(lambda params: task.outputs(nnx.merge(graphdef, params), batch))(PARAMS)
    return {name: np.asarray(value) for name, value in found.items()}


def test_scores_of_each_unit_by_hand(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    rows = task.datasets["valid"]
    batch = rows.take(np.arange(len(rows)))
    logits = logits_of(task, batch)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    training = task.datasets["train"].take(np.arange(len(task.datasets["train"])))
    real = task.vocabulary.maskable[training["tokens"]] & (training["segment_ids"] > 0)
    counts = collections.Counter(training["tokens"][real].tolist())
    ordinary = task.vocabulary.ordinary.tolist()
    everything = sum(counts.values()) + len(ordinary)
    scores = task.score("valid", outputs).scores
    assert tuple(scores["units"]) == UNITS and len(rows) % 3 == 0
    each = len(rows) // 3
    for number, unit in enumerate(UNITS):
        part = slice(number * each, (number + 1) * each)
        labels = batch["labels"][part]
        there = labels >= 0
        targets = labels[there]
        nats = -np.take_along_axis(log_probs[part], np.maximum(labels, 0)[..., None], axis=-1)[..., 0][there]
        unigram = [-math.log((counts[target] + 1) / everything) for target in targets.tolist()]
        top = counts.most_common(1)[0][0]
        found = scores["units"][unit]
        assert found["targets"] == len(targets) >= 20
        assert found["loss"] == pytest.approx(nats.mean(), rel=1e-5)
        assert found["perplexity"] == pytest.approx(math.exp(nats.mean()), rel=1e-4)
        assert found["accuracy"] == pytest.approx((log_probs[part].argmax(-1)[there] == targets).mean())
        assert found["unigram_loss"] == pytest.approx(np.mean(unigram), rel=1e-9)
        assert found["unigram_accuracy"] == pytest.approx((targets == top).mean())
    metrics = task.score("valid", outputs).metrics
    assert set(task.directions) <= set(metrics)
    assert {name: metrics[name] for name in task.directions} == {
        name: scores["units"]["token"][name] for name in task.directions
    }
    assert metrics["loss_span"] == scores["units"]["span"]["loss"]


def test_a_run_says_when_it_is_at_the_loss_of_guessing_by_frequency(
    task: MaskedLMTask, outputs: dict[str, np.ndarray]
) -> None:
    unigram = task.score("valid", outputs).scores["units"]["token"]["unigram_loss"]

    def warnings(loss: float) -> tuple[str, ...]:
        return task.score("valid", outputs | {"loss": np.full_like(outputs["loss"], loss)}).warnings

    for loss in (unigram + 2, unigram, unigram - 0.1):
        (said,) = warnings(loss)
        assert f"{unigram:.2f}" in said and f"{loss:.2f}" in said
        assert "batch" in said and "warm-up" in said and "duplicates" in said
    assert warnings(unigram - 1) == ()


def test_a_split_with_nothing_hidden_has_no_loss(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    evaluation = task.score("valid", outputs | {"target": np.full_like(outputs["target"], -1)})
    assert math.isnan(evaluation.metrics["loss"]) and math.isnan(evaluation.metrics["accuracy"])


def test_rows_drawn_anew_score_as_rows(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    evaluation = task.score("valid", outputs)
    resample, random = evaluation.bootstrap_data, np.random.default_rng(0)
    assert resample is not None
    each = len(outputs["target"]) // 3
    assert (resample.unit, resample.count) == ("rows", each)
    assert resample.metrics(np.arange(each)) == pytest.approx(dict(evaluation.metrics), rel=1e-9)
    for index in (random.integers(0, each, each), np.array([1, 1, 2])):
        picked = np.concatenate([index + part * each for part in range(3)])
        wanted = task.score("valid", {name: values[picked] for name, values in outputs.items()})
        assert resample.metrics(index) == pytest.approx(dict(wanted.metrics), rel=1e-9)
        assert wanted.metrics["loss"] != evaluation.metrics["loss"]
    none = task.score("valid", outputs | {"target": np.full_like(outputs["target"], -1)}).bootstrap_data
    assert none is not None and all(math.isnan(value) for value in none.metrics(np.arange(each)).values())
    # Other hidden tokens are other data.
    turned = task.score("valid", outputs | {"target": np.roll(outputs["target"], 1, axis=0)}).bootstrap_data
    assert turned is not None and len(set(resample.identity)) > 1 and turned.identity != resample.identity


def test_every_hidden_token_is_in_one_prediction(task: MaskedLMTask, outputs: dict[str, np.ndarray]) -> None:
    rows = task.datasets["valid"]
    each = len(rows) // 3
    labels = rows.take(np.arange(each))["labels"]
    records = list(task.score("valid", outputs).predictions)
    assert [record["row"] for record in records] == list(range(each))
    loss = 0.0
    for record, row in zip(records, labels, strict=True):
        places = np.flatnonzero(row >= 0)
        assert [token["place"] for token in record["hidden"]] == places.tolist()
        wanted = task.tokenizer.convert_ids_to_tokens(row[places].tolist())
        assert [token["token"] for token in record["hidden"]] == wanted
        assert record["correct"] == all(token["token"] == token["predicted"] for token in record["hidden"])
        assert record["text"].startswith("[CLS]") and "[PAD]" not in record["text"]
        loss += sum(token["loss"] for token in record["hidden"])
    count = sum(len(record["hidden"]) for record in records)
    assert loss / count == pytest.approx(task.score("valid", outputs).metrics["loss"], abs=1e-3)
    json.dumps(records)


def test_a_part_of_the_rows_may_be_scored(task: MaskedLMTask, config: Config) -> None:
    some = created(tiny.replaced(config, task__eval_rows=3))[0]
    each = len(task.datasets["valid"]) // 3
    assert len(some.rows("valid")) == 9 < 3 * each
    assert f"valid: 3 of its {each} rows are scored, evenly spread (config.task.eval_rows)" in some.notes
    whole = task.datasets["valid"].take(task.held_out["valid"].index[np.arange(3) * each // 3])
    for name, values in some.rows("valid").take(np.arange(3)).items():
        np.testing.assert_array_equal(values, whole[name])

    def zeros(rows: int) -> dict[str, np.ndarray]:
        return {name: np.zeros((rows, 24), np.int32) for name in ("place", "target", "predicted", "loss")}

    evaluation = some.score("valid", zeros(9))
    assert evaluation.scores["rows"] == 3 and evaluation.scores["rows_of_the_split"] == each
    assert f"3 of the split's {each} rows" in evaluation.tables[0].title
    assert [record["row"] for record in evaluation.predictions] == some.held_out["valid"].index.tolist()
    assert "split's" not in task.score("valid", zeros(3 * each)).tables[0].title


def test_rows_to_score_are_of_masked_text_alone(tmp_path: pathlib.Path) -> None:
    other = tiny.config(tmp_path, task__eval_rows=100)
    with pytest.raises(UserError, match=r"config\.task\.eval_rows: is 100, but task ner is scored on all rows.*4000"):
        registry.create(other, resolve(other.model))


def test_held_out_masks_are_the_same_for_every_run(task: MaskedLMTask, config: Config) -> None:
    other = created(tiny.replaced(config, seed=9, task__unit="span", task__evaluate=["token"]))[0]
    each = len(task.datasets["valid"]) // 3
    assert other.units == ("span", "token") and len(other.rows("valid")) == 2 * each
    token = task.datasets["valid"].take(np.arange(each))
    for name, values in other.rows("valid").take(np.arange(each, 2 * each)).items():
        np.testing.assert_array_equal(values, token[name])
    span = task.datasets["valid"].take(np.arange(2 * each, 3 * each))
    for name, values in other.rows("valid").take(np.arange(each)).items():
        np.testing.assert_array_equal(values, span[name])
    assert not np.array_equal(token["labels"], span["labels"])


# What it refuses.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__row_length": 65}, "config.data.row_length: 65 tokens, but the encoder has 64 positions"),
        ({"task__loss__label_smoothing": 0.1}, "config.task.loss.label_smoothing: is 0.1"),
        ({"task__loss__r_drop": 1.0}, "config.task.loss.r_drop: is 1.0"),
        ({"task__mask_share": 0.8, "task__random_share": 0.3}, "config.task.random_share: 0.3 and mask_share 0.8"),
        ({"task__evaluate": ["token", "spam"]}, "config.task.evaluate: 'spam'. Did you mean 'span'?"),
        ({"model__tokenizer": "train:bpe/300"}, "the weights have theirs already"),
    ],
    ids=str,
)
def test_contradictions_are_refused(config: Config, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        created(tiny.replaced(config, **change))
    assert words in str(caught.value)


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(config: Config, tmp_path: pathlib.Path) -> None:
    small = dataclasses.replace(tiny.ENCODER, vocab_size=len(tiny.VOCABULARY) - 1)
    uri = tiny.write_masked_lm_weights(tmp_path / "small", small)
    with pytest.raises(UserError, match=r"tokenizer has 69 entries, the word embedding 68 rows"):
        created(tiny.replaced(config, model__init=uri))
    # As large as the weights' own, but with other entries.
    tiny.write_tokenizer(tmp_path / "other")
    (tmp_path / "other" / "vocab.txt").write_text("\n".join([*tiny.PIECES[:5], *tiny.VOCABULARY[:4:-1]]) + "\n")
    with pytest.raises(UserError, match=r"only \d+ of the 69 entries .* it is not the tokenizer of these weights"):
        created(tiny.replaced(config, model__tokenizer=f"dir:{tmp_path / 'other'}"))
    # The same one elsewhere is as good.
    tiny.write_tokenizer(tmp_path / "same")
    same = created(tiny.replaced(config, model__tokenizer=f"dir:{tmp_path / 'same'}"))[0]
    assert same.tokenizer.get_vocab() == dict(zip(tiny.VOCABULARY, range(69), strict=True))
