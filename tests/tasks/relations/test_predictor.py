"""What a predictor says of pairs that it cannot read whole, without a model: outputs are made up."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.tasks.relations.predictor import RelationPredictor
from tests import tiny
from tests.tasks.relations.test_task import create

WIDE = "ada " + "met " * 40 + "hull"
SIDES = {"head": [0, 3, "PER"], "tail": [len(WIDE) - 4, len(WIDE), "LOC"]}


@pytest.fixture
def predictor(tmp_path: pathlib.Path) -> RelationPredictor:
    task, _, _ = create(tiny.relations_config(tmp_path, data__window=32))
    return RelationPredictor(task.objective.spec, task.tokenizer)


def results(predictor: RelationPredictor, records: list[dict[str, Any]], said: int) -> list[dict[str, Any]]:
    encoded = predictor.encode(records)
    logits = np.zeros((len(encoded.rows), predictor.spec.segments, len(predictor.labels)), np.float32)
    logits[..., said] = 2.0
    return predictor.decode(encoded, {"outputs": logits})


def test_pairs_too_far_apart_have_no_label(predictor: RelationPredictor) -> None:
    near = {"text": "ada met hull", "head": [0, 3, "PER"], "tail": [8, 12, "LOC"]}
    far, found = results(predictor, [{"text": WIDE, **SIDES}, near], 1)
    assert far["label"] is None and far["score"] is None and far["scores"] == {} and far["truncated"]
    assert "farther apart than the 32 tokens" in predictor.lines(far)[-1]
    assert found["label"] == "visit(e1,e2)" and 0 < found["score"] < 1
    record = {"text": WIDE, "entities": list(SIDES.values())}
    (triples,) = results(predictor, [record], 1)
    assert triples["too_far"] == 1 and triples["pairs"] == 0 and triples["triples"] == []
    assert predictor.lines(triples)[1] == "  (no pair of entities to judge)"
    assert predictor.lines(triples)[-1] == "  (not judged: 1 pairs too far apart to be read)"


def test_a_long_text_is_said_to_be_cut(predictor: RelationPredictor) -> None:
    (found,) = results(predictor, [{"text": "ada met hull " * 9, "head": [0, 3, "PER"], "tail": [8, 12, "LOC"]}], 0)
    assert found["truncated"] and "only what is around the pair" in predictor.lines(found)[1]


def test_pairs_of_the_negative_class_are_no_triples(predictor: RelationPredictor) -> None:
    entities = [[0, 3, "PER"], [8, 12, "LOC"], [16, 21, "PER"]]
    record = {"text": "ada met hull and boole", "entities": entities}
    record["entities"][2] = [17, 22, "PER"]
    (none,), (some,) = results(predictor, [record], 0), results(predictor, [record], 2)
    assert none["triples"] == [] and none["pairs"] == 2 and none["unrelated_types"] == 1
    assert predictor.lines(none)[1] == "  (no relation: 2 pairs of entities judged)"
    assert predictor.lines(none)[-1] == "  (not judged: 1 pairs of types that were never related in training)"
    # visit(e2,e1): from the second to the first.
    assert [(each["subject"]["text"], each["object"]["text"]) for each in some["triples"]] == [
        ("hull", "ada"),
        ("boole", "hull"),
    ]
    no_negative = dataclasses.replace(predictor, spec=dataclasses.replace(predictor.spec, negative=""))
    assert len(results(no_negative, [record], 0)[0]["triples"]) == 2


def test_bad_records_are_named(predictor: RelationPredictor) -> None:
    for record, message in (
        ({"text": "ada", "entities": [[0, 9, "PER"]]}, "x:1: the entity 0..9 is not inside the text of 3 characters"),
        ({"text": "ada met hull", "entities": [[0, 3]]}, "is not an entity"),
        ({"text": "ada hull", "head": [0, 3, "PR"], "tail": [4, 8, "LOC"]}, "Did you mean 'PER'"),
    ):
        with pytest.raises(UserError) as caught:
            predictor.encode([{"origin": "x:1", **record}])
        assert message in str(caught.value) or "has no type" in str(caught.value)
