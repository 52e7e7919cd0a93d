"""Sources by URI: real files with the counts their makers give, tfds and datasets offline, and what each refuses."""

import collections
import json

import pytest

from jaxfm.data.records import quickstart
from jaxfm.data.records.sources import Columns, available_splits, read_tagged
from jaxfm.data.text.tagging import entity_spans
from jaxfm.errors import UserError

ALL = ("train", "valid", "test")


def words(split):
    return [" ".join(sentence.words) for sentence in split.sentences]


def tags(split):
    return [" ".join(sentence.tags) for sentence in split.sentences]


WNUT = "corporation {}, creative-work {}, group {}, location {}, person {}, product {}"
# (folder, split) -> (sentences, tokens, entities per type), from the README beside the files.
REAL = {
    ("wnut17", "train"): (3394, 62730, WNUT.format(221, 140, 264, 548, 660, 142)),
    ("wnut17", "valid"): (1009, 15733, WNUT.format(34, 105, 39, 74, 470, 114)),
    ("wnut17", "test"): (1287, 23394, WNUT.format(66, 142, 165, 150, 429, 127)),
    ("wikigold", "train"): (1313, 30296, "LOC 758, MISC 568, ORG 683, PER 669"),
    ("wikigold", "valid"): (144, 3339, "LOC 95, MISC 40, ORG 123, PER 79"),
    ("wikigold", "test"): (239, 5372, "LOC 161, MISC 104, ORG 92, PER 186"),
    ("broad-twitter", "train"): (5338, 85480, "LOC 1877, ORG 2309, PER 2955"),
    ("broad-twitter", "valid"): (2001, 29480, "LOC 309, ORG 736, PER 2323"),
    ("broad-twitter", "test"): (2000, 35427, "LOC 636, ORG 1090, PER 2650"),
    ("wikineural-en", "train"): (11590, 267839, "LOC 5904, MISC 4611, ORG 3512, PER 5594"),
    ("wikineural-en", "valid"): (5798, 134077, "LOC 3026, MISC 2479, ORG 1758, PER 2500"),
    ("wikineural-en", "test"): (5799, 133078, "LOC 2929, MISC 2582, ORG 1691, PER 2710"),
}  # fmt: skip


@pytest.mark.parametrize(("folder", "split"), REAL)
def test_real_files_have_the_counts_of_their_readme(shared_data, folder, split):
    sentences, tokens, types = REAL[folder, split]
    read = read_tagged(f"conll:{shared_data / folder}", [split])[split]
    kinds = collections.Counter(kind for s in read.sentences for _, _, kind in entity_spans(s.tags))
    assert len(read.sentences) == sentences
    assert sum(len(sentence.words) for sentence in read.sentences) == tokens
    assert ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(kinds)) == types
    assert read.scheme == "BIO"
    assert f"{split}: {sentences} sentences, {kinds.total()} entities from " in read.note


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def test_quickstart_is_the_generated_corpus():
    read = read_tagged("quickstart", ALL)
    for name, corpus in quickstart.build(seed=0).items():
        assert [(list(s.words), list(s.tags)) for s in read[name].sentences] == [(list(w), list(t)) for w, t in corpus]
        assert "synthetic" in read[name].note
    assert read["test"].sentences[3].origin == "quickstart/test[3]"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("conl:x", r"unknown data source 'conl:x': .* Did you mean 'conll'\?"),
        ("wnut17", r"unknown data source 'wnut17': a source is quickstart, conll:DIR"),
        ("conll", r"unknown data source 'conll'"),
        (".", r"For files write conll:\. or brat:\. or csv:"),
        ("quickstart:7", r"quickstart takes nothing after it"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(UserError, match=message):
        available_splits(source)


def test_splits_by_any_usual_name_and_those_that_are_absent(write):
    folder = write("dev.conll", "Ada\tB-PER\n")
    source = f"conll:{folder}"
    assert available_splits(source) == ("valid",)
    assert list(read_tagged(source, ["validation"])) == ["valid"]
    with pytest.raises(UserError, match=r"has no split 'test'; it has: valid \(.* holds dev\.conll\)"):
        read_tagged(source, ["valid", "test"])
    with pytest.raises(UserError, match=r"unknown split 'vaild': .* Did you mean 'valid'\?"):
        read_tagged(source, ["vaild"])


def test_the_splits_are_judged_together_and_the_note_says_what_was_done(write):
    write("train.conll", "-DOCSTART-\tO\n\nA\tI-PER\nB\tB-PER\nC\tO\n\nD\tI-LOC\n\n-DOCSTART-\tO\n\nE\tO\n")
    folder = write("test.conll", "A\tI-PER\nB\tI-PER\n")
    read = read_tagged(f"conll:{folder}", ["train", "test"])
    assert tags(read["train"]) == ["B-PER B-PER O", "B-LOC", "O"]
    assert tags(read["test"]) == ["B-PER I-PER"]
    assert read["test"].scheme == "IOB1"
    place = f"{folder}/train.conll"
    assert read["train"].note == (
        f"train: 3 sentences, 3 entities from {place}; tags IOB1, converted to BIO; 2 documents"
    )
    assert [s.document for s in read["train"].sentences] == [0, 0, 1]
    assert read["train"].sentences[1].origin == f"{place}:7"
    assert read["test"].note.endswith("; no document marks, so each sentence is its own document")


def test_stray_tags_are_repaired_and_counted(write):
    folder = write("train.conll", "A\tB-PER\nB\tI-LOC\nC\tI-LOC\n\nD\tB-LOC\n")
    read = read_tagged(f"conll:{folder}", ["train"])["train"]
    assert tags(read) == ["B-PER B-LOC I-LOC", "B-LOC"]
    assert "tags BIO; 1 tags that break BIO repaired;" in read.note


def test_bioes_becomes_bio(write):
    folder = write("train.conll", "A\tB-PER\nB\tE-PER\nC\tS-PER\nD\tB-LOC\n")
    read = read_tagged(f"conll:{folder}", ["train"])["train"]
    assert tags(read) == ["B-PER I-PER B-PER B-LOC"]
    assert "tags BIOES, converted to BIO; 1 tags that break BIOES repaired" in read.note


def test_mixed_schemes_name_the_source(write):
    folder = write("train.conll", "A\tS-PER\nB\tU-PER\n")
    with pytest.raises(UserError, match=r"^conll:.*: the tags mix two schemes"):
        read_tagged(f"conll:{folder}", ["train"])


# --- jsonl ---


def test_json_lines_of_words_and_of_texts(write):
    lines = [
        {"tokens": ["Ada", "slept"], "ner_tags": ["B-PER", "O"], "id": 7},
        {"text": "Ada Lovelace met O'Neil.", "entities": [{"start": 0, "end": 12, "label": "PER"}]},
        {"tokens": [], "ner_tags": []},
    ]
    folder = write("train.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    read = read_tagged(f"jsonl:{folder}", ["train"])["train"]
    assert words(read) == ["Ada slept", "Ada Lovelace met O ' Neil ."]
    assert tags(read) == ["B-PER O", "B-PER I-PER O O O O O"]
    assert read.sentences[1].origin == f"{folder}/train.jsonl:2"
    assert read.note.endswith("; 1 without a word left out")


def test_json_fields_and_documents_by_name(write):
    lines = [{"w": ["a"], "y": ["O"], "doc_id": doc} for doc in "xxyx"]
    folder = write("dev.jsonl", "\n".join(map(json.dumps, lines)))
    read = read_tagged(f"jsonl:{folder}", ["valid"], columns=Columns(words_column="w", tags_column="y"))["valid"]
    assert [s.document for s in read.sentences] == [0, 0, 1, 2]
    assert read.note.endswith("; 3 documents")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tokens": ["a"],', r"train\.jsonl:2: not JSON: .*column"),
        ('["a"]', r"train\.jsonl:2: a list, but each record must be one JSON object"),
        ('{"tokens": ["a"]}', r"jsonl:2: no column for the tags .*; columns: 'tokens'\): set data\.tags_column"),
        ('{"tokens": ["a"], "words": ["a"], "tags": ["O"]}', r"'tokens' and 'words' could both be the words"),
        ('{"tokens": "a", "tags": ["O"]}', r"train\.jsonl:2: 'tokens' is of type str, but must be a list"),
        ('{"tokens": ["a", 1], "tags": ["O", "O"]}', r"train\.jsonl:2: 1 in 'tokens' is of type int, but must be text"),
        ('{"tokens": ["a", "b"], "tags": ["O"]}', r"train\.jsonl:2: 2 words but 1 tags"),
        ('{"tokens": ["a"], "tags": [3]}', r"train\.jsonl:2: tag 3 is a number without a name"),
        ('{"tokens": ["a"], "tags": [null]}', r"train\.jsonl:2: tag None is neither text nor a number"),
        ('{"tokens": ["a"], "tags": ["B-"]}', r"train\.jsonl:2: 'B-' is not a tag"),
        ('{"tokens": ["\\ud800"], "tags": ["O"]}', r"train\.jsonl:2: .* half of a surrogate pair"),
        ('{"text": "Ada", "entities": [{"start": 0, "end": 9, "label": "PER"}]}', r"0\.\.9 \(PER\) is not inside"),
        ('{"text": "Ada", "entities": [{"start": 2, "end": 2, "label": "PER"}]}', r"2\.\.2 \(PER\) is not inside"),
        ('{"text": "Ada", "entities": [{"start": 0, "end": "3"}]}', r"train\.jsonl:2: .* is not an entity: "),
        ('{"text": "a  b", "entities": [{"start": 1, "end": 3, "label": "PER"}]}', r"nothing but white space"),
        ('{"text": "Ada", "entities": [{"start": 0, "end": 3, "label": " "}]}', r"the label ' ' must be a name"),
        ('{"text": "ab", "label": "pos"}', r"jsonl:2: fields of no known form: 'text', 'label'\. A record holds"),
        ('{"text": "Ada", "labels": {"PER": 3}}', r"train\.jsonl:2: fields of no known form: 'text', 'labels'"),
        ('{"text": "Ada \U0001f600 Zoe", "label": [{"start":7,"end":10,"text":"Zoe","label":"PER"}]}', "UTF-16 units"),
        ('{"text": "ab", "spans": [{"start":0,"end":2,"labels":["A","B"]}]}', r"jsonl:2: .* has 2 labels"),
        ('{"tokens": ["a\\u0000b"], "tags": ["O"]}', r"train\.jsonl:2: a NUL character in the word 'a\\x00b'"),
        ('{"text": "a\\u0000b", "spans": []}', r"train\.jsonl:2: a NUL character at 1 of the text"),
        ('{"tokens": ["a"], "tags": ["O"], "doc_id": 1}', r"jsonl:2: 'doc_id', the document, must be in all records"),
    ],
)  # fmt: skip
def test_bad_json_lines_are_refused_with_file_and_line(write, line, message):
    folder = write("train.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read_tagged(f"jsonl:{folder}", ["train"])
