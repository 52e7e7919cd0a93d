"""Whole tiny runs of classification: of each kind, exported, and as the start of other runs."""

import json
import pathlib

import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict, predict_file
from jaxfm.programs.train import train
from jaxfm.tasks.classification.task import ClassificationTask
from jaxfm.training.saved_run import open_run
from tests import tiny
from tests.tasks.classification.test_task import create

KINDS = ("single", "multi", "regression")


@pytest.mark.parametrize("kind", ["single", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
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


@pytest.mark.slow
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
    saved = open_run(run)
    task = saved.task(config.data.source, "test")
    assert isinstance(task, ClassificationTask)
    outputs = []
    for example in task.examples["test"]:
        arrays = tokenizer(example.text, example.pair, truncation=True, max_length=48, return_tensors="pt")
        with torch.no_grad():
            outputs.append(model(**arrays).logits[0].numpy())
    restored = saved.restore(make_mesh(MeshConfig()), DEFAULT_BUILD)
    rows = task.datasets["test"]
    model_of_run = nnx.merge(restored.graphdef, restored.params)
    found = task.objective.outputs(model_of_run, rows.take(np.arange(len(rows))))
    ours = task.encoded["test"].per_example(np.asarray(found["outputs"]))
    np.testing.assert_allclose(ours, np.stack(outputs), atol=1e-4)
    problem = {"single": "single_label_classification", "multi": "multi_label_classification"}
    assert model.config.problem_type == problem.get(kind, "regression")


@pytest.mark.slow
def test_a_mean_cannot_be_exported_for_a_family_that_has_none(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, task__pooling="mean", train__steps=2)
    train(config, tmp_path / "run")
    with pytest.raises(UserError, match="was trained with config.task.pooling=mean"):
        export(tmp_path / "run", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
    assert "jaxfm.predict" in (text := (tmp_path / "run" / "report.md").read_text()) and "jaxfm.export" not in text


@pytest.mark.slow
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
