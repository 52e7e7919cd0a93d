"""Splits of related entities, whatever the source."""

import json
import pathlib
import re
from typing import Any

import pytest

from jaxfm.data.records.quickstart_relations import SIZES, build, read_patterns
from jaxfm.data.records.relation_forms import RelationFields
from jaxfm.data.records.relations import read_relations, usual_negative
from jaxfm.errors import UserError
from tests import tiny


def write(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_valid_is_held_out_of_train_by_text(tmp_path: pathlib.Path) -> None:
    records = tiny.relations(100, 0)
    turned = [{**each, "head": each["tail"], "tail": each["head"], "relation": "turned"} for each in records]
    write(tmp_path / "train.jsonl", records + turned)
    read = read_relations(f"jsonl:{tmp_path}", None, holdout=0.2)
    assert list(read) == ["train", "valid"]
    texts = {split: {each.text for each in found.examples} for split, found in read.items()}
    assert not texts["train"] & texts["valid"] and len(texts["valid"]) >= 10
    assert sum(len(found.examples) for found in read.values()) == 200
    assert "chosen by a hash of their text" in read["valid"].note
    assert read_relations(f"jsonl:{tmp_path}", ["dev"], holdout=0.2)["valid"].examples == read["valid"].examples
    assert list(read_relations(f"jsonl:{tmp_path}", None, holdout=0)) == ["train"]
    with pytest.raises(UserError, match=r"has no split 'test'; it has: train, valid"):
        read_relations(f"jsonl:{tmp_path}", ["test"], holdout=0.2)


def test_unrelated_pairs_are_left_out_and_counted_or_examples(tmp_path: pathlib.Path) -> None:
    entities = [{"start": 0, "end": 3}, {"start": 8, "end": 13}, {"start": 17, "end": 21}]
    record = {"text": "Ada met Boole in Hull", "entities": entities}
    write(tmp_path / "train.jsonl", [record | {"relations": [{"head": 0, "tail": 1, "label": "met"}]}])
    (found,) = read_relations(f"jsonl:{tmp_path}", ["train"]).values()
    assert [each.relation for each in found.examples] == ["met"]
    assert "5 pairs of no relation left out (config.task.unrelated=True makes them examples)" in found.note
    (found,) = read_relations(f"jsonl:{tmp_path}", ["train"], unrelated="none").values()
    assert [each.relation for each in found.examples] == ["met"] + ["none"] * 5


def test_unrelated_pairs_are_of_types_that_are_related_in_train(tmp_path: pathlib.Path) -> None:
    entities = [
        {"start": 0, "end": 3, "type": "PER"},
        {"start": 8, "end": 13, "type": "PER"},
        {"start": 17, "end": 21, "type": "LOC"},
    ]
    record = {"text": "Ada met Boole in Hull", "entities": entities}
    write(tmp_path / "train.jsonl", [record | {"relations": [{"head": 0, "tail": 2, "label": "in"}]}])
    write(tmp_path / "test.jsonl", [record | {"relations": [{"head": 0, "tail": 1, "label": "met"}]}])
    read = read_relations(f"jsonl:{tmp_path}", None, unrelated="none")
    assert [each.relation for each in read["train"].examples] == ["in", "none"]  # and Boole in Hull
    assert "4 pairs of types that are never related left out" in read["train"].note
    assert [each.relation for each in read["test"].examples] == ["met", "none", "none"]  # as in train
    again = read_relations(f"jsonl:{tmp_path}", ["test"], unrelated="none", related_types={("PER", "LOC")})
    assert again["test"].examples == read["test"].examples
    every = read_relations(f"jsonl:{tmp_path}", ["test"], unrelated="none", related_types=())
    assert len(every["test"].examples) == 6


def test_tables_of_text_and_the_published_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.tsv").write_text("id\trelation\tsentence\n1\tr(e1,e2)\tThe <e1>a</e1> of <e2>b</e2>.\n")
    (example,) = read_relations(f"tsv:{tmp_path}", ["train"])["train"].examples
    assert example.text == "The a of b." and example.relation == "r(e1,e2)" and example.origin.endswith("train.tsv:2")
    (tmp_path / "train.txt").write_text('1\t"The <e1>a</e1> of <e2>b</e2>."\nr(e1,e2)\n\n')
    (other,) = read_relations(f"semeval:{tmp_path / 'train.txt'}", ["train"])["train"].examples
    assert (other.text, other.head, other.tail, other.relation) == (
        example.text,
        example.head,
        example.tail,
        example.relation,
    )
    (tmp_path / "train.csv").write_text("body,head_start,head_end,tail_start,tail_end,kind\nThe a of b.,4,5,9,10,r\n")
    fields = RelationFields("body", "kind")
    (third,) = read_relations(f"csv:{tmp_path / 'train.csv'}", ["train"], fields=fields)["train"].examples
    assert (third.text, third.head, third.tail, third.relation) == (example.text, example.head, example.tail, "r")


def test_tacred_is_an_array_in_one_file(tmp_path: pathlib.Path) -> None:
    record = {"token": ["Ada", "of", "Hull"], "relation": "city"}
    record |= {"subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2, "subj_type": "P", "obj_type": "C"}
    (tmp_path / "train.json").write_text(json.dumps([record, record | {"relation": "no_relation"}], indent=1))
    found = read_relations(f"jsonl:{tmp_path}", ["train"])["train"].examples
    assert [each.relation for each in found] == ["city", "no_relation"] and found[0].tail.type == "C"
    assert found[1].origin.startswith(f"{tmp_path / 'train.json'}:")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "<e1>a</e1> <e2>b</e2>"}, r"train.jsonl:1: the pair has no relation"),
        ({"text": "a b", "relation": "r"}, r"train.jsonl:1: a pair without markers"),
        ({"text": "a b", "entities": [], "relations": []}, r"the split 'train' is empty"),
    ],
)
def test_bad_records(tmp_path: pathlib.Path, record: dict[str, Any], message: str) -> None:
    write(tmp_path / "train.jsonl", [record])
    with pytest.raises(UserError, match=message):
        read_relations(f"jsonl:{tmp_path}", None)


def test_sources_that_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'semeval'"):
        read_relations("semeva:x", None)
    write(tmp_path / "train.jsonl", tiny.relations(1, 0))
    with pytest.raises(UserError, match="none of the 1 training pairs can be held out"):
        read_relations(f"jsonl:{tmp_path}", None, holdout=None)


def test_the_usual_names_of_the_negative_class() -> None:
    assert usual_negative(["a", "Other"]) == "Other" and usual_negative(["NA", "x"]) == "NA"
    assert usual_negative(["no_relation", "x"]) == "no_relation" and usual_negative(["x", "another"]) == ""


def test_the_quickstart() -> None:
    pytest.importorskip("faker", reason="the extra `quickstart` is not installed")
    read = read_relations("quickstart", None, unrelated="no_relation")
    assert {split: len({each.text for each in found.examples}) for split, found in read.items()} == SIZES
    labels = {split: {each.relation for each in found.examples} for split, found in read.items()}
    assert labels["train"] == labels["valid"] == labels["test"] and len(labels["train"]) == 7
    names = {
        split: {
            each.text[side.start : side.end].casefold() for each in found.examples for side in (each.head, each.tail)
        }
        for split, found in read.items()
    }
    assert not names["train"] & names["test"] and not names["valid"] & names["test"]
    texts = {each.text for each in read["train"].examples if each.relation == "bought"}
    assert texts and build(0)["train"] != build(1)["train"]


def test_patterns_name_entities_that_they_have() -> None:
    every = read_patterns()
    for patterns in every.values():
        for text, relations in patterns:
            kinds = re.findall(r"\{(PER|ORG|LOC|MISC)\b", text)
            for name, head, tail in relations:
                assert (kinds[head], kinds[tail]) == {
                    "works_for": ("PER", "ORG"),
                    "founded": ("PER", "ORG"),
                    "born_in": ("PER", "LOC"),
                    "lives_in": ("PER", "LOC"),
                    "based_in": ("ORG", "LOC"),
                    "bought": ("ORG", "ORG"),
                }[name], text
    assert not {each.text for each in every["train"]} & {each.text for each in every["test"]}


def test_the_real_data(shared_data: pathlib.Path) -> None:
    read = read_relations(f"tsv:{shared_data / 'semeval2010-task8'}", None, holdout=None)
    assert sum(len(read[split].examples) for split in ("train", "valid")) == 8000
    assert len(read["test"].examples) == 2717
    assert len({each.relation for each in read["train"].examples}) == 19
    assert all(each.head.start < each.tail.start for found in read.values() for each in found.examples)
