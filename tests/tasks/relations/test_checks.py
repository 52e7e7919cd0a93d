"""Checks of pairs before training."""

import json
import pathlib

from jaxfm.core.data_check import DataCheck
from jaxfm.tasks import registry
from jaxfm.tasks.relations.checks import far_fix
from jaxfm.training.initial import resolve
from tests import tiny


def checked(tmp_path: pathlib.Path, *records: dict[str, object], **overrides: object) -> DataCheck:
    config = tiny.relations_config(tmp_path, **overrides)
    path = tmp_path / "relations" / "train.jsonl"
    path.write_text(path.read_text() + "".join(json.dumps(record) + "\n" for record in records))
    return registry.definition("relations").check(config, resolve(config.model))


def test_repeats_and_contradictions_are_of_pairs_not_of_texts(tmp_path: pathlib.Path) -> None:
    text = "ada met boole in hull"
    spans = {"ada": [0, 3, "PER"], "boole": [8, 13, "PER"], "hull": [17, 21, "LOC"]}
    pairs = [("ada", "boole", "Other"), ("ada", "hull", "visit(e1,e2)"), ("boole", "hull", "Other")]
    records = [{"text": text, "head": spans[a], "tail": spans[b], "relation": r} for a, b, r in pairs]
    named = {each.check: each for each in checked(tmp_path, *records).findings}
    assert named["contradictions"].level == "ok"
    again = records[1] | {"relation": "Other"}
    named = {each.check: each for each in checked(tmp_path, again).findings}
    assert named["contradictions"].level == "warning" and "<e2>hull</e2>" in named["contradictions"].examples[0]


def test_entities_far_apart_and_inside_a_piece(tmp_path: pathlib.Path) -> None:
    text = "ada " + "met " * 50 + "hull"
    far = {"text": text, "head": [0, 3, "PER"], "tail": [len(text) - 4, len(text), "LOC"], "relation": "Other"}
    inside = {"text": "ada left the town", "head": [0, 3, "PER"], "tail": [14, 17, "LOC"], "relation": "Other"}
    named = {each.check: each for each in checked(tmp_path, far, inside).findings}
    assert named["distance"].level == "error" and "farther apart than the 48 tokens" in named["distance"].message
    assert named["distance"].fix == "--config.data.row_length=64 --config.data.window=0"
    assert named["edges"].level == "warning" and "train.jsonl:62" in named["edges"].examples[0]


def test_no_negative_class_is_a_warning(tmp_path: pathlib.Path) -> None:
    named = {each.check: each for each in checked(tmp_path, task__negative="").findings}
    assert named["negative class"].level == "warning" and "--config.task.unrelated" in named["negative class"].fix


def test_the_nearest_way_to_read_far_entities() -> None:
    assert far_fix(60, 64) == "--config.data.row_length=64 --config.data.window=0"
    assert far_fix(61, 62) == "--config.data.row_length=62 --config.data.window=0"
    assert "has 62 positions" in far_fix(63, 62)
