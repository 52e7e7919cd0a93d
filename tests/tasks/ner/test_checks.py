"""Tags that are wrong by plain rules: each rule finds what it is for, and leaves alone what looks like it."""

import json
import pathlib

import pytest

from jaxfm.core.data_check import Finding
from jaxfm.data.records.sources import TaggedSentence, read_tagged
from jaxfm.data.text.tagging import write_tags
from jaxfm.tasks.ner.checks import check_edges, check_forms, check_long_entities
from jaxfm.tasks.text_checks import check_repairs


def sentence(text: str, *spans: tuple[int, int, str], line: int = 1) -> TaggedSentence:
    words = tuple(text.split())
    return TaggedSentence(words, tuple(write_tags(spans, len(words))), 0, f"train.conll:{line}")


def forms(*sentences: TaggedSentence) -> Finding:
    return check_forms({"train": sentences})


def test_a_form_that_is_tagged_in_two_ways_is_listed_with_its_counts() -> None:
    rome, city = sentence("in Rome today", (1, 2, "LOC")), sentence("old Rome won", (1, 2, "ORG"), line=7)
    untagged = sentence("Rome and New York", (2, 4, "LOC"), line=9)
    found = forms(rome, rome, city, untagged)
    assert found.level == "warning"
    assert found.message == (
        "1 of 2 forms are tagged in several ways: 2 of 5 mentions (40.0%) otherwise than their form mostly is"
    )
    assert found.examples == (
        "'Rome': LOC 2 (first: train.conll:1), ORG 1 (first: train.conll:7), not tagged 1 (first: train.conll:9)",
    )


def test_a_form_inside_a_longer_entity_or_form_is_not_untagged() -> None:
    york = sentence("in York today", (1, 2, "LOC"))
    longer = sentence("in New York today", (1, 3, "LOC"))
    assert forms(york, longer).level == "ok"
    # Of overlapping forms the longest is looked for: York of an untagged "New York" is not York.
    found = forms(york, longer, sentence("in New York today"))
    assert found.level == "warning" and "'New York'" in found.examples[0] and len(found.examples) == 1


def test_few_disagreements_among_many_mentions_are_said_and_no_fault() -> None:
    usual = [sentence("in Washington today", (1, 2, "LOC"))] * 40
    found = forms(*usual, sentence("Washington said", (0, 1, "PER")))
    assert found.level == "ok" and "1 of 41 mentions (2.4%)" in found.message


@pytest.mark.parametrize("entity", [", Rome", "Rome ,", "Rome :", "( Rome", "Rome )"])
def test_entities_with_punctuation_at_an_edge_are_found(entity: str) -> None:
    found = check_edges({"train": [sentence(f"in {entity} today", (1, 3, "LOC"), line=4)]})
    assert found.level == "warning" and found.examples == (f"train.conll:4: {entity!r}",)


@pytest.mark.parametrize("entity", ["Acme Inc.", "U.S. .", "Rome (Georgia)", "' Rome", "( Rome )"])
def test_full_stops_quotes_and_pairs_of_brackets_may_be_part_of_a_name(entity: str) -> None:
    count = len(entity.split())
    assert check_edges({"train": [sentence(f"in {entity} today", (1, 1 + count, "LOC"))]}).level == "ok"


def test_overlong_entities_are_found() -> None:
    long = "a b c d e f g h i j k l"
    found = check_long_entities({"train": [sentence(long, (0, 10, "ORG")), sentence(long, (1, 12, "ORG"), line=3)]})
    assert found.message == "entities of more than 10 words: 1"
    assert found.examples == ("train.conll:3: 11 words: b c d e f g h i j k l",)


def test_what_the_reader_repairs_is_said_with_its_place(tmp_path: pathlib.Path) -> None:
    good = "Ada B-PER\nmet O\nNew B-LOC\nYork I-LOC\n"
    (tmp_path / "train.conll").write_text(f"{good}\n{good}\nAda I-PER\nmet O\nBob I-LOC\n\nmet O\nAda I-PER\n")
    read = read_tagged(f"conll:{tmp_path}", None)["train"]
    assert read.broken == (
        f"{tmp_path}/train.conll:11: I-PER of 'Ada' starts the sentence",
        f"{tmp_path}/train.conll:15: I-PER of 'Ada' follows O",
    )
    assert read.repairs == (f"3 tags that break BIO repaired (first: {read.broken[0]})",)
    found = check_repairs({"train": read.repairs}, {"train": read.broken})
    assert found.level == "warning" and found.examples == read.broken
    assert check_repairs({"train": ()}, {"train": ()}).level == "ok"


def test_white_space_at_the_end_of_an_entity_is_counted(tmp_path: pathlib.Path) -> None:
    record = {"text": "Ada met Bob.", "entities": [[0, 4, "PER"], [8, 11, "PER"]]}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    read = read_tagged(f"jsonl:{tmp_path}", None)["train"]
    assert read.sentences[0].tags == ("B-PER", "O", "B-PER", "O")
    (repair,) = read.repairs
    assert repair.startswith("1 entities with white space at an end, which is left out of them (first: ")
