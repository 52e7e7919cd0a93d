"""Which markers a run has, and the rows that they take."""

import pathlib

import pytest

from jaxfm.data.records.relation_forms import Entity
from jaxfm.data.records.relations import RelationExample
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.tasks.relations.markers import Marking, add_markers, choose_marking
from jaxfm.tasks.relations.spec import marker_names
from tests import tiny


def example(head: str, tail: str) -> RelationExample:
    return RelationExample("a b", Entity(0, 1, head), Entity(2, 3, tail), "r", "x:1")


def test_types_are_those_of_each_side() -> None:
    typed = [example("PER", "LOC"), example("ORG", "LOC")]
    assert choose_marking("auto", typed) == (
        Marking("typed", ("ORG", "PER"), ("LOC",)),
        "markers: typed (the entities have types)",
    )
    assert choose_marking("plain", typed) == (Marking("plain", (), ()), "markers: plain")
    untyped = [example("", ""), *typed]
    assert choose_marking("auto", untyped)[1] == "markers: plain (1 of 3 training pairs have no types)"
    assert choose_marking("auto", untyped[:1])[1] == "markers: plain (the entities have no types)"
    with pytest.raises(UserError, match=r"x:1: an entity has no type, but config.task.markers is typed \(1 of the 3"):
        choose_marking("typed", untyped)


def test_names_of_markers() -> None:
    assert marker_names("plain", (), ()) == ["[E1]", "[/E1]", "[E2]", "[/E2]"]
    typed = marker_names("typed", ("ORG", "PER"), ("LOC",))
    assert typed == ["[E1:ORG]", "[E1:PER]", "[/E1:ORG]", "[/E1:PER]", "[E2:LOC]", "[/E2:LOC]"]
    assert marker_names("none", ("ORG",), ()) == []


def test_markers_that_are_there_keep_their_numbers(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    size = len(tokenizer)
    first = add_markers(Marking("typed", ("PER",), ("LOC",)), tokenizer, tiny.ENCODER, {})
    assert first.starts == ((size,), (size + 2,)) and "4 new tokens" in first.notes[0]
    more = add_markers(Marking("typed", ("ORG", "PER"), ("LOC",)), tokenizer, tiny.ENCODER, {})
    assert more.starts == ((size + 4, size), (size + 2,)) and "2 new tokens ([E1:ORG], [/E1:ORG])" in more.notes[0]
    again = add_markers(Marking("typed", ("PER",), ("LOC",)), tokenizer, tiny.ENCODER, {})
    assert again.starts == first.starts and "have all 4 of them" in again.notes[0] and len(tokenizer) == size + 6
    many = tuple(f"T{number}" for number in range(12))
    grown = add_markers(Marking("typed", many, ("LOC",)), tokenizer, tiny.ENCODER, {})
    assert grown.encoder.vocab_size == size + 6 + 24 > tiny.ENCODER.vocab_size
    assert "24 new tokens" in grown.notes[0] and "and 16 more" in grown.notes[0]
