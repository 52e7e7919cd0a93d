"""Corpora: sources by name, parts held out, splits that are empty."""

import itertools

import pytest

from jaxfm.data.corpora import corpus as corpora
from jaxfm.data.corpora import docstrings
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.documents import Document, Streams, uniform_hash
from jaxfm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"document {i % 900}\n" for i in range(1000)))
    return tmp_path


def texts(corpus, split):
    return [document.text for document in corpus.splits[split]()]


def test_a_held_out_part_is_drawn_by_text_and_not_by_order(folder):
    whole = texts(open_corpus(f"text:{folder}"), "train")
    corpus = open_corpus(f"text:{folder}", holdout=0.1)
    train, valid = texts(corpus, "train"), texts(corpus, "valid")
    assert len(train) + len(valid) == 1000
    assert not set(train) & set(valid)  # equal texts are on one side
    assert 60 <= len(set(valid)) <= 130  # Binomial(900, 0.1): 90 +- 9
    assert [text for text in whole if text in set(valid)] == valid
    assert "valid: 10.000% of the documents of train" in corpus.notes[-1]
    (folder / "a.txt").write_text("\n".join(reversed(whole)))
    assert texts(open_corpus(f"text:{folder}", holdout=0.1), "valid") == valid[::-1]


def test_a_split_of_its_own_is_taken_instead(folder):
    (folder / "valid.txt").write_text("v\n")
    corpus = open_corpus(f"text:{folder}", holdout=0.1)
    assert texts(corpus, "valid") == ["v"]
    assert len(texts(corpus, "train")) == 1000
    assert len(corpus.notes) == 2


def test_every_call_reads_anew_and_lazily(folder):
    (folder / "b.txt").write_text("the last document\n")
    read = open_corpus(f"text:{folder}", holdout=0.1).splits["train"]
    first = list(itertools.islice(read(), 3))
    assert list(itertools.islice(read(), 3)) == first
    (folder / "b.txt").write_text("damaged\n\0")
    documents = read()
    next(documents)
    with pytest.raises(UserError, match=r"b\.txt:2: a NUL"):
        list(documents)


@pytest.mark.parametrize("holdout", [1e-9, 0.01, 0.5, 0.999999])
@pytest.mark.parametrize("count", [2, 3, 30])
def test_few_documents_are_on_both_sides(tmp_path, holdout, count):
    (tmp_path / "a.txt").write_text("".join(f"document {number}\n" for number in range(count)))
    corpus = open_corpus(f"text:{tmp_path}", holdout=holdout)
    train, valid = texts(corpus, "train"), texts(corpus, "valid")
    assert train and valid and sorted(train + valid) == sorted(f"document {number}" for number in range(count))
    below = [text for text in train + valid if uniform_hash(text) < holdout]
    assert len(valid) == min(max(len(below), 1), count - 1)
    assert max(map(uniform_hash, valid)) < min(map(uniform_hash, train))


@pytest.mark.parametrize(
    ("content", "message"), [("alone\n", "it has one document"), ("same\n" * 3, "all of the 3 documents are equal")]
)
def test_what_cannot_be_held_out_is_said(tmp_path, content, message):
    (tmp_path / "a.txt").write_text(content)
    corpus = open_corpus(f"text:{tmp_path}", holdout=0.01)
    for split in ("train", "valid"):
        with pytest.raises(UserError, match=message) as caught:
            texts(corpus, split)
        assert "--config.data.holdout=0" in str(caught.value)
    assert texts(open_corpus(f"text:{tmp_path}"), "train") == content.split()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("txt:DIR", {}, r"unknown data source 'txt:DIR': a source is quickstart, text:DIR, .* Did you mean 'text'"),
        ("{}", {}, r"unknown data source .* For files write text:.* or jsonl:"),
        ("text", {}, r"unknown data source 'text'"),
        ("quickstart:", {}, r"quickstart takes nothing after it"),
        ("quickstart", {"text_column": "x"}, r"text_column='x': quickstart has no columns"),
        ("text:{}", {"holdout": 1.0}, r"holdout=1\.0: must be a share"),
        ("text:{}", {"holdout": -0.1}, r"holdout=-0\.1: must be a share"),
    ],
)
def test_sources_that_are_refused(folder, source, options, message):
    with pytest.raises(UserError, match=message):
        open_corpus(source.format(folder), **options)


def test_quickstart_is_the_docstrings(monkeypatch):
    streams = Streams({"train": lambda: iter([Document("doc", "a/b.py")])}, ("note",))
    monkeypatch.setattr(docstrings, "find_docstrings", lambda: streams)
    corpus = open_corpus("quickstart")
    assert list(corpus.splits["train"]()) == [Document("doc", "a/b.py")]
    assert corpus.notes == ("note",)


def test_a_source_without_a_usual_split(monkeypatch):
    monkeypatch.setattr(corpora.source_text, "find_records", lambda scheme, rest, column, by: Streams({}, ()))
    with pytest.raises(UserError, match="tfds:x: none of its splits is train, valid or test"):
        open_corpus("tfds:x")
