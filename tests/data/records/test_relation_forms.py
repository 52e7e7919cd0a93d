"""Records of related entities: every form, and what each refuses."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jaxfm.data.records.relation_forms import Entity, Related, RelationFields, mark, parse_marked, read_related
from jaxfm.errors import UserError

TEXT = "Ada Lovelace met Charles Babbage in London."
HEAD, TAIL = Entity(0, 12, "PER"), Entity(36, 42, "LOC")
WORDS = ["Ada", "Lovelace", "met", "Babbage", "in", "London", "."]


def one(record: dict[str, Any]) -> tuple[str, Entity, Entity, str | None]:
    related = read_related(record, "a.jsonl:3")
    ((head, tail, relation),) = related.pairs
    return related.text, head, tail, relation


def refusal(record: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        read_related(record, "a.jsonl:3")
    assert str(caught.value).startswith("a.jsonl:3: ")
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"text": TEXT, "head": {"start": 0, "end": 12, "type": "PER"}, "tail": [36, 42, "LOC"], "relation": "in"},
        {"sentence": TEXT, "h": {"pos": [0, 12], "type": "PER"}, "t": {"pos": [36, 42], "type": "LOC"}, "label": "in"},
        {
            "text": TEXT,
            **{"head_start": "0", "head_end": "12", "head_type": "PER"},
            **{"tail_start": "36", "tail_end": "42", "tail_type": "LOC", "relation": " in "},
        },
        {
            "text": TEXT,
            "subject": {"start": 0, "end": 13, "type": "PER", "text": "Ada Lovelace"},
            "object": {"start": 35, "end": 42, "type": "LOC"},
            "predicate": "in",
        },
        {
            "text": TEXT,
            "entities": [
                {"id": 7, "start_offset": 0, "end_offset": 12, "label": "PER"},
                {"id": "b", "start_offset": 36, "end_offset": 42, "label": "LOC"},
            ],
            "relations": [{"id": 1, "from_id": 7, "to_id": "b", "type": "in"}],
        },
    ],
)
def test_characters_in_every_form(record: dict[str, Any]) -> None:
    assert one(record) == (TEXT, HEAD, TAIL, "in")


def test_marked_text() -> None:
    marked = "<e1>Ada Lovelace</e1> met Charles Babbage in <e2> London</e2>."
    assert one({"sentence": marked, "relation": "in"}) == (TEXT.replace(" London", "  London"), *_untyped(1), "in")
    assert one({"text": mark(TEXT, HEAD, TAIL)}) == (TEXT, *_untyped(0), None)


def _untyped(shift: int) -> tuple[Entity, Entity]:
    return Entity(0, 12), Entity(36 + shift, 42 + shift)


def test_tacred_counts_words_both_ends_inclusive() -> None:
    record = {"token": WORDS, "subj_start": 0, "subj_end": 1, "obj_start": 5, "obj_end": 5}
    record |= {"subj_type": "PERSON", "obj_type": "CITY", "relation": "per:city", "stanford_pos": ["NNP"] * 7}
    text, head, tail, relation = one(record)
    assert text == " ".join(WORDS) and relation == "per:city"
    assert (text[head.start : head.end], head.type) == ("Ada Lovelace", "PERSON")
    assert (text[tail.start : tail.end], tail.type) == ("London", "CITY")
    assert "obj_start..obj_end = 5..7 is not inside the 7 words" in refusal(record | {"obj_end": 7})


def test_words_without_text_are_counted_ends_exclusive() -> None:
    record = {
        "tokens": WORDS,
        "entities": [{"type": "PER", "start": 0, "end": 2}, {"type": "LOC", "start": 5, "end": 6}],
        "relations": [{"type": "in", "head": 0, "tail": 1}],
    }
    text, head, tail, relation = one(record)
    assert (text[head.start : head.end], text[tail.start : tail.end], relation) == ("Ada Lovelace", "London", "in")
    record["entities"] = [{"type": "PER", "start": 0, "end": 8}]
    assert "the entity 0..8 is not inside the 7 words" in refusal(record)


def test_pairs_that_no_relation_names() -> None:
    entities = [{"start": 0, "end": 12}, {"start": 17, "end": 32}, {"start": 36, "end": 42}]
    record = {"text": TEXT, "entities": entities, "relations": [{"head": 0, "tail": 2, "label": "in"}]}
    related = read_related(record, "x")
    assert related.whole and len(related.pairs) == 1
    ada, charles, london = related.entities
    expected = [(ada, charles), (charles, ada), (charles, london), (london, ada), (london, charles)]
    assert list(related.unrelated()) == expected
    assert not Related("", (), ()).whole


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "no marker here", "relation": "x"}, "a pair without markers: no <e1> and <e2> in"),
        ({"text": "a <e1>b</e1> c", "relation": "x"}, "<e2> is missing"),
        ({"text": "a <e1>b</e1> <e2>c", "relation": "x"}, "</e2> is missing"),
        ({"text": "<e1>b</e1> <e1>c</e1> <e2>d</e2>"}, "<e1> occurs twice"),
        ({"text": "<e1> </e1> <e2>d</e2>"}, "<e1> and </e1> enclose nothing"),
        ({"text": "</e1>b<e1> <e2>d</e2>"}, "<e1> and </e1> enclose nothing"),
        ({"text": "abc", "head": [0, 1]}, "has no tail of the pair"),
        ({"text": "abc", "head": [0, 1], "tail": [2, 9]}, "the entity 2..9 is not inside the text of 3 characters"),
        ({"text": "abc", "head": [0, 1], "tail": [2, 2]}, "the entity 2..2 is not inside the text"),
        ({"text": "a c", "head": [0, 1], "tail": [1, 2]}, "covers nothing but white space"),
        ({"text": "abc", "head": [0, 1], "tail": [0, 1]}, "head and tail are the same characters, 0..1"),
        ({"text": "abc", "head": {"start": 0}, "tail": [0, 1]}, "is not an entity"),
        (
            {"text": "abc", "head": {"start": 0, "end": 1, "text": "b"}, "tail": [1, 2]},
            'says "b", but these characters',
        ),
        ({"text": "abc", "head": [0, 1, " "], "tail": [1, 2]}, "the type ' ' of an entity must be a name"),
        ({"text": "abc", "head": [0, 1], "tail": [1, 2], "relation": 3}, "the relation 3 in 'relation' is of type int"),
        (
            {"text": "abc", "entities": [[0, 1]], "relations": [{"head": 0, "tail": 4}]},
            "names 4 as tail, which is no ent",
        ),
        ({"text": "abc", "entities": [{"id": 1, "start": 0, "end": 1}] * 2}, "the id 1 of an entity is given twice"),
        (
            {
                "text": "abc",
                "entities": [[0, 1], [1, 2]],
                "relations": [{"head": 0, "tail": 1, "label": "x"}, {"head": 0, "tail": 1, "label": "y"}],
            },
            "has two relations, 'x' and 'y'",
        ),
        (
            {"text": "Ada met Boole", "tokens": ["Ada", "met", "Boole"], "head": [0, 3], "tail": [8, 12]},
            "the entity 8..12, 'Bool', starts or ends inside the word 'Boole' at 8..13",
        ),
        (
            {"text": "Ada met", "tokens": ["Ada", "saw"], "head": [0, 3], "tail": [4, 7]},
            "tokens[1] = 'saw' does not follow",
        ),
        ({"label": "x"}, "fields of no known form: 'label'"),
        ({"subj_start": 0, "subj_end": 0, "obj_start": 1, "obj_end": 1}, "but no list of words"),
    ],
)
def test_what_is_refused(record: dict[str, Any], message: str) -> None:
    assert message in refusal(record)


def test_a_type_may_have_spaces() -> None:
    related = read_related({"text": "abc", "head": [0, 1, "Job Title "], "tail": [1, 2, ["ORG"]]}, "x")
    assert [entity.type for entity in related.entities] == ["Job Title", "ORG"]


def test_fields_by_name() -> None:
    record = {"body": "abc", "head": [0, 1], "tail": [1, 2], "kind": "r", "label": "s"}
    related = read_related(record, "x", RelationFields("body", "kind"))
    assert related.text == "abc" and related.pairs[0].relation == "r"
    with pytest.raises(UserError, match="data.text_column='boddy' is absent"):
        read_related(record, "x", RelationFields("boddy"))


@given(st.text(st.characters(categories=["L", "Zs", "P"]), min_size=2, max_size=20), st.data())
def test_marking_and_parsing_are_inverse(text: str, data: st.DataObject) -> None:
    spans = []
    for _ in range(2):
        start = data.draw(st.integers(0, len(text) - 1))
        end = data.draw(st.integers(start + 1, len(text)))
        assume(text[start:end] == text[start:end].strip())
        spans.append(Entity(start, end))
    assume(spans[0] != spans[1] and "<" not in text)
    assert parse_marked(mark(text, *spans), "x") == (text, *spans)
