"""The classification task: packed equal to apart, targets, losses, whole runs of each kind, and what it refuses."""

# B batch, T tokens, S segments, C classes, E examples

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxfm.tasks.classification_predictor import ClassifierPredictor, encode

from jaxfm.config import Config, MeshConfig
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.evaluate import evaluate
from jaxfm.export import export
from jaxfm.models.heads import pool
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.predict import Model, predict, predict_file
from jaxfm.tasks import classification, classification_predictor, registry
from jaxfm.tasks.classification import ClassificationTask
from jaxfm.train import train
from jaxfm.training.initial import resolve
from tests import tiny

KINDS = ("single", "multi", "regression")


def create(config: Config) -> tuple[ClassificationTask, dict[str, np.ndarray], tuple[str, ...]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, ClassificationTask)
    return task, dict(loaded), notes


def loss_and_gradient(task: ClassificationTask, rows: PackedRows, params: Any, graphdef: Any) -> tuple[Any, Any]:
    """Mean loss over all rows and its gradient."""

    def mean(params: Any) -> jax.Array:
        batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
        loss, (weight, _) = task.loss(nnx.merge(graphdef, params), batch, jax.random.key(0), 0.0)
        return loss / weight

    return jax.jit(jax.value_and_grad(mean))(params)


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [
        ("single", "cls"),
        ("regression", "mean"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("single", "mean"), ("regression", "cls"))),
        ("multi", "cls"),
        pytest.param("multi", "mean", marks=pytest.mark.slow),
    ],
)
def test_packed_equals_one_example_a_row(tmp_path: pathlib.Path, kind: str, pooling: str) -> None:
    config = tiny.classification_config(
        tmp_path, kind, pairs=True, task__pooling=pooling, model__dropout=0.0, data__row_length=64
    )
    task, _, _ = create(config)
    packed = task.datasets["test"]
    texts = [(example.text, example.pair) for example in task.examples["test"]]
    targets = classification.targets_of(task.model, task.examples["test"])
    # One example a row: rows that hold one segment at most.
    alone_model = dataclasses.replace(task.model, segments=1)
    alone = encode(alone_model, task.tokenizer, texts, targets).rows
    assert len(alone) == len(texts) > 2 * len(packed)
    make = lambda model: lambda: model.make_model(nnx.Rngs(0), dtype=jnp.dtype(jnp.float32))  # noqa: E731
    graphdef, abstract = build_abstract(make(task.model), make_mesh(MeshConfig()))
    alone_graphdef, _ = build_abstract(make(alone_model), make_mesh(MeshConfig()))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * draw.standard_normal(leaf.shape).astype(np.float32), abstract)
    alone_task = dataclasses.replace(task, model=alone_model)
    loss, gradient = loss_and_gradient(task, packed, params, graphdef)
    expected, expected_gradient = loss_and_gradient(alone_task, alone, params, alone_graphdef)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradient, expected_gradient)


def test_pooling_reads_its_own_segment_alone() -> None:
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 3)), jnp.float32)
    segments, positions = jnp.asarray([[1, 1, 2, 2, 2, 0]]), jnp.asarray([[0, 1, 0, 1, 2, 0]])
    first = pool(hidden, segments, positions, "cls", 4)
    np.testing.assert_array_equal(first[0], [hidden[0, 0], hidden[0, 2], np.zeros(3), np.zeros(3)])
    mean = pool(hidden, segments, positions, "mean", 4)
    np.testing.assert_allclose(mean[0, :2], [hidden[0, :2].mean(0), hidden[0, 2:5].mean(0)], rtol=1e-6)
    for pooling in ("cls", "mean"):
        leak = jax.grad(lambda h, p=pooling: pool(h, segments, positions, p, 4)[0, 1].sum())(hidden)
        assert np.all(np.asarray(leak)[0, [0, 1, 5]] == 0) and np.any(np.asarray(leak)[0, 2:5] != 0)


def test_a_row_holds_each_target_at_the_segment_of_its_example(tmp_path: pathlib.Path) -> None:
    task, _, notes = create(tiny.classification_config(tmp_path))
    assert task.model.labels == ("LOC", "PER") and not task.model.pairs
    assert any(note.startswith("head: new, 2 classes (LOC, PER)") for note in notes)
    for split in tuple(task.datasets):
        rows, examples = task.datasets[split], task.examples[split]
        assert rows.labels.shape == (len(rows), task.model.segments)
        for (row, segment, start), example in zip(rows.example_locations, examples, strict=True):
            assert task.model.labels[rows.labels[row, segment]] == example.target
            assert rows.tokens[row, start] == task.tokenizer.cls_token_id
            length = int((rows.segment_ids[row] == segment + 1).sum())
            pieces = task.tokenizer(example.text, truncation=True, max_length=48)["input_ids"]
            assert rows.tokens[row, start : start + length].tolist() == pieces
        assert (rows.labels >= 0).sum() == len(examples)


def test_pairs_carry_the_types_of_their_texts_and_long_ones_are_cut(tmp_path: pathlib.Path) -> None:
    task, _, notes = create(tiny.classification_config(tmp_path, pairs=True, data__window=16))
    assert any("examples cut to 16 tokens" in note for note in notes)
    rows, examples = task.datasets["train"], task.examples["train"]
    row, segment, start = rows.example_locations[0]
    where = slice(start, start + int((rows.segment_ids[row] == segment + 1).sum()))
    expected = task.tokenizer(examples[0].text, examples[0].pair, truncation="longest_first", max_length=16)
    assert rows.tokens[row, where].tolist() == expected["input_ids"]
    assert rows.type_ids[row, where].tolist() == expected["token_type_ids"] and 1 in expected["token_type_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_all_programs_use_it(tmp_path: pathlib.Path, kind: str) -> None:
    config = tiny.classification_config(
        tmp_path, kind, pairs=kind == "regression", train__steps=60, eval__every_steps=20, model__dropout=0.0
    )
    run = tmp_path / "run"
    report = train(config, run)
    scores = report["splits"]["test"]
    assert report["task"] == "classification"
    assert scores[config.eval.metric] > {"single": 0.8, "multi": 0.8, "regression": 0.6}[kind]
    again = evaluate(run, "test", progress=Progress(0, quiet=True))
    assert again.metrics[config.eval.metric] == scores[config.eval.metric]
    records = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    texts = [(record["text"], record["pair"]) if kind == "regression" else record["text"] for record in records]
    found = predict(run, texts)
    for result, record in zip(found, records, strict=True):
        if kind == "regression":
            assert result["value"] == pytest.approx(record["predicted"], abs=1e-3)
        else:
            assert result["label" if kind == "single" else "labels"] == record["predicted"]
            assert result["scores"] == pytest.approx(record["scores"], abs=1e-3)  # calibrated alike
    lines = Model(run).lines(found[0])
    assert lines[0] == records[0]["text"] and len(lines) >= 2
    if kind == "regression":
        source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
        source.write_text("".join(f"{a}\t{b}\n" for a, b in texts))
        assert predict_file(run, source, output, Progress(0, quiet=True)) == len(texts)
        assert [json.loads(line) for line in output.read_text().splitlines()] == found
        source.write_text("one text\n")
        with pytest.raises(UserError, match=r"in.txt:1: has 0 tabs; this model judges pairs"):
            predict_file(run, source, tmp_path / "none.jsonl", Progress(0, quiet=True))
        with pytest.raises(UserError, match="this model judges pairs of texts: give the second text too"):
            predict(run, ["alone"])
    elif kind == "single":
        with pytest.raises(UserError, match="this model judges single texts"):
            predict(run, [("one", "two")])


@pytest.mark.parametrize("kind", ["single", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_an_export_gives_transformers_the_same_answers(tmp_path: pathlib.Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = tiny.classification_config(tmp_path, kind, pairs=True, model__dropout=0.0)
    run = tmp_path / "run"
    train(config, run)
    export(run, tmp_path / "hf")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    task = registry.reopen(run, config, config.data.source, "test")
    assert isinstance(task, ClassificationTask)
    outputs = []
    for example in task.examples["test"]:
        arrays = tokenizer(example.text, example.pair, truncation=True, max_length=48, return_tensors="pt")
        with torch.no_grad():
            outputs.append(model(**arrays).logits[0].numpy())
    loaded = Model(run)
    graphdef, params = loaded._graphdef, loaded._params
    rows = task.datasets["test"]
    batch = rows.take(np.arange(len(rows)))
    ours = task.encoded["test"].per_example(np.asarray(nnx.merge(graphdef, params)(batch)))
    np.testing.assert_allclose(ours, np.stack(outputs), atol=1e-4)
    problem = {"single": "single_label_classification", "multi": "multi_label_classification"}
    assert model.config.problem_type == problem.get(kind, "regression")


def test_a_mean_cannot_be_exported_for_a_family_that_has_none(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, task__pooling="mean", train__steps=2)
    train(config, tmp_path / "run")
    with pytest.raises(UserError, match="was trained with config.task.pooling=mean"):
        export(tmp_path / "run", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_a_head_comes_along_where_its_classes_are_those_of_the_data(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, train__steps=2)
    train(config, tmp_path / "run")
    task, loaded, notes = create(tiny.replaced(config, model__init=f"run:{tmp_path / 'run'}"))
    assert "head: loaded, its classes are those of the data, 2 classes (LOC, PER)" in notes
    assert {"head/kernel", "head/bias", "pooler/kernel"} <= set(loaded)
    tiny.write_examples(tmp_path / "other", "multi", pairs=False)
    other = tiny.replaced(config, model__init=f"run:{tmp_path / 'run'}", task__pooling="mean")
    _, loaded, notes = create(other)
    assert "pooler/kernel" not in loaded and "weights not used: pooler (of pretraining)" in notes


def test_numbers_as_classes_keep_their_order() -> None:
    from jaxfm.data.records.examples import Example

    examples = [Example("x", None, name, "") for name in ("10", "9", "-1", "b", "a")]
    assert classification._labels("single", examples, "csv:x", "") == ("-1", "9", "10", "a", "b")
    assert classification._labels("single", examples, "csv:x", "9") == ("-1", "10", "a", "b", "9")


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("regression", {"task__loss__label_smoothing": 0.1}, "config.task.loss.label_smoothing: is 0.1, which"),
        (
            "regression",
            {"task__loss__class_weights": "balanced"},
            "config.task.loss.class_weights: is 'balanced', which",
        ),
        ("multi", {"task__loss__label_smoothing": 0.1}, "config.task.loss.label_smoothing: is 0.1, which"),
        ("single", {"task__loss__class_weights": "LOK=2"}, "Did you mean 'LOC'?"),
        ("single", {"data__window": 64}, "config.data.window: 64 tokens do not fit config.data.row_length"),
        (
            "single",
            {"data__source": "tfds:glue/stsb"},
            "config.task.kind: is 'single', but tfds:glue/stsb is",
        ),
    ],
)
def test_settings_that_do_not_fit(tmp_path: pathlib.Path, kind: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        create(tiny.classification_config(tmp_path, kind, **overrides))
    assert message in str(caught.value)


def test_texts_that_are_cut_say_so(tmp_path: pathlib.Path) -> None:
    task, _, _ = create(tiny.classification_config(tmp_path, data__window=16))
    classification_predictor = ClassifierPredictor(task.model, task.tokenizer)
    encoded = classification_predictor.encode([{"text": "ada " * 40}, {"text": "ada"}])
    rows = len(encoded.rows)
    outputs = {"outputs": np.zeros((rows, task.model.segments, 2), np.float32)}
    long, short = classification_predictor.decode(encoded, outputs)
    assert long["truncated"] is True and "truncated" not in short
    assert "  (longer than the 16 tokens the model reads: its end is left out)" in classification_predictor.lines(long)
    assert len(classification_predictor.lines(short)) == len(classification_predictor.lines(long)) - 1
    cut = task.encoded["test"].cut
    assert cut.any() and not cut.all()
    scored = {"outputs": np.zeros((len(task.datasets["test"]), task.model.segments, 2), np.float32)}
    records = list(task.score("test", scored).predictions)
    assert ["truncated" in record for record in records] == cut.tolist()


def test_a_metric_that_is_not_defined_on_valid_is_said_before_the_first_step(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, "regression", eval__metric="pearson")
    assert not any("pearson" in note for note in create(config)[2])
    path = tmp_path / "regression" / "valid.jsonl"
    rows = [json.loads(line) | {"label": 3.0, "score": 3.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, _, notes = create(config)
    said = (
        f"NOTE: on valid pearson is not defined: all {len(rows)} scores are 3; checkpoints are compared by their loss"
    )
    assert notes[-1].startswith(said)
    outputs = {"outputs": np.zeros((len(task.datasets["valid"]), task.model.segments, 1), np.float32)}
    metrics = task.score("valid", outputs).metrics
    assert "pearson" not in metrics and metrics["loss"] == metrics["mse"]


def test_classes_that_a_source_declares_keep_their_order(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, "multi")
    for split in ("train", "valid", "test"):
        rows = [{"text": f"ada {i}", "labels": [int(bit in (i % 3, 9)) for bit in range(11)]} for i in range(12)]
        (tmp_path / "multi" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, _, notes = create(config)
    assert task.model.labels == tuple(f"label_{number}" for number in range(11))
    assert any("NOTE: no training example has 'label_3'" in note for note in notes)
    assert tuple(task.datasets) == ("train", "valid", "test")


def test_a_class_that_training_did_not_see_is_named_with_its_place(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path)
    path = tmp_path / "single" / "test.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "ada", "label": "PERS"}) + "\n")
    with pytest.raises(UserError, match=r"test.jsonl:19: the label 'PERS' .* Did you mean 'PER'\?"):
        create(config)


def test_r_drop_and_weights_reach_the_loss(tmp_path: pathlib.Path) -> None:
    plain, _, _ = create(tiny.classification_config(tmp_path))
    other, _, _ = create(
        tiny.classification_config(tmp_path, task__loss__r_drop=1.0, task__loss__class_weights="balanced")
    )
    assert plain.r_drop == 0.0 and other.r_drop == 1.0
    counts = np.bincount(classification.targets_of(plain.model, plain.examples["train"]))
    np.testing.assert_allclose(other.class_loss.weights, counts.sum() / (2 * counts))
    assert plain.class_loss.weights == ()


def test_training_texts_are_tokenized_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.classification_config(tmp_path)
    asked: list[str] = []
    plain = classification_predictor.tokenize

    def tokenize(model: Any, tokenizer: Any, texts: Any) -> Any:
        asked.extend(text for text, _ in texts)
        return plain(model, tokenizer, texts)

    monkeypatch.setattr(classification_predictor, "tokenize", tokenize)
    monkeypatch.setattr(classification, "tokenize", tokenize)
    registry.create(config, resolve(config.model))
    assert len(asked) == sum(tiny.SIZES.values())
