"""Documents of text files, JSON lines, tfds and the hub, read through the public door: `open_corpus`."""

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfm.data.corpora import documents, source_text
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.source_text import find_records, find_text, is_divided
from jaxfm.data.records import source_files
from jaxfm.errors import UserError


def read(source, split="train", **options):
    return [(document.text, document.origin) for document in open_corpus(source, **options).splits[split]()]


def test_documents_divided_by_empty_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\nTitle\nfirst  line\n \n\nsecond\n\n")
    assert read(f"text:{path}") == [("Title\nfirst  line", f"{path}:3"), ("second", f"{path}:7")]
    assert open_corpus(f"text:{path}").notes == (
        "train: 1 file, 0.0 MB; documents are divided by empty lines in a.txt",
    )


def test_a_document_a_line_where_no_empty_line_divides(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("\ufeff\none\r\n two\u2028x \n\n".encode()))
    assert read(f"text:{path}") == [("one", f"{path}:2"), ("two\u2028x", f"{path}:3")]
    assert open_corpus(f"text:{path}").notes == ("train: 1 file, 0.0 MB; each line is a document in a.txt.gz",)


def test_an_empty_line_counts_up_to_where_is_looked(tmp_path, monkeypatch):
    monkeypatch.setattr(source_text, "_LOOK_CHARACTERS", 20)
    path = tmp_path / "a.txt"
    path.write_text("0123456789\n\nb\n")
    assert len(read(f"text:{path}")) == 2
    path.write_text("0123456789\n0123456789\n\nb\n")
    assert len(read(f"text:{path}")) == 3


def test_each_file_is_divided_in_its_own_way_and_files_follow_each_other(tmp_path):
    (tmp_path / "a.txt").write_text("a\nb\n\nc")
    (tmp_path / "b.txt").write_text("d\ne")
    assert [text for text, _ in read(f"text:{tmp_path}")] == ["a\nb", "c", "d", "e"]
    assert (
        open_corpus(f"text:{tmp_path}")
        .notes[0]
        .endswith("divided by empty lines in a.txt; each line is a document in b.txt")
    )


def test_only_some_of_many_files_are_looked_at_before_reading(tmp_path):
    for i in range(25):
        (tmp_path / f"{i:02}.txt").write_text(f"a{i}\n\nb")
    (note,) = open_corpus(f"text:{tmp_path}").notes
    assert note.startswith("train: 25 files, ") and note.endswith("19.txt; and so on, a file at a time")
    assert len(read(f"text:{tmp_path}")) == 50


def test_one_long_line_becomes_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "DOCUMENT_CHARACTERS", 100)
    monkeypatch.setattr(source_files, "PIECE_BYTES", 16)
    path = tmp_path / "a.txt"
    words = [f"wörd{i}" for i in range(500)]
    path.write_text(" ".join(words) + "\nlast")
    found = read(f"text:{path}")
    assert " ".join(text for text, _ in found[:-1]).split() == words
    assert max(len(text) for text, _ in found) <= 100
    assert {origin for _, origin in found[:-1]} == {f"{path}:1"}
    assert found[-1] == ("last", f"{path}:2")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ok\nbin\0ary\n", r"a\.txt:2: a NUL byte at position 4 of the line: this is a binary"),
        ("text".encode("utf-16-le"), r"a\.txt:1: a NUL byte .* UTF-16LE without a byte order mark"),
        (b"ok\n\xff\xfe\n", r"a\.txt:2: byte 0xFF"),
        (b"", r"text:.*a\.txt: the split 'train' is empty: no document with text in it"),
        (b" \n\n\t\n", r"the split 'train' is empty"),
    ],
)
def test_files_that_are_no_text(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read(f"text:{tmp_path}/a.txt")


def test_text_files_have_no_columns(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match="text_column='body': text: files have no columns"):
        open_corpus(f"text:{tmp_path}", text_column="body")


def lines(path, *records):
    path.write_text("\n".join(map(json.dumps, records)) + "\n\n")


def test_json_lines(tmp_path):
    lines(tmp_path / "train.1.jsonl", {"text": "a\nb", "n": 1}, {"n": 2, "text": " "})
    lines(tmp_path / "train.2.jsonl", {"content": "c\n\nd"})
    lines(tmp_path / "dev.jsonl", {"body": "e", "text": "f"})
    source = f"jsonl:{tmp_path}"
    assert read(source) == [("a\nb", f"{tmp_path}/train.1.jsonl:1"), ("c\n\nd", f"{tmp_path}/train.2.jsonl:1")]
    assert read(source, "valid", text_column="body") == [("e", f"{tmp_path}/dev.jsonl:1")]


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ("[1]", "", r"a\.jsonl:2: a list, but each record must be one JSON object"),
        ("{", "", r"a\.jsonl:2: not JSON"),
        ('{"txt": "a"}', "", r"a\.jsonl:2: no column 'text', which earlier records have; columns: 'txt'"),
        ('{"text": null}', "", r"a\.jsonl:2: null in 'text' is of type NoneType, but must be text"),
        ('{"text": "\\ud800"}', "", r"a\.jsonl:2: .*half of a surrogate pair"),
        ("", "txet", r"a\.jsonl:1: text_column='txet' is absent\. Did you mean 'text'\?"),
    ],
)
def test_bad_json_lines(tmp_path, line, column, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        read(f"jsonl:{path}", text_column=column)


def test_json_lines_without_a_usual_field_or_with_two(tmp_path):
    path = tmp_path / "a.jsonl"
    lines(path, {"title": "a"})
    with pytest.raises(UserError, match=r"a\.jsonl:1: no column for the text .*columns: 'title'\): set text_column"):
        read(f"jsonl:{path}")
    lines(path, {"text": "a", "content": "b"})
    with pytest.raises(UserError, match=r"'text' and 'content' could both be the text: set text_column"):
        read(f"jsonl:{path}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")
    data_dir = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "id": tfds.features.Scalar(np.int32)})

    class Ours(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self.examples("Ärger 0", "Ärger 1", "Ärger 2"), "validation": self.examples("\nv\n")}

        def _generate_examples(self):
            raise NotImplementedError

        def examples(self, *texts):
            return ((i, {"text": text, "id": i}) for i, text in enumerate(texts))

    Ours(data_dir=data_dir).download_and_prepare(file_format="array_record")
    return data_dir


def test_tfds_records(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    corpus = open_corpus("tfds:ours")
    assert set(corpus.splits) == {"train", "valid"}
    assert corpus.notes == ("train: 3 records", "valid: 1 records")
    found = read("tfds:ours")
    assert {text for text, _ in found} == {"Ärger 0", "Ärger 1", "Ärger 2"}
    assert [origin for _, origin in found] == [f"tfds:ours/train[{i}]" for i in range(3)]
    assert read("tfds:ours", "valid") == [("v", "tfds:ours/validation[0]")]
    with pytest.raises(UserError, match=r"tfds:ours/train: text_column='txt' is absent\. Did you mean 'text'"):
        open_corpus("tfds:ours", text_column="txt")
    with pytest.raises(UserError, match=r"tfds:ours/train\[0\]: .* in 'id' is of type int, but must be text"):
        read("tfds:ours", text_column="id")


def test_hub_records(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    datasets.Dataset.from_dict({"content": ["a\nb", "", "c"], "id": [1, 2, 3]}).to_parquet("owner/name/train.parquet")
    assert read("hf:owner/name") == [("a\nb", "hf:owner/name/train[0]"), ("c", "hf:owner/name/train[2]")]
    assert open_corpus("hf:owner/name").notes == ("train: 3 records",)
    with pytest.raises(UserError, match=r"hf:owner/name/train\[0\]: 1 in 'id' is of type int, but must be text"):
        read("hf:owner/name", text_column="id")
    with pytest.raises(UserError, match=r"hf:owner/name/train: text_column='contnt' .* Did you mean 'content'"):
        open_corpus("hf:owner/name", text_column="contnt")


def test_the_shared_corpus(shared_data):
    corpus = open_corpus(f"text:{shared_data / 'mlm-corpus'}")
    counts = {name: sum(1 for _ in read()) for name, read in corpus.splits.items()}
    # 7 books (empty lines), 88 empty lines between articles, 14,400 lines of sentences; the longest books are cut.
    assert counts["train"] >= 7 + 88 + 14_400
    assert counts["test"] == 2_891
    assert "divided by empty lines in books.train.txt.gz, wikipedia_articles.train.txt.gz;" in corpus.notes[0]


# Any file.

LINES = st.one_of(
    st.sampled_from(["", " ", "\u3000", "one", "two words", "\ufefff", "\u2028", "x" * 50]), st.text(max_size=20)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=12), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
def test_any_text_is_read_whole_or_refused_with_its_line(tmp_path, lines, end, last):
    path = tmp_path / "a.txt"
    content = end.join(lines) + end * last
    path.write_bytes(content.encode())
    try:
        documents = list(find_text(str(path), "").splits["train"]())
    except UserError as error:
        assert "\0" in content and re.match(re.escape(str(path)) + r":\d+: ", str(error))
        return
    assert "\0" not in content

    def bare(text):
        return "".join(text.replace("\ufeff", "").split())

    assert bare("".join(document.text for document in documents)) == bare(content)
    divided = is_divided(path)
    for document in documents:
        assert document.text and document.text == document.text.strip()
        assert int(document.origin.rpartition(":")[2]) >= 1
        assert divided or "\n" not in document.text
    assert len({document.origin for document in documents}) == len(documents)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=10), st.just("\ud800"), st.lists(st.text())
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(st.dictionaries(st.sampled_from(["text", "content", "id"]), VALUES), max_size=5),
    cut=st.integers(0, 9),
)
def test_any_objects_are_read_or_refused_with_their_line(tmp_path, records, cut):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(record) for record in records]
    broken = cut == 1 and bool(lines)
    path.write_text("\n".join([*lines[:-1], lines[-1][:-1]] if broken else lines) + "\n")
    try:
        documents = list(find_records("jsonl", str(path), "").splits["train"]())
    except UserError as error:
        assert re.match(re.escape(str(path)) + r":\d+: ", str(error))
        return
    assert not broken
    # The field that the first record has is that of all.
    texts = [record["text" if "text" in records[0] else "content"] for record in records]
    assert [document.text for document in documents] == [text.strip() for text in texts if text.strip()]
