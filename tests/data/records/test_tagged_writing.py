"""Each form that sentences are written in, read again: the same texts, entities and documents."""

import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies as st

from jaxfm.data.records.sources import TaggedSentence, read_tagged
from jaxfm.data.records.spans import MarkedText, mark_words
from jaxfm.data.records.tagged_writing import WRITERS, documents, text_and_spans
from jaxfm.data.text.tagging import entity_spans
from jaxfm.data.text.words import words_of

WORDS, CHARACTERS = ("conll", "conllu", "tokens"), ("jsonl", "brat", "doccano", "label_studio")
# Forms that keep which sentences belong together.
WITH_DOCUMENTS = ("conll", "conllu", "tokens", "jsonl", "brat")


def marked(text: str, spans: list[tuple[int, int, str]], document: int = 0) -> TaggedSentence:
    """A sentence of a source that gives entities in characters."""
    offsets = tuple(words_of(text))
    words = tuple(text[start:end] for start, end in offsets)
    return TaggedSentence(
        words, tuple(mark_words(offsets, spans).tags), document, "", MarkedText(text, tuple(spans), offsets)
    )


TEXTS = (
    marked("Ada (Lovelace) met Zoé \U0001f642 in Den Haag.", [(0, 3, "PER"), (5, 13, "PER"), (19, 22, "PER")]),
    marked("Nobody was there.", []),
    marked("  U.N. and\tE.U.  ", [(2, 6, "ORG"), (11, 15, "ORG")], 1),
)
SENTENCES = (
    TaggedSentence(("Ada", "met", "Zoé"), ("B-PER", "O", "B-PER"), 0, ""),
    TaggedSentence(("In", "Den", "Haag", "."), ("O", "B-LOC", "I-LOC", "O"), 0, ""),
    TaggedSentence(("Rome", "Paris"), ("B-LOC", "B-LOC"), 1, ""),
)


def again(name: str, sentences: tuple[TaggedSentence, ...], folder: pathlib.Path, scheme: str = "BIO"):
    """The sentences written and read."""
    folder.mkdir(exist_ok=True, parents=True)
    WRITERS[name].write(sentences, folder, "train", scheme)
    return read_tagged(f"{WRITERS[name].source}{folder}", None)["train"]


@pytest.mark.parametrize("name", CHARACTERS)
def test_entities_in_characters_come_back(name: str, tmp_path: pathlib.Path) -> None:
    found = again(name, TEXTS, tmp_path / name).sentences
    for sentence, expected in zip(found, TEXTS, strict=True):
        assert sentence.marked is not None and expected.marked is not None
        text = expected.marked.text
        # A line of brat's text is a sentence.
        assert sentence.marked.text.rstrip("\n") == text and sentence.marked.spans == expected.marked.spans
        assert (sentence.words, sentence.tags) == (expected.words, expected.tags)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "BILOU"])
@pytest.mark.parametrize("name", WORDS)
def test_words_and_tags_come_back(name: str, scheme: str, tmp_path: pathlib.Path) -> None:
    found = again(name, SENTENCES, tmp_path / name, scheme)
    assert found.scheme == scheme
    for sentence, expected in zip(found.sentences, SENTENCES, strict=True):
        assert (sentence.words, sentence.tags) == (expected.words, expected.tags)


@pytest.mark.parametrize("name", WITH_DOCUMENTS)
def test_documents_stay_together(name: str, tmp_path: pathlib.Path) -> None:
    found = again(name, SENTENCES, tmp_path / name).sentences
    assert [sentence.document for sentence in found] == [0, 0, 1]
    assert [len(own) for own in documents(found)] == [2, 1]


@pytest.mark.parametrize("name", CHARACTERS)
def test_words_alone_are_joined_by_spaces(name: str, tmp_path: pathlib.Path) -> None:
    assert text_and_spans(SENTENCES[1]) == ("In Den Haag .", [(3, 11, "LOC")])
    for sentence, expected in zip(again(name, SENTENCES, tmp_path / name).sentences, SENTENCES, strict=True):
        assert (sentence.words, sentence.tags) == (expected.words, expected.tags)


def test_conllu_has_ten_columns_and_says_where_words_touch(tmp_path: pathlib.Path) -> None:
    again("conllu", TEXTS, tmp_path / "x")
    lines = (tmp_path / "x" / "train.conllu").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    assert {len(row) for row in rows} == {10}
    assert rows[1][:2] == ["2", "("] and rows[1][9] == "ner=O|SpaceAfter=No" and rows[0][9] == "ner=B-PER"


def test_brat_says_the_text_of_each_entity(tmp_path: pathlib.Path) -> None:
    again("brat", TEXTS, tmp_path / "x")
    text = (tmp_path / "x" / "train" / "doc_1.txt").read_bytes().decode()
    for line in (tmp_path / "x" / "train" / "doc_1.ann").read_text().splitlines():
        _, place, surface = line.split("\t")
        _, start, end = place.split()
        assert text[int(start) : int(end)] == surface


def test_label_studio_is_one_array_of_tasks(tmp_path: pathlib.Path) -> None:
    again("label_studio", TEXTS, tmp_path / "x")
    tasks = json.loads((tmp_path / "x" / "train.json").read_text())
    value = tasks[0]["annotations"][0]["result"][1]["value"]
    assert value == {"start": 5, "end": 13, "text": "Lovelace", "labels": ["PER"]} and len(tasks) == 3


@st.composite
def tagged(draw: st.DrawFn) -> TaggedSentence:
    """Words with entities that may touch."""
    words = draw(st.lists(st.sampled_from(["ada", "in", "Den", "Zoé", "7", "x-y"]), min_size=1, max_size=8))
    tags: list[str] = []
    while len(tags) < len(words):
        size = min(draw(st.integers(1, 3)), len(words) - len(tags))
        kind = draw(st.sampled_from(["", "PER", "LOC"]))
        tags += [f"B-{kind}", *[f"I-{kind}"] * (size - 1)] if kind else ["O"] * size
    return TaggedSentence(tuple(words), tuple(tags), 0, "")


@hypothesis.given(sentences=st.lists(tagged(), min_size=1, max_size=4))
@hypothesis.settings(
    deadline=None, max_examples=40, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_from_form_to_form_nothing_changes(sentences: list[TaggedSentence], tmp_path: pathlib.Path) -> None:
    hypothesis.assume(any(tag != "O" for sentence in sentences for tag in sentence.tags))
    now: tuple[TaggedSentence, ...] = tuple(sentences)
    for number, name in enumerate(WRITERS):
        folder = tmp_path / f"{number}_{abs(hash(now))}_{len(list(tmp_path.iterdir()))}"
        now = again(name, now, folder, "BIOES").sentences
    for sentence, expected in zip(now, sentences, strict=True):
        text, spans = text_and_spans(expected)
        # A line of brat's text is a sentence, its end included.
        assert sentence.marked is not None and sentence.marked.text.rstrip("\n") == text
        assert list(sentence.marked.spans) == spans
        assert len(spans) == len(entity_spans(expected.tags))
