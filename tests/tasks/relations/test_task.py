"""The task of relations: classes, markers and their rows, what a window holds, and what is refused."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.schema import to_dict
from jaxfm.tasks import registry
from jaxfm.tasks.relations.task import RelationsTask
from jaxfm.training.initial import resolve
from tests import tiny


def create(config: Config) -> tuple[RelationsTask, dict[str, Any], tuple[str, ...]]:
    task, loaded = registry.create(config, resolve(config.model))
    assert isinstance(task, RelationsTask)
    return task, dict(loaded), task.notes


def test_markers_of_each_type_are_new_tokens_and_new_rows(tmp_path: pathlib.Path) -> None:
    task, loaded, notes = create(tiny.relations_config(tmp_path))
    spec = task.objective.spec
    assert spec.labels == ("Other", "visit(e1,e2)", "visit(e2,e1)") and spec.negative == "Other"
    assert spec.markers == "typed" and spec.head_types == spec.tail_types == ("LOC", "PER")
    assert "markers: typed (the entities have types)" in notes
    # The vocabulary has 69 entries and the weights 96 rows: eight markers take rows that no token had.
    assert any("8 new tokens ([E1:LOC], [E1:PER], [/E1:LOC]" in note and "no token had" in note for note in notes)
    assert spec.encoder.vocab_size == 96 and len(loaded["encoder/embeddings/word/embedding"]) == 128
    assert spec.head_first and set(zip(spec.pair_heads, spec.pair_tails, strict=True)) == {
        ("PER", "LOC"),
        ("LOC", "PER"),
    }
    for split, rows in task.datasets.items():
        for (row, segment, start), example in zip(rows.example_locations, task.examples[split], strict=True):
            assert spec.labels[rows.labels[row, segment]] == example.relation
            length = int((rows.segment_ids[row] == segment + 1).sum())
            pieces = task.tokenizer.convert_ids_to_tokens(rows.tokens[row, start : start + length])
            assert pieces[0] == "[CLS]" and pieces[-1] == "[SEP]"
            text = " ".join(pieces).replace(" ##", "")
            marked = f"[E1:{example.head.type}] {example.text[example.head.start : example.head.end]} [/E1:"
            assert marked in text and f"[/E2:{example.tail.type}]" in text


def test_the_word_embedding_grows_where_it_has_no_row(tmp_path: pathlib.Path) -> None:
    encoder = dataclasses.replace(tiny.ENCODER, vocab_size=len(tiny.VOCABULARY))
    tiny.write_weights(tmp_path / "small", encoder)
    config = tiny.relations_config(tmp_path, model__init=f"dir:{tmp_path / 'small'}", task__markers="plain")
    task, loaded, notes = create(config)
    rows = len(tiny.VOCABULARY)
    said = f"the word embedding grew by 4 rows, from {rows} to {rows + 4}"
    assert any(said in note and "4 new tokens ([E1], [/E1], [E2], [/E2])" in note for note in notes)
    assert task.objective.spec.encoder.vocab_size == rows + 4
    assert task.objective.spec.head_starts == (rows,) and task.objective.spec.tail_starts == (rows + 2,)
    table = np.asarray(loaded["encoder/embeddings/word/embedding"])
    old = np.asarray(resolve(config.model).params["encoder/embeddings/word/embedding"])[:rows]
    np.testing.assert_array_equal(table[:rows], old)
    np.testing.assert_allclose(table[rows : rows + 4], np.broadcast_to(old.mean(axis=0), (4, 32)), atol=1e-3)
    assert not table[rows + 4 :].any() and len(np.unique(table[rows : rows + 4], axis=0)) == 4


def test_a_text_that_names_a_marker_has_none_more(tmp_path: pathlib.Path) -> None:
    config = tiny.relations_config(tmp_path, task__markers="plain", data__row_length=64)
    path = tmp_path / "relations" / "train.jsonl"
    path.write_text(
        json.dumps({"text": "[E1] ada [E2] met boole", "head": [5, 8], "tail": [18, 23], "relation": "Other"})
        + "\n"
        + path.read_text()
    )
    task, _, _ = create(config)
    rows, spec = task.datasets["train"], task.objective.spec
    for starts in (spec.head_starts, spec.tail_starts):
        marked = np.isin(rows.tokens, starts) & (rows.segment_ids > 0)
        assert marked.sum() == len(task.examples["train"])


def test_no_markers(tmp_path: pathlib.Path) -> None:
    task, loaded, notes = create(tiny.relations_config(tmp_path, task__markers="none"))
    assert "markers: none: the text alone is judged, by its first token" in notes
    assert task.objective.spec.head_starts == () and len(task.tokenizer) == len(tiny.VOCABULARY)
    example, rows = task.examples["valid"][0], task.datasets["valid"]
    row, segment, start = rows.example_locations[0]
    length = int((rows.segment_ids[row] == segment + 1).sum())
    assert rows.tokens[row, start : start + length].tolist() == task.tokenizer(example.text)["input_ids"]


def test_a_long_text_is_read_around_its_pair(tmp_path: pathlib.Path) -> None:
    config = tiny.relations_config(tmp_path, task__markers="plain", data__window=32)
    text = "the old town and " * 30 + "ada met boole" + " and went to town" * 30
    start = text.index("ada")
    record = {"text": text, "head": [start, start + 3], "tail": [start + 8, start + 13], "relation": "Other"}
    with (tmp_path / "relations" / "test.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    task, _, notes = create(config)
    assert any("test: 1 texts are read around their entities only, 32 tokens" in note for note in notes)
    rows = task.datasets["test"]
    row, segment, start = rows.example_locations[-1]
    tokens = rows.tokens[row][rows.segment_ids[row] == segment + 1]
    text = " ".join(task.tokenizer.convert_ids_to_tokens(tokens)).replace(" ##", "")
    assert len(tokens) == 32 and "[E1] ada [/E1] met [E2] boole [/E2]" in text
    assert text.startswith("[CLS] ") and text.endswith(" [SEP]")


def test_entities_too_far_apart_are_refused_with_their_place(tmp_path: pathlib.Path) -> None:
    config = tiny.relations_config(tmp_path, task__markers="plain", data__row_length="auto")
    text = "ada " + "met " * 60 + "boole"
    record = {"text": text, "head": [0, 3], "tail": [len(text) - 5, len(text)], "relation": "Other"}
    with (tmp_path / "relations" / "test.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(UserError) as caught:
        create(config)
    assert "test.jsonl:19: the two entities and what is between them are " in str(caught.value)
    assert "take an encoder of longer texts (this one has 64 positions)" in str(caught.value)
    with pytest.raises(UserError, match=r"reads 24 at once .* Nearest way: --config.data.row_length=\d+"):
        text = "ada " + "met " * 25 + "boole"
        record = {"text": text, "head": [0, 3], "tail": [len(text) - 5, len(text)], "relation": "Other"}
        lines = (tmp_path / "relations" / "test.jsonl").read_text().splitlines()[:-1]
        (tmp_path / "relations" / "test.jsonl").write_text("\n".join([*lines, json.dumps(record)]) + "\n")
        create(tiny.replaced(config, data__row_length=24))


def _with(tmp_path: pathlib.Path, split: str, record: dict[str, Any], **overrides: Any) -> str:
    """What the task says of one more record of a split."""
    config = tiny.relations_config(tmp_path, **overrides)
    path = tmp_path / "relations" / f"{split}.jsonl"
    path.write_text(path.read_text() + json.dumps(record) + "\n")
    with pytest.raises(UserError) as caught:
        create(config)
    return str(caught.value)


RECORD = {"text": "ada met hull", "head": [0, 3, "PER"], "tail": [8, 12, "LOC"], "relation": "Other"}


@pytest.mark.parametrize(
    ("split", "change", "overrides", "message"),
    [
        ("valid", {"relation": "visits(e1,e2)"}, {}, "valid.jsonl:17: the relation 'visits(e1,e2)' does not occur in"),
        ("test", {"relation": "visits(e1,e2)"}, {}, "Did you mean 'visit(e1,e2)'?"),
        ("test", {"tail": [8, 12, "LOK"]}, {}, "the tail 'hull' is of the type 'LOK', which no tail had in training"),
        ("test", {"tail": [8, 12]}, {}, "test.jsonl:19: the tail 'hull' has no type, but the markers of this model"),
        ("train", {"tail": [8, 12]}, {"task__markers": "typed"}, "train.jsonl:61: an entity has no type"),
        ("test", {"tail": [8, 13]}, {}, "test.jsonl:19: the entity 8..13 is not inside the text of 12 characters"),
        ("test", {}, {"task__negative": "none"}, "config.task.negative: no training pair of"),
        ("test", {}, {"task__unrelated": True}, "config.task.unrelated: is True, but no record of"),
        ("test", {}, {"task__unrelated": True, "task__negative": ""}, "config.task.negative: is empty, but"),
        ("test", {}, {"data__window": 64}, "config.data.window: 64 tokens do not fit config.data.row_length"),
        ("test", {}, {"task__loss__class_weights": "Othr=2"}, "Did you mean 'Other'?"),
    ],
)
def test_what_is_refused(
    tmp_path: pathlib.Path, split: str, change: dict[str, Any], overrides: dict[str, Any], message: str
) -> None:
    assert message in _with(tmp_path, split, RECORD | change, **overrides)


def test_types_that_some_pairs_lack_make_plain_markers(tmp_path: pathlib.Path) -> None:
    config = tiny.relations_config(tmp_path)
    path = tmp_path / "relations" / "train.jsonl"
    path.write_text(path.read_text() + json.dumps(RECORD | {"tail": [8, 12]}) + "\n")
    task, _, notes = create(config)
    assert task.objective.spec.markers == "plain"
    assert "markers: plain (1 of 61 training pairs have no types)" in notes


def test_generated_pairs_take_the_name_that_the_data_have(tmp_path: pathlib.Path) -> None:
    for split in ("train", "valid", "test"):
        lines = []
        for record in tiny.relations(30, len(split)):
            related = [] if record["relation"] == "Other" else [{"head": 0, "tail": 1, "label": record["relation"]}]
            lines.append({"text": record["text"], "entities": [record["head"], record["tail"]], "relations": related})
        (tmp_path / "more").mkdir(exist_ok=True)
        (tmp_path / "more" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny.relations_config(tmp_path, data__source=f"jsonl:{tmp_path / 'more'}", task__unrelated=True)
    task, _, notes = create(config)
    task.save(tmp_path / "run")
    assert task.objective.spec.negative == "no_relation" and not task.objective.spec.head_first
    plain, _, _ = create(tiny.replaced(config, task__unrelated=False))
    related = len(plain.examples["train"])
    assert plain.objective.spec.negative == "" and 0 < related < 30
    # The reverse of each; two names of one kind are never related, and so no examples.
    assert len(task.examples["train"]) == 2 * related
    assert any("of them of no relation (no_relation)" in note for note in notes)
    again = registry.definition("relations").reopen(
        tmp_path / "run", task.objective.spec, config, config.data.source, "test"
    )
    assert again.examples["test"] == task.examples["test"]


def test_a_saved_task_is_read_as_it_was(tmp_path: pathlib.Path) -> None:
    config = tiny.relations_config(tmp_path)
    task, _, _ = create(config)
    task.save(tmp_path / "run")
    definition, spec = registry.read_spec(tmp_path / "run", to_dict(config))
    assert definition.name == "relations" and spec == task.objective.spec
    saved = load_tokenizer(tmp_path / "run" / "tokenizer")
    assert saved.convert_tokens_to_ids("[E1:PER]") == task.tokenizer.convert_tokens_to_ids("[E1:PER]")
    assert type(registry.abstract_objective(config, spec.encoder)) is type(task.objective)


def test_embeddings_that_are_not_trained_are_said(tmp_path: pathlib.Path) -> None:
    _, _, notes = create(tiny.relations_config(tmp_path, adapt__lora__rank=2))
    assert any(note.startswith("NOTE: config.adapt leaves the word embedding as it is") for note in notes)
    assert not any("config.adapt" in note for note in create(tiny.relations_config(tmp_path))[2])
