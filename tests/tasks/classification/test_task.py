"""The classification task: rows and targets, classes and heads, and what it refuses."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.data.records.examples import Example
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.classification import spec as spec_module
from jaxfm.tasks.classification import task as task_module
from jaxfm.tasks.classification.task import ClassificationTask, _labels
from jaxfm.training.initial import resolve
from tests import tiny


def create(config: Config) -> tuple[ClassificationTask, dict[str, np.ndarray], tuple[str, ...]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, ClassificationTask)
    return task, dict(loaded), task.notes


def test_a_row_holds_each_target_at_the_segment_of_its_example(tmp_path: pathlib.Path) -> None:
    task, _, notes = create(tiny.classification_config(tmp_path))
    assert task.objective.spec.labels == ("LOC", "PER") and not task.objective.spec.pairs
    assert any(note.startswith("head: new, 2 classes (LOC, PER)") for note in notes)
    for split in tuple(task.datasets):
        rows, examples = task.datasets[split], task.examples[split]
        assert rows.labels.shape == (len(rows), task.objective.spec.segments)
        for (row, segment, start), example in zip(rows.example_locations, examples, strict=True):
            assert task.objective.spec.labels[rows.labels[row, segment]] == example.target
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


def test_numbers_as_classes_keep_their_order() -> None:
    examples = [Example("x", None, name, "") for name in ("10", "9", "-1", "b", "a")]
    assert _labels("single", examples, "csv:x", "") == ("-1", "9", "10", "a", "b")
    assert _labels("single", examples, "csv:x", "9") == ("-1", "10", "a", "b", "9")


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
    outputs = {"outputs": np.zeros((len(task.datasets["valid"]), task.objective.spec.segments, 1), np.float32)}
    metrics = task.scorer("valid").report(outputs).metrics
    assert "pearson" not in metrics and metrics["loss"] == metrics["mse"]


def test_classes_that_a_source_declares_keep_their_order(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, "multi")
    for split in ("train", "valid", "test"):
        rows = [{"text": f"ada {i}", "labels": [int(bit in (i % 3, 9)) for bit in range(11)]} for i in range(12)]
        (tmp_path / "multi" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, _, notes = create(config)
    assert task.objective.spec.labels == tuple(f"label_{number}" for number in range(11))
    assert any("NOTE: no training example has 'label_3'" in note for note in notes)
    assert tuple(task.datasets) == ("train", "valid", "test")


def test_a_class_that_training_did_not_see_is_named_with_its_place(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path)
    path = tmp_path / "single" / "test.jsonl"
    path.write_text(path.read_text() + json.dumps({"text": "ada", "label": "PERS"}) + "\n")
    with pytest.raises(UserError, match=r"test.jsonl:19: the label 'PERS' .* Did you mean 'PER'\?"):
        create(config)


def test_training_texts_are_tokenized_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.classification_config(tmp_path)
    asked: list[str] = []
    plain = spec_module.tokenize

    def tokenize(spec: Any, tokenizer: Any, texts: Any) -> Any:
        asked.extend(text for text, _ in texts)
        return plain(spec, tokenizer, texts)

    monkeypatch.setattr(spec_module, "tokenize", tokenize)
    monkeypatch.setattr(task_module, "tokenize", tokenize)
    registry.create(config, resolve(config.model))
    assert len(asked) == sum(tiny.SIZES.values())
