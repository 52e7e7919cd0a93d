"""Documents: cutting loses nothing and holds little."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfm.data.corpora import documents
from jaxfm.data.corpora.documents import Document, Texts, cut_text, joined_documents, uniform_hash, whole_documents


@pytest.fixture
def limit(monkeypatch):
    monkeypatch.setattr(documents, "DOCUMENT_CHARACTERS", 10)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab \n\u3000é", max_size=80))
def test_cutting_loses_no_character(limit, text):
    pieces = list(cut_text(text))
    assert "".join(pieces) == text
    assert all(len(piece) <= 10 for piece in pieces)
    assert all(len(piece) > 5 for piece in pieces[:-1])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("0123456789", ["0123456789"]),
        ("012345 789abc", ["012345 ", "789abc"]),
        ("01234\n6 89abc", ["01234\n", "6 89abc"]),  # a line end before white space
        ("0\n2 4567 9abc", ["0\n2 4567 ", "9abc"]),  # but not one that leaves a short piece
        ("0123456789abc", ["0123456789", "abc"]),
        ("012345\u3000789abc", ["012345\u3000", "789abc"]),
    ],
)
def test_where_a_text_is_cut(limit, text, pieces):
    assert list(cut_text(text)) == pieces


def test_a_text_becomes_stripped_documents_and_a_blank_one_none(limit):
    assert list(whole_documents(" \n\t", "x:1")) == []
    assert list(whole_documents(" 012345 789abc\n", "x:1")) == [Document("012345", "x:1"), Document("789abc", "x:1")]


def test_fragments_are_joined_to_documents_with_the_line_of_their_first_text(limit):
    fragments = [
        (1, "ab\n", False),
        (2, "cd\n", True),
        (3, "\n", True),
        (4, "0123456\n", False),
        (5, "8\n", False),
        (6, "x", False),
        (6, "y\n", False),
        (6, "", True),
    ]
    assert list(joined_documents(fragments, "f")) == [
        Document("ab\ncd", "f:1"),
        Document("0123456\n8", "f:4"),
        Document("xy", "f:6"),
    ]


def test_a_document_larger_than_memory_is_never_held():
    # 30 MB without a line end.
    fragments = ((1, "word " * 20_000 if i < 300 else "", i == 300) for i in range(301))
    tracemalloc.start()
    try:
        count = sum(len(document.text) + 1 for document in joined_documents(fragments, "f"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 30_000_000
    assert peak < 6_000_000


def test_texts_are_read_anew_each_time():
    texts = Texts(lambda: iter([Document("a", "x:1"), Document("b", "x:2")]))
    assert list(texts) == list(texts) == ["a", "b"]


def test_the_hash_is_uniform_and_fixed():
    values = [uniform_hash(f"text {i}") for i in range(4000)]
    assert uniform_hash("text 0") == values[0]
    # Binomial(4000, 0.1) has a standard deviation of 19.
    assert all(abs(sum(low <= value < low + 0.1 for value in values) - 400) < 5 * 19 for low in (0, 0.3, 0.9))
