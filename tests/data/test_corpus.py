"""Corpora: sources by name, parts held out, splits that are empty."""

import itertools

import pytest

from jaxfm.data import corpus as corpora
from jaxfm.data import docstrings
from jaxfm.data.corpus import open_corpus
from jaxfm.data.documents import Document, Streams
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
    read = open_corpus(f"text:{folder}", holdout=0.1).splits["train"]
    first = list(itertools.islice(read(), 3))
    assert list(itertools.islice(read(), 3)) == first
    (folder / "a.txt").write_text("document 5\n" * 3 + "\0")
    documents = read()
    next(documents)
    with pytest.raises(UserError, match="NUL"):
        list(documents)


def test_a_share_that_holds_nothing_is_said(folder):
    corpus = open_corpus(f"text:{folder}", holdout=1e-9)
    with pytest.raises(UserError, match=r"holdout=1e-09 all of the 1,000 documents are on one side of train and valid"):
        texts(corpus, "valid")


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
    monkeypatch.setitem(corpora._FINDERS, "tfds", lambda rest, column: Streams({}, ()))
    with pytest.raises(UserError, match="tfds:x: none of its splits is train, valid or test"):
        open_corpus("tfds:x")
