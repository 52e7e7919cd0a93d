"""Which pairs of a text's entities are judged."""

import dataclasses

import pytest

from jaxfm.data.records.relation_forms import Entity
from jaxfm.errors import UserError
from jaxfm.tasks.relations.candidates import candidates_of, type_problem
from jaxfm.tasks.relations.spec import RelationSpec
from tests import tiny

SPEC = RelationSpec(
    labels=("Other", "in"),
    negative="Other",
    encoder=tiny.ENCODER,
    markers="typed",
    head_types=("PER",),
    tail_types=("LOC", "PER"),
    head_starts=(90,),
    tail_starts=(91, 92),
    pair_heads=("PER", "PER"),
    pair_tails=("LOC", "PER"),
    head_first=False,
    row_length=48,
    window=48,
    segments=2,
)
TEXT = "Ada met Boole in Hull. Curry left Hull."
ADA, BOOLE, HULL = Entity(0, 3, "PER"), Entity(8, 13, "PER"), Entity(17, 21, "LOC")
CURRY, AGAIN = Entity(23, 28, "PER"), Entity(34, 38, "LOC")
ALL = [ADA, BOOLE, HULL, CURRY, AGAIN]


def pairs(spec: RelationSpec, entities: list[Entity] = ALL) -> set[tuple[str, str]]:
    found = candidates_of(spec, TEXT, entities, "text 1")
    for pair, shift in zip(found.pairs, found.shifts, strict=True):
        assert TEXT[shift : shift + len(pair.text)] == pair.text
    return {
        (pair.text[pair.head.start : pair.head.end], pair.text[pair.tail.start : pair.tail.end]) for pair in found.pairs
    }


def test_pairs_are_of_one_sentence_and_of_related_types() -> None:
    assert pairs(SPEC) == {("Ada", "Boole"), ("Boole", "Ada"), ("Ada", "Hull"), ("Boole", "Hull"), ("Curry", "Hull")}
    found = candidates_of(SPEC, TEXT, ALL, "text 1")
    assert found.unrelated_types == 3  # Hull with each of the people of its sentence, as the head
    assert {pair.text for pair in found.pairs} == {"Ada met Boole in Hull.", "Curry left Hull."}
    assert pairs(SPEC, [ADA, ADA]) == pairs(SPEC, []) == set()


def test_without_types_in_training_all_pairs_are_taken() -> None:
    plain = dataclasses.replace(SPEC, markers="plain", pair_heads=(), pair_tails=())
    assert len(candidates_of(plain, TEXT, ALL, "x").pairs) == 6 + 2
    first = dataclasses.replace(plain, head_first=True)
    assert pairs(first) == {("Ada", "Boole"), ("Ada", "Hull"), ("Boole", "Hull"), ("Curry", "Hull")}


def test_types_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"text 1: the entity 'Ada' has no type, .* one of PER, LOC"):
        candidates_of(SPEC, TEXT, [Entity(0, 3), HULL], "text 1")
    assert type_problem(SPEC, ["PER", "LOC", "ORG"]) == type_problem(SPEC, ["PER"]) == ""
    problem = type_problem(SPEC, ["PERSON", "LOC"])
    assert "it finds entities of the types PERSON, LOC" in problem and "PER to LOC, PER to PER" in problem
    assert type_problem(dataclasses.replace(SPEC, pair_heads=(), pair_tails=()), ["ANY"]) == ""
