# ruff: noqa: E501  (a file a line)
"""Records as labelling tools, data sets and tables write them: what each gives, or the message.

A row as in test_wild_columns: name, source, content, sentences or "!" and a message, part of the note.
"""

import json

import pytest

from jaxfm.data.records.sources import Columns, available_splits, read_tagged
from jaxfm.errors import UserError
from tests.data.records.wild import check, parquet

TEXT = "Ada L met Zoe."
GOLD = "Ada/B-PER L/I-PER met/O Zoe/O ./O"
SPAN = {"start": 0, "end": 5, "label": "PER"}
TASK = {
    "id": 1,
    "data": {"text": TEXT, "source": "x"},
    "annotations": [
        {"was_cancelled": True, "result": []},
        {
            "result": [
                {"type": "labels", "value": {"start": 0, "end": 5, "text": "Ada L", "labels": ["PER"]}},
                {"type": "choices", "value": {"choices": ["good"]}},
                {"type": "relation", "from_id": "a", "to_id": "b"},
            ]
        },
    ],
}
MIN = {"id": 1, "text": TEXT, "label": [{"start": 0, "end": 5, "text": "Ada L", "labels": ["PER"]}], "annotator": 1}
PRODIGY = {
    "text": TEXT,
    "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0}],
    "spans": [SPAN],
    "answer": "accept",
}
KAGGLE = "Sentence #,Word,POS,Tag\nSentence: 1,Ada,NNP,B-per\n,met,VBD,O\nSentence: 2,Rome,NNP,B-geo\n"
AM_R = "Ada/B-per met/O | Rome/B-geo"


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def text(spans, text=TEXT, field="entities"):
    return lines({"text": text, field: spans})


FILES = [
    # --- words ---
    ("tokens and tags", "jsonl:train.jsonl", lines({"tokens": ["Ada"], "ner_tags": ["B-PER"]}), "Ada/B-PER"),
    ("words and ner", "jsonl:a.ndjson", lines({"words": ["Ada", "x"], "ner": ["PER", "O"]}), "Ada/B-PER x/O", "no prefix"),
    ("text beside tokens", "jsonl:a.jsonl", lines({"text": "Ada", "tokens": ["Ada"], "labels": ["B-X"]}), "Ada/B-X"),
    ("an empty word", "jsonl:a.jsonl", lines({"tokens": ["Ada", ""], "tags": ["B-X", "O"]}), "Ada/B-X", "1 empty words"),
    ("a language prefix", "jsonl:a.json", lines({"tokens": ["de:a", "de:b", "de:c"], "tags": ["O"] * 3}), "a/O b/O c/O"),
    ("class numbers", "jsonl:a.jsonl", lines({"tokens": ["Ada"], "ner_tags": [1]}), "!a.jsonl:1: tag 1 is a number"),
    ("gliner", "jsonl:a.json", json.dumps([{"tokenized_text": ["Ada", "L", "x"], "ner": [[0, 1, "PER"]]}]),
     "Ada/B-PER L/I-PER x/O"),
    ("spert", "jsonl:a.json", json.dumps([{"tokens": ["Ada", "L", "x"], "entities": [{"type": "P", "start": 0, "end": 2}]}]),
     "Ada/B-P L/I-P x/O"),
    ("gliner outside", "jsonl:a.jsonl", lines({"tokenized_text": ["Ada"], "ner": [[0, 1, "PER"]]}), "!:1: .*0..2 .PER"),
    # --- texts ---
    ("own form", "jsonl:a.jsonl", text([SPAN]), GOLD),
    ("own predictions", "jsonl:a.jsonl", text([{"type": "PER", "text": "Ada L", "start": 0, "end": 5, "score": 1.0}]), GOLD),
    ("spacy", "jsonl:a.jsonl", text([[0, 5, "PER"]]), GOLD),
    ("spacy 2", "jsonl:a.json", json.dumps([[TEXT, {"entities": [[0, 5, "PER"]]}]]), GOLD),
    ("spacy 2, a line each", "jsonl:a.jsonl", lines([TEXT, {"entities": [[0, 5, "PER"]]}]), GOLD),
    ("ner annotator", "jsonl:a.json", json.dumps({"classes": ["PER"], "annotations": [[TEXT, {"entities": [[0, 5, "PER"]]}], None]}),
     GOLD),
    ("doccano label", "jsonl:a.jsonl", text([[0, 5, "PER"]], field="label"), GOLD),
    ("doccano labels", "jsonl:all.jsonl", text([[0, 5, "PER"]], field="labels"), GOLD),
    ("doccano relations", "jsonl:a.jsonl", lines({"id": 1, "text": TEXT, "relations": [], "Comments": [],
     "entities": [{"id": 3, "start_offset": 0, "end_offset": 5, "label": "PER"}]}), GOLD),
    ("doccano unlabelled", "jsonl:a.jsonl", text([], field="label"), GOLD.replace("B-PER", "O").replace("I-PER", "O")),
    ("prodigy", "jsonl:a.jsonl", lines(PRODIGY), GOLD),
    ("prodigy without tokens", "jsonl:a.jsonl", lines({"text": TEXT, "spans": [SPAN]}), GOLD),
    ("prodigy rejected", "jsonl:a.jsonl", lines({**PRODIGY, "answer": "reject"}, PRODIGY), GOLD, "1 rejected or ignored"),
    ("prodigy without spans", "jsonl:a.jsonl", lines({"text": "so", "_input_hash": 1, "answer": "accept"}), "so/O"),
    ("label studio", "jsonl:export.json", json.dumps([TASK], indent=2), GOLD),
    ("label studio, a task a line", "jsonl:a.jsonl", lines(TASK), GOLD),
    ("label studio, not annotated", "jsonl:a.json", json.dumps([{"data": {"text": "x"}, "annotations": []}, TASK]), GOLD,
     "1 tasks without an annotation left out"),
    ("label studio, two annotators", "jsonl:a.json", json.dumps([{**TASK, "annotations": TASK["annotations"][1:] * 2}]),
     GOLD, "1 tasks with several annotations"),
    ("label studio min", "jsonl:a.json", json.dumps([MIN]), GOLD),
    ("label studio min, a line each", "jsonl:a.jsonl", lines(MIN), GOLD),
    ("label studio min, no label", "jsonl:a.json", json.dumps([{"text": "so", "annotation_id": 3}]), "so/O"),
    ("cluener", "jsonl:train.json", lines({"text": "叶老桂说", "label": {"name": {"叶老桂": [[0, 2]]}}}),
     "叶/B-name 老/I-name 桂/I-name 说/O"),
    ("cluener, exclusive ends", "jsonl:a.json", lines({"text": "叶老桂说", "label": {"name": {"叶老桂": [[0, 3]]}}}),
     "!a.json:1: the entity 0..4 .name. says"),
    ("white space at the ends", "jsonl:a.jsonl", text([[0, 6, "PER"]]), GOLD),
    ("a border inside a word", "jsonl:a.jsonl", text([[0, 4, "X"]], "Romeo x"), "Romeo/B-X x/O"),
    ("two in one word", "jsonl:a.jsonl", text([[0, 2, "X"], [2, 5, "Y"]], "abcde x"), "abcde/B-Y x/O"),
    ("nested", "jsonl:a.jsonl", text([[0, 3, "X"], [0, 5, "PER"]]), GOLD, "1 entities that overlap a longer one left out"),
    ("twice the same", "jsonl:a.jsonl", text([[0, 5, "PER"], [0, 5, "PER"]]), GOLD),
    ("utf-16 units", "jsonl:a.jsonl", text([{**SPAN, "start": 3, "end": 6, "text": "Ada"}], "\U0001f600 Ada"), "!:1: .*UTF-16 units"),
    ("bytes", "jsonl:a.jsonl", text([{**SPAN, "start": 4, "end": 7, "text": "Ada"}], "Zë Ada"), "!:1: .*not bytes|not inside"),
    ("outside", "jsonl:a.jsonl", text([[0, 99, "PER"]]), "!a.jsonl:1: the entity 0..99 .PER. is not inside"),
    ("two labels", "jsonl:a.jsonl", text([{"start": 0, "end": 3, "labels": ["A", "B"]}]), "!:1: .* has 2 labels"),
    ("labels as a dict", "jsonl:a.jsonl", lines({"text": TEXT, "labels": {"PER": [[0, 5]]}}), "!:1: fields of no known form"),
    ("a text classification", "jsonl:a.jsonl", lines({"text": TEXT, "label": "pos"}), "!:1: fields of no known form: 'text', 'label'"),
    ("tags only", "jsonl:a.jsonl", lines({"tokens": ["a"]}), "!:1: no column for the tags"),
    ("nul", "jsonl:a.jsonl", lines({"tokens": ["a\0b"], "tags": ["O"]}), "!a.jsonl:1: a NUL character in the word"),
    ("a cut array", "jsonl:a.json", json.dumps([MIN], indent=1)[:-2], "!a.json:17: not JSON: the array does not end"),
    ("an array with a lost comma", "jsonl:a.json", f"[{json.dumps(MIN)}\n{json.dumps(MIN)}]", "!a.json:2: not JSON: a comma"),
    ("a damaged array", "jsonl:a.json", '[\n{"text": }]', "!a.json:2: not JSON: Expecting value"),
    ("utf-16", "jsonl:a.jsonl", text([SPAN]).encode("utf-16"), GOLD),
    # --- tables ---
    ("kaggle", "csv:ner_dataset.csv", KAGGLE, AM_R),
    ("kaggle in latin-1", "csv:ner_dataset.csv", KAGGLE.replace("Ada", "Zoë").encode("latin1"), "!csv:2: .*iconv -f LATIN1"),
    ("simpletransformers", "csv:train.csv", "sentence_id,words,labels\n0,Ada,B-per\n0,met,O\n1,Rome,B-geo\n", AM_R),
    ("an empty row between", "csv:a.csv", "word,tag\nAda,B-per\nmet,O\n,\nRome,B-geo\n", AM_R),
    ("quotes and commas", "csv:a.csv", 'word,tag\n",",O\n"""",O\n', ',/O "/O'),
    ("tsv", "tsv:a.tsv", "Sentence #\tWord\tTag\n1\tAda\tB-per\n1\tmet\tO\n2\tRome\tB-geo\n", AM_R),
    ("lists in cells", "csv:ner.csv", "tokens,ner_tags\n\"['Ada', 'met']\",\"['B-per', 'O']\"\n\"[\"\"Rome\"\"]\",\"[\"\"B-geo\"\"]\"\n", AM_R),
    ("numpy lists in cells", "csv:a.csv", "tokens,ner_tags\n['Ada' 'met'],['B-per' 'O']\n", "!a.csv:2: .*as NumPy prints it"),
    ("spans in cells", "csv:a.csv", f'text,entities\n{TEXT},"[[0, 5, ""PER""]]"\n', GOLD),
    ("spans as Python prints them", "csv:a.csv", f"text,entities\n{TEXT},\"[(0, 5, 'PER')]\"\n", GOLD),
    ("an entity a row", "csv:a.csv", f"text,start,end,label\n{TEXT},0,5,PER\n{TEXT},10,13,PER\n", GOLD.replace("Zoe/O", "Zoe/B-PER")),
    ("an odd tag", "csv:a.csv", "word,tag\nAda,B-per\nmet,O\nL,Bper\n", "!a.csv:4: 'Bper' is not a tag"),
    ("parquet of the hub", "parquet:train.parquet", parquet({"id": ["0"], "tokens": [["Ada", "met"]], "ner_tags": [[1, 0]]},
     {"ner_tags": {"feature": {"names": ["O", "B-PER"], "_type": "ClassLabel"}, "_type": "Sequence"}}), "Ada/B-PER met/O"),
    ("parquet, numbers without names", "parquet:a.parquet", parquet({"tokens": [["Ada"]], "ner_tags": [[1]]}), "!tag 1 is a number"),
    ("parquet with spans", "parquet:a.parquet", parquet({"text": [TEXT], "spans": [[SPAN]]}), GOLD),
    ("parquet with null", "parquet:a.parquet", parquet({"tokens": [["a"], None], "ner_tags": [["O"], ["O"]]}), "!'tokens' is of type NoneType"),
]  # fmt: skip


@pytest.mark.parametrize("row", FILES, ids=[row[0] for row in FILES])
def test_record_files(tmp_path, row):
    _, source, content, sentences, *note = row
    check(tmp_path, source, content, sentences, *note)


def test_text_fields_by_name(tmp_path):
    content = lines({"body": TEXT, "marks": [[0, 5, "PER"]]})
    check(tmp_path, "jsonl:a.jsonl", content, GOLD, "", Columns(words_column="body", tags_column="marks"))


# --- brat ---

BRAT = "Ada L met\nZoe in New\nYork.\n"
ANN = "T1\tPER 0 5\tAda L\nT2\tLOC 17 25\tNew York\nR1\tMet Arg1:T1 Arg2:T2\n#1\tAnnotatorNotes T1\tx\n"
BRAT_GOLD = ["Ada/B-PER L/I-PER met/O", "Zoe/O in/O New/B-LOC York/I-LOC ./O"]


def brat(folder, text: str | bytes | None = BRAT, ann: str | None = ANN, where="train"):
    (folder / where).mkdir(exist_ok=True)
    for name, content in (("a.txt", text), ("a.ann", ann)):
        if content is not None:
            (folder / where / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return f"brat:{folder}"


def tagged(source, split="train"):
    read = read_tagged(source, [split])[split]
    return [" ".join(map("/".join, zip(s.words, s.tags, strict=True))) for s in read.sentences], read


def test_brat_lines_and_entities_that_cross_them(tmp_path):
    source = brat(tmp_path)
    brat(tmp_path, "x\n", "", "dev")
    assert available_splits(source) == ("train", "valid")
    sentences, read = tagged(source)
    assert sentences == BRAT_GOLD
    assert [s.document for s in read.sentences] == [0, 0]
    assert read.sentences[1].origin == f"{tmp_path}/train/a.txt:2"
    assert tagged(f"brat:{tmp_path}/train")[0] == BRAT_GOLD
    assert tagged(f"brat:test={tmp_path}/train", "test")[0] == BRAT_GOLD


def test_brat_counts_the_characters_of_the_file(tmp_path):
    ann = ANN.replace("17 25\tNew York", "18 27\tNew York")
    assert tagged(brat(tmp_path, BRAT.replace("\n", "\r\n"), ann))[0] == BRAT_GOLD
    assert tagged(brat(tmp_path, BRAT.encode("utf-8-sig"), ANN))[0] == BRAT_GOLD


def test_brat_entities_in_pieces_and_nested_ones_are_counted(tmp_path):
    sentences, read = tagged(brat(tmp_path, ann=ANN + "T3\tX 0 3;6 9\tAda met\nT4\tPER 0 3\tAda\n"))
    assert sentences == BRAT_GOLD
    assert "1 entities in several pieces left out (first: " in read.note
    assert "1 entities that overlap a longer one left out" in read.note


@pytest.mark.parametrize(
    ("text", "ann", "message"),
    [
        (BRAT, "T1\tPER 0 5\tAda M\n", r"a\.ann:1: the entity 0\.\.5 \(PER\) says 'Ada M', but .* not bytes"),
        (BRAT, "\nT1\tPER 0 99\tAda\n", r"a\.ann:2: the entity 0\.\.99 \(PER\) is not inside"),
        (BRAT, "T1 PER 0 5 Ada L\n", r"a\.ann:1: 'T1 PER 0 5 Ada L' is not an entity: T1, a tab"),
        (BRAT, None, r"a\.txt: the file a\.ann beside it is missing"),
        (None, ANN, r"a\.ann: the file a\.txt beside it is missing"),
        ("a\nZoë".encode("latin1"), "", r"a\.txt:2: byte 0xEB is not UTF-8"),
    ],
)
def test_bad_brat_files(tmp_path, text, ann, message):
    with pytest.raises(UserError, match=message):
        tagged(brat(tmp_path, text, ann))


@pytest.mark.parametrize(
    ("rest", "message"),
    [("", "brat: needs a folder"), ("{}/no", "no such folder; the folder .* holds"), ("{}", "neither a folder named")],
)
def test_brat_folders_that_are_not_there(tmp_path, rest, message):
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match=message):
        available_splits(f"brat:{rest.format(tmp_path)}")
