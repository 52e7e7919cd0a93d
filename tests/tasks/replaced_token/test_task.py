"""Replaced-token detection: the loss and its gradients, the samples, the scores, and whole runs."""

# B batch, T tokens, P predictions a row, V vocabulary

import dataclasses
import json
import math
import pathlib
import random
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jaxfm.tasks.replaced_token_predictor import ReplacedTokenPredictor

from jaxfm.config import Config, MeshConfig
from jaxfm.data.text import masking
from jaxfm.errors import UserError
from jaxfm.evaluate import evaluate
from jaxfm.export import export
from jaxfm.families.registry import preset
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.predict import Model
from jaxfm.tasks import masked_lm, registry, replaced_token
from jaxfm.tasks.replaced_token import ReplacedTokenTask
from jaxfm.train import train
from jaxfm.training import session
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import restore_params, to_host
from jaxfm.training.setup import set_up
from tests import tiny

F32, MESH = jnp.dtype(jnp.float32), MeshConfig()
# Share of hidden tokens at the first and the last step.
RATIOS = (0.4, 0.25)


def write_text(folder: pathlib.Path) -> str:
    """Documents of 3 to 40 words, a line each; returns the folder's URI."""
    draw = random.Random(3)
    words = (*tiny.FILLERS, *(name for names in tiny.NAMES.values() for name in names))
    for split, count in (("train", 90), ("valid", 12)):
        lines = [" ".join(draw.choices(words, k=draw.choice((3, 12, 40)))) for _ in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"text:{folder}"


def config(folder: pathlib.Path, **overrides: Any) -> Config:
    """A run of 6 updates from the tiny BERT's weights; two layers, one of them for the generator."""
    source = f"text:{folder / 'text'}" if (folder / "text").exists() else write_text(folder / "text")
    ours = {
        "task": "masked_lm", "objective": "rtd", "data__source": source, "data__cache": str(folder / "cache"),
        "task__ratio": RATIOS[0], "task__final_ratio": RATIOS[1], "task__evaluate": ("token", "whole_word"),
        "train__steps": 6, "train__accumulate": 2, "train__batch_size": 8, "eval__every_steps": 3,
        "log__every_steps": 1, "eval__metric": "f1", "model__dropout": 0.0,
    }  # fmt: skip
    return tiny.config(folder, **ours | overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("rtd")


@pytest.fixture(scope="module")
def task(folder: pathlib.Path) -> ReplacedTokenTask:
    values = config(folder)
    made, _, _ = registry.create(values, resolve(values.model))
    assert isinstance(made, ReplacedTokenTask)
    return made


class Bench:
    """A task without dropout, wide random parameters (path -> array), 4 training rows; each function compiled once."""

    def __init__(self, task: ReplacedTokenTask):
        self.task = task
        self.graphdef, abstract = build_abstract(
            lambda: self.task.make_model(nnx.Rngs(0), dtype=F32, scan=True), make_mesh(MESH)
        )
        draw = np.random.default_rng(2)
        flat = flax.traverse_util.flatten_dict(abstract, sep="/")
        self.params = {
            name: (name.endswith("scale") + 0.2 * draw.normal(size=leaf.shape)).astype(np.float32)
            for name, leaf in flat.items()
        }
        rows = self.task.datasets["train"].take(np.arange(8))
        self.halves = [{name: value[part::2] for name, value in rows.items()} for part in (0, 1)]
        self.batch = rows
        self.value_and_grad = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        self.outputs = jax.jit(lambda batch: self.task.outputs(self.model(self.params), batch))
        self.replaced = jax.jit(lambda batch: self.model(self.params).replaced(batch))
        # About half of the tokens are flagged.
        middle = np.median(jax.jit(lambda params: self.model(params).replaced(rows))(self.params))
        self.params["detector/head/bias"] -= middle

    def model(self, params: Any) -> Any:
        return nnx.merge(self.graphdef, tiny.nested(params))

    def loss(self, params: Any, batch: Any, key: jax.Array, progress: Any, weight: Any = 50.0) -> Any:
        task = dataclasses.replace(self.task, discriminator_weight=weight)
        return task.loss(self.model(params), batch, key, progress)


@pytest.fixture(scope="module")
def bench(task: ReplacedTokenTask) -> Bench:
    return Bench(task)


def test_what_a_new_run_is_made_of(task: ReplacedTokenTask, folder: pathlib.Path) -> None:
    assert task.generator_layers == 1 and task.text.encoder.family == "electra"
    assert (task.text.masking.mask_share, task.text.masking.random_share) == (1.0, 0.0)
    assert "generator: 1 of the encoder's 2 layers; loaded beside the encoder: nothing" in task.notes
    values = config(folder)
    initial = resolve(values.model)
    kept = replaced_token.select_params(task, initial)
    assert kept and all(name.startswith("encoder/") for name in kept) and set(kept) == set(initial.params)
    with pytest.raises(UserError, match="config.objective: 'rtd' is of task masked_lm, but config.task is 'ner'"):
        registry.create(tiny.replaced(values, task="ner"), initial)


@pytest.mark.parametrize(("depth", "layers"), [(0.01, 1), (1 / 3, 4), (0.5, 6), (1.0, 12)])
def test_depth_of_the_generator(depth: float, layers: int) -> None:
    assert replaced_token.generator_layers(depth, preset("bert_base")) == layers


def test_samples_are_drawn_from_what_can_be_hidden() -> None:
    logits = np.asarray([[0.0, 1.0, 2.0, -1.0, 0.5, 3.0], [1.0, -2.0, 0.0, 0.0, 2.0, 9.0]], np.float32)
    maskable = np.asarray([True, True, False, True, True, False])
    count = 40_000
    many = jnp.broadcast_to(logits[:, None], (2, count, 6))
    drawn = np.asarray(jax.jit(lambda key: replaced_token.sample(key, many, maskable))(jax.random.key(0)))
    assert drawn.dtype == np.int32 and drawn.shape == (2, count)
    for row in range(2):
        expected = np.where(maskable, np.exp(logits[row].astype(np.float64)), 0.0)
        expected /= expected.sum()
        found = np.bincount(drawn[row], minlength=6) / count
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(count))
        assert not found[~maskable].any()
    again = replaced_token.sample(jax.random.key(0), many, maskable)
    other = replaced_token.sample(jax.random.key(1), many, maskable)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).mean() > 0.3


def expected_loss(bench: Bench, batch: Any, key: jax.Array, progress: float) -> dict[str, float]:
    """The objective in float64, from the logits everywhere, the masks and the samples of the same keys."""
    torch = pytest.importorskip("torch")
    text = bench.task.text
    mask_key, sample_key, _, _ = jax.random.split(key, 4)
    ratio = 0.4 - 0.15 * progress
    limit = masking.max_predictions("token", 0.4, 48)
    tokens, labels = masking.mask_tokens(
        mask_key, batch["tokens"], batch["segment_ids"], text.vocabulary, text.masking, ratio=ratio, limit=limit
    )
    hidden = np.asarray(labels) >= 0
    assert (np.asarray(tokens)[hidden] == text.tokenizer.mask_token_id).all() and hidden.sum() > 30

    @jax.jit
    def run(params: Any) -> Any:
        model = bench.model(params)
        logits_BTV = model.logits(model.hidden({**batch, "tokens": tokens}))
        places, _ = masking.target_places(labels, limit)
        chosen = jnp.take_along_axis(logits_BTV, places[..., None], axis=1)
        return logits_BTV, places, replaced_token.sample(sample_key, chosen, text.vocabulary.maskable)

    logits, places, sampled = (np.asarray(x) for x in run(bench.params))
    corrupted = batch["tokens"].copy()
    for row in range(4):
        for place, token in zip(places[row], sampled[row], strict=True):
            if hidden[row, place]:
                corrupted[row, place] = token
    scores = np.asarray(bench.replaced({**batch, "tokens": corrupted}))
    special = np.isin(batch["tokens"], text.tokenizer.all_special_ids)
    counted = ~special & (batch["segment_ids"] > 0)
    replaced = corrupted != batch["tokens"]
    assert not replaced[~hidden].any() and 0 < replaced.sum() < hidden.sum() < counted.sum() < batch["tokens"].size
    own, gold = torch.from_numpy(logits[hidden]).double(), torch.from_numpy(np.asarray(labels)[hidden]).long()
    guesses = torch.nn.functional.cross_entropy(own, gold, reduction="sum")
    detections = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(scores[counted]).double(), torch.from_numpy(replaced[counted]).double(), reduction="sum"
    )
    flagged = (scores > 0) & counted
    return {
        "loss": float(guesses + 50 * ratio * detections),
        "weight": hidden.sum(),
        "generator_loss": float(guesses / hidden.sum()),
        "generator_accuracy": float((own.argmax(-1) == gold).double().mean()),
        "discriminator_loss": float(detections / counted.sum()),
        "discriminator_accuracy": (flagged == replaced)[counted].mean(),
        "precision": (flagged & replaced).sum() / flagged.sum(),
        "recall": (flagged & replaced).sum() / replaced.sum(),
        "masked_share": hidden.sum() / (batch["segment_ids"] > 0).sum(),
        "rows_without_target": (~hidden).all(axis=1).mean(),
        "share": hidden.sum() / counted.sum(),
    }


@pytest.mark.parametrize("progress", [0.0, 0.75])
def test_loss_and_metrics_against_torch(bench: Bench, progress: float) -> None:
    key, batch = jax.random.key(12), bench.halves[0]
    expected = expected_loss(bench, batch, key, progress)
    (loss, (weight, sums)), _ = bench.value_and_grad(bench.params, batch, key, progress, 50.0)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    assert weight == expected["weight"]
    means = metrics_lib.means(sums)
    assert set(means) == set(expected) - {"loss", "weight", "share"}
    for name, value in means.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    # The paper's sum of means, up to the share really hidden.
    ratio = 0.4 - 0.15 * progress
    paper = means["generator_loss"] + 50 * means["discriminator_loss"] * ratio / expected["share"]
    np.testing.assert_allclose(loss / weight, paper, rtol=1e-5)
    assert abs(ratio / expected["share"] - 1) < 0.1


def test_a_step_without_a_target_has_no_loss_and_no_gradient(bench: Bench) -> None:
    batch = bench.halves[0]
    batch = batch | {"tokens": np.where(batch["segment_ids"] > 0, 1, 0).astype(np.int32)}  # unknown tokens
    (loss, (weight, sums)), gradients = bench.value_and_grad(bench.params, batch, jax.random.key(1), 0.0, 50.0)
    assert (loss, weight) == (0, 0) and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert all(np.isfinite(value).all() for value in sums.values()) and sums["rows_without_target"].tolist() == [4, 4]


def test_gradients_stop_at_the_samples_and_meet_in_the_embeddings(bench: Bench) -> None:
    def gradient(weight: float) -> dict[str, np.ndarray]:
        _, gradients = bench.value_and_grad(bench.params, bench.halves[0], jax.random.key(5), 0.5, weight)
        return {name: np.asarray(leaf) for name, leaf in gradients.items()}

    none, one, three = gradient(0.0), gradient(1.0), gradient(3.0)
    for name in bench.params:
        detected = (three[name] - one[name]) / 2
        scale = np.abs(three[name]).max()
        if name.startswith("generator/"):
            np.testing.assert_array_equal(none[name], three[name], err_msg=name)
            assert np.abs(none[name]).max() > 1e-3 or name.endswith("key/bias")
        elif name.startswith("encoder/embeddings/"):
            assert np.abs(none[name]).max() > 1e-3 and np.abs(detected).max() > 1e-3
            np.testing.assert_allclose(three[name], none[name] + 3 * detected, atol=1e-4 * scale, err_msg=name)
        else:
            assert not none[name].any() and (np.abs(detected).max() > 1e-4 or name.endswith("key/bias"))
    assert {name.partition("/")[0] for name in bench.params} == {"encoder", "detector", "generator"}


def test_no_gradient_passes_a_sample() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)), jnp.float32)

    def soft(logits: jax.Array) -> jax.Array:
        drawn = replaced_token.sample(jax.random.key(0), logits, np.ones(9, bool))
        return jnp.take(jnp.arange(9.0), drawn).sum()

    assert not np.asarray(jax.grad(soft)(logits)).any()


@pytest.fixture(scope="module")
def outputs(bench: Bench) -> dict[str, np.ndarray]:
    """Of all validation rows at once."""
    rows = bench.task.datasets["valid"]
    return jax.device_get(bench.outputs(rows.take(np.arange(len(rows)))))


def test_held_out_samples_do_not_depend_on_the_batch(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    rows = bench.task.datasets["valid"]
    there = outputs["target"] >= 0
    for first in (0, 7, len(rows) - 2):
        pair = np.asarray([first, first + 1])
        few = jax.device_get(bench.outputs(rows.take(pair)))
        np.testing.assert_array_equal(few["target"], outputs["target"][pair])
        np.testing.assert_array_equal(few["sampled"][there[pair]], outputs["sampled"][pair][there[pair]])
    # Rows have samples of their own, even where all else is the same.
    double = {name: values[[0, 0]] for name, values in rows.take(np.arange(1)).items()} | {
        "row": np.asarray([[0], [1]])
    }
    sampled = np.asarray(bench.outputs(double)["sampled"])
    assert (sampled[0] != sampled[1])[there[0]].mean() > 0.2
    assert len(np.unique(rows.take(np.arange(len(rows)))["row"])) == len(rows)


def test_rows_drawn_anew_score_as_rows(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    evaluation = bench.task.score("valid", outputs)
    resample, each = evaluation.bootstrap_data, len(outputs["target"]) // 2
    assert resample is not None and resample.count == each
    assert resample.metrics(np.arange(each)) == pytest.approx(dict(evaluation.metrics), rel=1e-6)
    index = np.random.default_rng(0).integers(0, each, each)
    picked = np.concatenate([index, index + each])
    wanted = bench.task.score("valid", {name: values[picked] for name, values in outputs.items()}).metrics
    assert resample.metrics(index) == pytest.approx(dict(wanted), rel=1e-6)
    # What another generator proposes is other data to find replacements in.
    other = bench.task.score("valid", outputs | {"sampled": np.roll(outputs["sampled"], 1, axis=0)}).bootstrap_data
    assert other is not None and other.identity != resample.identity


def test_scores_from_outputs_by_hand(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    evaluation = bench.task.score("valid", outputs)
    arrays = bench.task.datasets["valid"].take(np.arange(len(outputs["target"])))
    original, seen = arrays["tokens"].copy(), arrays["tokens"].copy()
    for row, there in enumerate(outputs["target"] >= 0):
        original[row, outputs["place"][row][there]] = outputs["target"][row][there]
        seen[row, outputs["place"][row][there]] = outputs["sampled"][row][there]
    alarm = np.asarray(bench.replaced({**arrays, "tokens": seen})) > 0
    counted = (arrays["segment_ids"] > 0) & ~np.isin(original, bench.task.text.tokenizer.all_special_ids)
    each = len(seen) // 2  # those with masks by token come first
    changed, alarm, counted = ((part & counted)[:each] for part in (original != seen, alarm, counted))
    replaced, flagged, found = changed.sum(), alarm.sum(), (changed & alarm).sum()
    tokens, errors = counted.sum(), (changed != alarm).sum()
    own = evaluation.scores["units"]["token"]
    assert 0 < found < min(replaced, flagged)
    np.testing.assert_allclose(own["recall"], found / replaced)
    np.testing.assert_allclose(own["precision"], found / flagged)
    np.testing.assert_allclose(own["f1"], 2 * found / (replaced + flagged))
    np.testing.assert_allclose(own["replaced"], replaced / tokens)
    np.testing.assert_allclose(own["discriminator_accuracy"], 1 - errors / tokens)
    scale = 50 * RATIOS[1] * tokens / own["targets"]
    np.testing.assert_allclose(own["loss"], own["generator_loss"] + scale * own["discriminator_loss"], rtol=1e-6)
    assert set(bench.task.directions) <= set(evaluation.metrics) and "f1_whole_word" in evaluation.metrics
    records = list(evaluation.predictions)
    assert len(records) == each and sum(len(record["replaced"]) for record in records) == replaced
    assert sum(record["false_alarms"] for record in records) == flagged - found
    for record in records:
        assert all(word["token"] != word["by"] and 0 <= word["probability"] <= 1 for word in record["replaced"])
        assert "[MASK]" not in record["text"]
    assert sum(word["probability"] > 0.5 for record in records for word in record["replaced"]) == found


class StopError(Exception):
    """Ends a run between two steps."""


@dataclasses.dataclass(frozen=True)
class Runs:
    """A run, and another of the same config that was stopped and gone on with."""

    whole: pathlib.Path
    report: dict[str, Any]
    resumed: pathlib.Path
    resumed_report: dict[str, Any]


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> Runs:
    values = config(folder, eval__select="last")
    report = train(values, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        done, plain = 0, session.meshes.shard_batch

        def shard_batch(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done == 5:  # what was saved last is step 3
                raise StopError
            return plain(*arguments)

        patch.setattr(session.meshes, "shard_batch", shard_batch)
        with pytest.raises(StopError):
            train(values, folder / "stopped")
    return Runs(folder / "whole", report, folder / "stopped", train(values, folder / "stopped"))


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def restored(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    finder = registry.open_exporter(workdir)
    _, params, step = restore_params(workdir, lambda rngs: finder.make_model(rngs, dtype=F32), make_mesh(MESH))
    assert step == 6
    return to_host(params)


def test_a_run_resumes_bit_for_bit(runs: Runs) -> None:
    assert repr(lines(runs.whole)) == repr(lines(runs.resumed))  # a precision over no token at all is NaN
    assert runs.report["splits"] == runs.resumed_report["splits"]
    whole, resumed = restored(runs.whole), restored(runs.resumed)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)
    trained = [line for line in lines(runs.whole) if line["split"] == "train"]
    assert {"generator_loss", "discriminator_loss", "precision", "recall"} <= set(trained[-1])
    assert trained[-1]["discriminator_loss"] < trained[0]["discriminator_loss"]


def test_a_trained_run_is_scored_again(runs: Runs) -> None:
    values = json.loads((runs.whole / "task.json").read_text())
    assert (values["task"], values["objective"]) == ("masked_lm", "rtd")
    evaluation = evaluate(runs.whole, "valid")
    wanted = runs.report["splits"]["valid"]
    for name in ReplacedTokenTask.selection_metrics:
        np.testing.assert_allclose(evaluation.metrics[name], wanted[name], rtol=1e-5, err_msg=name)
    # The training text is not read again: its counts lie in the run.
    again = evaluation.scores["units"]["token"]["unigram_loss"]
    assert again == pytest.approx(wanted["units"]["token"]["unigram_loss"])


def test_accumulated_micro_batches_add_up_exactly(bench: Bench, runs: Runs, folder: pathlib.Path) -> None:
    values = config(folder)
    task, loaded = registry.create(values, resolve(values.model))
    setup = set_up(values, task, loaded, make_mesh(MESH))
    state = setup.initial_state()
    params = {name: jnp.asarray(value) for name, value in to_host(state.params).items()}
    batch = setup.batches.batch(0)
    keys = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(np.asarray(state.key)), 0), 2)
    parts = [
        bench.value_and_grad(params, {name: value[part::2] for name, value in batch.items()}, keys[part], 0.0, 50.0)
        for part in (0, 1)
    ]
    ((first, (first_weight, _)), first_gradient), ((second, (second_weight, _)), second_gradient) = parts
    # Means of means would be another number.
    assert first_weight != second_weight
    weight = first_weight + second_weight
    logged = next(line for line in lines(runs.whole) if line["split"] == "train")
    assert logged["step"] == 1
    np.testing.assert_allclose(logged["loss"], (first + second) / weight, rtol=1e-5)
    gradient = jax.tree.map(lambda a, b: (a + b) / weight, first_gradient, second_gradient)
    np.testing.assert_allclose(logged["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)


TEXTS = ("ada met boole in the old town .", "", "  the   town [MASK] near", " ".join(["gauss left hull"] * 40))


def test_each_token_of_a_text_gets_one_probability(runs: Runs) -> None:
    model = Model(runs.whole)
    results = model(TEXTS)
    tokenizer = registry.open_predictor(runs.whole).tokenizer  # type: ignore[attr-defined]
    for text, result in zip(TEXTS, results, strict=True):
        assert result["text"] == text
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = result["tokens"]
        assert [token["token"] for token in tokens] == tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        assert [(token["start"], token["end"]) for token in tokens] == encoded["offset_mapping"]
        assert all(0 < token["probability"] < 1 for token in tokens)
    assert len(results[3]["tokens"]) > tiny.ENCODER.max_positions  # several windows
    shown = model.lines(results[0])
    assert shown[0] == TEXTS[0] and len(shown) == 6
    worst = max(results[0]["tokens"], key=lambda token: token["probability"])
    assert shown[1].split() == [f"{worst['start']}-{worst['end']}", f"{worst['probability']:.3f}", worst["token"]]
    assert model.lines(results[1]) == ["", "  (no tokens)"]


def test_transformers_computes_the_same_probabilities(runs: Runs, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    folder = export(runs.whole, tmp_path / "hf")
    model, info = transformers.AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "ElectraForPreTraining" and {name for name, found in info.items() if found} == set()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model.eval()(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0, 1:-1]
    ours = [token["probability"] for token in Model(runs.whole)([TEXTS[0]])[0]["tokens"]]
    np.testing.assert_allclose(torch.sigmoid(logits).numpy(), ours, atol=1e-4)  # given to four digits
    assert np.ptp(ours) > 0.001


def test_scores_in_parts_are_refused(folder: pathlib.Path) -> None:
    values = config(folder, task__places_at_once=2)
    with pytest.raises(UserError, match="config.task.logits_chunk: 2, but the generator of objective rtd"):
        registry.create(values, resolve(values.model))


def test_an_encoder_without_a_class_in_transformers_is_not_exported(tmp_path: pathlib.Path) -> None:
    finder = ReplacedTokenPredictor(preset("modern_base"), 1, None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no class for replaced-token detection with a modernbert encoder"):
        finder.write_hf(tmp_path, {})


def test_ner_from_a_run_takes_the_encoder_and_says_what_it_leaves(runs: Runs, folder: pathlib.Path) -> None:
    values = tiny.config(folder, model__init=f"run:{runs.whole}")
    initial = resolve(values.model)
    task, loaded = registry.create(values, initial)
    trained = restored(runs.whole)
    assert {name for name in trained if name.startswith("encoder/")} == set(loaded)
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, trained[name])
    assert "weights not used: detector, generator (of pretraining)" in notes
    state = set_up(values, task, loaded, make_mesh(MESH)).initial_state()
    for name, value in to_host(state.params).items():
        assert name.startswith("head/") or np.array_equal(value, trained[name])


def test_pretraining_goes_on_from_a_run(runs: Runs, folder: pathlib.Path) -> None:
    values = config(folder, model__init=f"run:{runs.whole}")
    initial = resolve(values.model)
    task, loaded = registry.create(values, initial)
    assert isinstance(task, ReplacedTokenTask) and set(loaded) == set(restored(runs.whole))
    assert any("loaded beside the encoder: detector, generator" in note for note in notes)
    # Another depth: the generator is new. Another objective: so is the masked-LM head.
    deeper = replaced_token.select_params(dataclasses.replace(task, generator_layers=2), initial)
    assert {name.partition("/")[0] for name in deeper} == {"encoder", "detector"}
    assert {name.partition("/")[0] for name in masked_lm.select_params(task.text, initial)} == {"encoder"}
