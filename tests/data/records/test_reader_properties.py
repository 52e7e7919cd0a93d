"""Whatever a file holds, a reader gives well-formed sentences or a UserError that names the place."""

import json
import os
import pathlib
import tempfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfm.data.records.sources import available_splits, read_tagged
from jaxfm.data.text.tagging import TAG, entity_spans, write_tags
from jaxfm.errors import UserError
from tests.data.records.test_wild_columns import FILES as COLUMN_FILES
from tests.data.records.test_wild_records import ANN, BRAT
from tests.data.records.test_wild_records import FILES as RECORD_FILES

EXAMPLES = int(os.environ.get("JAXFM_READER_EXAMPLES", "60"))
MANY = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

CELLS = st.sampled_from(
    [
        "Ada",
        "O",
        "B-PER",
        "I-PER",
        "S-X",
        "PER",
        "B",
        "0",
        "1",
        "2",
        "1-2",
        "1.1",
        "#",
        "# a",
        "#b",
        "",
        " ",
        "_",
        "-X-",
    ]
    + ["-DOCSTART-", "en:a", "\ufeff", "\u00a0", "\u2028", "\0", '"', ",", "ner=B-X", "[", "{}", "\U0001f600", "\ud7ff"]
)
ENDS = st.sampled_from(["\n", "\n", "\n\n", "\r\n", "\r", "\n\t\n"])
ROW = st.tuples(st.lists(CELLS, min_size=1, max_size=5), st.sampled_from(["\t", " ", ",", "\t\t"]), ENDS)
GRID = st.lists(ROW, max_size=12).map(lambda rows: "".join(between.join(cells) + end for cells, between, end in rows))
SEEDS = {
    kind: [row[2].encode() if isinstance(row[2], str) else row[2] for row in files if row[1].startswith(kind)]
    for kind, files in (("conll", COLUMN_FILES), ("jsonl", RECORD_FILES), ("csv", RECORD_FILES))
}

OFFSET = st.one_of(st.integers(-1, 9), st.sampled_from([None, "2", True, 1.0]))
LABEL = st.sampled_from(["PER", "", " ", ["PER"], [], ["A", "B"], None, 3])
SPAN = st.one_of(
    st.lists(st.one_of(OFFSET, LABEL), max_size=4),
    st.dictionaries(st.sampled_from(["start", "end", "label", "text", "start_offset"]), st.one_of(OFFSET, LABEL)),
    st.fixed_dictionaries({"start": st.integers(0, 4), "end": st.integers(4, 8), "label": st.sampled_from("AB")}),
)
FIELDS = ["text", "entities", "spans", "label", "labels", "tokens", "ner_tags", "answer", "data", "annotations", "ner"]
VALUE = st.one_of(
    st.sampled_from(
        ["Ada met Zo\u00eb", "", "accept", None, 3, ["Ada", "met"], ["B-X", "O"], {"text": "Ada met"}, "\ud800"]
    ),
    st.lists(SPAN, max_size=3),
    st.just([{"result": [{"value": {"start": 0, "end": 3, "labels": ["X"]}}]}]),
    st.dictionaries(st.sampled_from("ab"), st.one_of(OFFSET, st.just({"Ada": [[0, 2]]})), max_size=2),
)
RECORDS = st.lists(st.one_of(st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=4), VALUE), max_size=3)


@st.composite
def damaged(draw, kind):
    """A file that is read, with a few bytes taken out, put in, or moved."""
    data = bytearray(draw(st.sampled_from(SEEDS[kind])))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = at + draw(st.integers(0, 6))
        piece = draw(
            st.one_of(st.binary(max_size=3), CELLS.map(str.encode), st.sampled_from([b"\n", b"\t", b"\r", b","]))
        )
        data[at:end] = piece
    return bytes(data)


def holds(source, place):
    """Asserts that a source is read, or refused with its place."""
    try:
        splits = available_splits(source)
        read = read_tagged(source, splits)
    except UserError as error:
        assert place in str(error)
        assert len(str(error)) < 3000
        return
    for split in read.values():
        assert split.sentences
        for words, tags, _, origin, marked in (
            (s.words, s.tags, s.document, s.origin, s.marked) for s in split.sentences
        ):
            assert len(words) == len(tags) > 0
            assert all(word and not word.isspace() and "\0" not in word for word in words)
            assert all(map(TAG.fullmatch, tags))
            assert list(tags) == write_tags(entity_spans(tags), len(tags))
            assert origin.startswith(place)
            if marked:
                assert [marked.text[start:end] for start, end in marked.offsets] == list(words)


def written(kind, suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"train.{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        holds(f"{kind}:{path}", folder)


@MANY
@given(st.one_of(GRID, damaged("conll")))
def test_column_files(content):
    written("conll", "conll", content)


@MANY
@given(
    st.one_of(damaged("jsonl"), RECORDS.map(lambda values: "\n".join(map(json.dumps, values))), RECORDS.map(json.dumps))
)
def test_json_files(content):
    written("jsonl", "jsonl", content)


@MANY
@given(st.one_of(GRID, damaged("csv")), st.sampled_from(["", "word,tag\n", "text,entities\n", "Sentence #,Word,Tag\n"]))
def test_csv_files(content, header):
    written("csv", "csv", header.encode() + (content if isinstance(content, bytes) else content.encode("utf-8")))


@MANY
@given(st.one_of(st.just(BRAT), st.text(max_size=30)), st.integers(0, 80), st.one_of(CELLS, st.text(max_size=5)))
def test_brat_files(text, at, piece):
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        (place / "a.txt").write_bytes(text.encode("utf-8", "surrogatepass"))
        (place / "a.ann").write_bytes((ANN[:at] + piece + ANN[at + 1 :]).encode("utf-8", "surrogatepass"))
        holds(f"brat:{folder}", folder)


@MANY
@given(st.binary(max_size=60), st.sampled_from(["conll", "jsonl", "csv", "parquet"]))
def test_any_bytes(content, kind):
    written(kind, kind, content)


def test_the_seeds_are_read_or_refused():
    assert min(map(len, SEEDS.values())) >= 8
    with pytest.raises(UserError):
        written_source = "conll:/absent"
        read_tagged(written_source, ["train"])
