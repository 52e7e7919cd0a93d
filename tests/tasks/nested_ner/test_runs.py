"""Runs over entities inside each other: trained, scored, used; windows; and what they refuse."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.programs.check import check
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.nested_ner.task import NestedNerTask
from jaxfm.tasks.word_spans.spans import entities_of
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a trained run, "run"."""
    folder = tmp_path_factory.mktemp("nested")
    train(
        tiny.nested_config(folder, task__threshold=0.5, train__steps=200, eval__every_steps=100, train__batch_size=8),
        folder / "run",
    )
    return folder


def create(folder: pathlib.Path, **overrides: Any) -> NestedNerTask:
    config = tiny.nested_config(folder, **overrides)
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, NestedNerTask)
    return task


def write(path: pathlib.Path, *records: dict[str, Any]) -> str:
    path.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        (path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return f"jsonl:{path}"


def test_it_learns_entities_inside_others(folder: pathlib.Path) -> None:
    evaluation = evaluate(folder / "run", "test")
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["task"] == "nested_ner" and report["splits"]["test"]["f1"] == evaluation.metrics["f1"] > 0.3
    assert evaluation.scores["overlapping"] > 10 and "f1" in evaluation.scores["intervals"]["metrics"]
    records = list(evaluation.predictions)
    counts = {name: sum(len(record[name]) for record in records) for name in ("right", "missed", "invented")}
    right, wrong = counts["right"], counts["missed"] + counts["invented"]
    assert evaluation.metrics["f1"] == pytest.approx(2 * right / (2 * right + wrong))
    assert any(entity["type"] == "LAST" for record in records for entity in record["right"])
    for record in records:
        for entity in (*record["right"], *record["missed"], *record["invented"]):
            assert record["text"][entity["start"] : entity["end"]] == entity["text"]


def test_evaluation_and_prediction_agree(folder: pathlib.Path) -> None:
    evaluation = evaluate(folder / "run", "test")
    model = Model(folder / "run")
    records = list(evaluation.predictions)
    for record, result in zip(records, model.stream([{"tokens": r["text"].split()} for r in records]), strict=True):
        scored = {(e["type"], e["start"], e["end"]): e["score"] for e in (*record["right"], *record["invented"])}
        assert {(e["type"], e["start"], e["end"]): e["score"] for e in result["entities"]} == pytest.approx(scored)
        assert result["text"] == record["text"]
    assert [result["entities"] for result in model(["", " "])] == [[], []]


def test_loss_and_scores_agree_whatever_the_rows(folder: pathlib.Path) -> None:
    losses = []
    for packed in (True, False):
        task = create(folder, data__packed=packed, model__dropout=0.0, data__row_length=64)
        make = lambda task=task: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
        graphdef, abstract = build_abstract(make, make_mesh(tiny.nested_config(folder).parallel.mesh))
        draw = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf, draw=draw: 0.1 * draw.normal(size=leaf.shape).astype(np.float32), abstract)
        rows = task.datasets["test"]
        batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
        model = nnx.merge(graphdef, params)
        loss = task.objective.loss(model, batch, LossContext(jax.random.key(0)))
        outputs = {name: np.asarray(value) for name, value in task.objective.outputs(model, batch).items()}
        metrics = task.scorer("test").metrics(outputs)
        assert metrics["loss"] == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
        owned = sum((owner >= 0).sum() for owner in task.encoded["test"].owners)
        assert float(loss.weight) == (rows.labels >= 0).sum() == owned
        right, spans = loss.metrics["accuracy"]
        assert metrics["accuracy"] == pytest.approx(float(right / spans))
        losses.append(float(loss.total))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_each_entity_is_labelled_once_in_the_window_that_owns_it(folder: pathlib.Path) -> None:
    task = create(folder, data__window=16, task__overlap=10)
    for split, encoded in task.encoded.items():
        assert len(encoded.windows.tokens) > len(task.sentences[split])
        found = encoded.per_span(encoded.rows.labels)
        assert sum(map(len, found)) == (encoded.rows.labels >= 0).sum()
        for number, (sentence, classes) in enumerate(zip(task.sentences[split], found, strict=True)):
            spans = encoded.spans(number)
            labels = task.objective.spec.labels
            said = {(a, b, labels[kind]) for (a, b), kind in zip(spans.tolist(), classes, strict=True) if kind}
            owner_WK = encoded.owners[number]
            wanted = {(a, b, kind) for a, b, kind in entities_of(sentence).in_words if owner_WK[a, b - a - 1] >= 0}
            assert said == wanted
    cut = [note for note in task.notes if "lie whole in no window" in note]
    assert cut and "set a greater task.overlap" in cut[0]


def test_entities_that_are_too_wide_are_announced(folder: pathlib.Path) -> None:
    task = create(folder, task__max_width=1)
    assert "can never be found: of more than 1 words (task.max_width)" in next(
        n for n in task.notes if n[:5] == "train"
    )
    found = check(tiny.nested_config(folder, task__max_width=1))
    (finding,) = [each for each in found.findings if each.check == "wide entities"]
    assert finding.level == "warning" and "set task.max_width=2" in str(finding)


def test_entities_that_cross_are_refused_unless_they_may(folder: pathlib.Path) -> None:
    record = {"text": "ada boole met emmy", "entities": [[0, 9, "PER"], [4, 13, "LOC"]]}
    source = write(folder / "cross", record)
    with pytest.raises(
        UserError, match=r"train.jsonl:1: the entities 'ada boole' \(PER\) and 'boole met' \(LOC\) cross"
    ):
        create(folder, data__source=source, data__holdout=0.0)
    assert create(folder, data__source=source, data__holdout=0.0, task__overlaps="any").sentences


def test_a_type_unseen_in_training_is_named_with_its_place(folder: pathlib.Path) -> None:
    source = write(folder / "unseen", {"text": "ada met emmy", "entities": [[0, 3, "PER"]]})
    (folder / "unseen" / "test.jsonl").write_text(json.dumps({"text": "ada", "entities": [[0, 3, "PRE"]]}) + "\n")
    with pytest.raises(UserError, match=r"test.jsonl:1: the type 'PRE' does not occur.*Did you mean 'PER'"):
        create(folder, data__source=source, data__holdout=0.0)


def test_a_tagger_refuses_such_data_and_names_this_task(folder: pathlib.Path) -> None:
    create(folder)
    flat = {"data__source": f"jsonl:{folder / 'nested'}"}
    config = tiny.config(folder, **flat)
    with pytest.raises(UserError, match=r"train.jsonl:\d+: the entity .* overlaps a longer one.*nested_ner"):
        registry.create(config, resolve(config.model))
    kept = tiny.config(folder, **flat, task__overlapping="longest")
    registry.create(kept, resolve(kept.model))


def test_exports_are_refused_in_words(folder: pathlib.Path) -> None:
    for format in ("hf", "onnx", "stablehlo"):
        with pytest.raises(UserError, match="scores spans of words|that has a form for other libraries"):
            export(folder / "run", folder / "exported", format)
    assert not (folder / "exported").exists()


def test_low_rank_updates_and_a_run_that_starts_from_another(folder: pathlib.Path) -> None:
    config = tiny.nested_config(folder, model__init=f"run:{folder / 'run'}", train__steps=2, adapt__lora__rank=2)
    task, loaded = registry.create(config, resolve(config.model))
    assert {"widths", "starts/kernel", "ends/kernel", "head/kernel"} <= set(loaded) and "head: loaded" in task.notes
    train(config, folder / "next")
    assert evaluate(folder / "next", "test").metrics["f1"] > 0
