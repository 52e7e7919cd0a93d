"""Words by the run's rule, and entities in characters beside them."""

import pytest

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.spans import MarkedText, mark_words
from jaxfm.data.text.resplit import choose_splitter, count_cut, found_entities, gold_entities, split_again
from jaxfm.data.text.words import COARSE, FINE, words_of


def sentence(text: str, *spans: tuple[int, int, str]) -> TaggedSentence:
    offsets = tuple(words_of(text))
    words = tuple(text[start:end] for start, end in offsets)
    return TaggedSentence(words, tuple(mark_words(offsets, spans).tags), 0, "x:1", MarkedText(text, spans, offsets))


def test_the_words_of_a_text_follow_the_rule_and_its_entities_do_not() -> None:
    fine = sentence("New York-based Ada's", (0, 8, "LOC"), (15, 18, "PER"))
    (again,) = split_again([fine], FINE)
    assert again is fine and count_cut([fine]) == 0
    (coarse,) = split_again([fine], COARSE)
    assert coarse.words == ("New", "York-based", "Ada", "'s")
    assert coarse.tags == ("B-LOC", "I-LOC", "B-PER", "O")
    assert count_cut([coarse]) == 1
    assert gold_entities(coarse) == gold_entities(fine) == [(0, 8, "LOC"), (15, 18, "PER")]
    assert found_entities(coarse, coarse.tags) == [(0, 14, "LOC"), (15, 18, "PER")]
    given = TaggedSentence(("York-based",), ("B-LOC",), 0, "x:1")
    assert split_again([given], FINE) == (given,) and gold_entities(given) == found_entities(given, given.tags)


@pytest.mark.parametrize(
    ("text", "span", "gold", "cut"),
    [
        ("Ada\u200b met", (0, 4, "PER"), (0, 3, "PER"), 0),  # what no word has is no part of an entity
        ("\ufeffAda met", (0, 4, "PER"), (1, 4, "PER"), 0),
        ("Berliners", (0, 6, "LOC"), (0, 6, "LOC"), 1),
        ("Cafe\u0301", (0, 4, "LOC"), (0, 4, "LOC"), 1),
        ("a \u200b b", (2, 3, "LOC"), (2, 3, "LOC"), 1),  # no word at all
    ],
)
def test_borders(text: str, span: tuple[int, int, str], gold: tuple[int, int, str], cut: int) -> None:
    made = sentence(text, span)
    assert gold_entities(made) == [gold] and count_cut([made]) == cut


def test_the_rule_of_a_new_run() -> None:
    marked, given = sentence("a b"), TaggedSentence(("York-based", "U.N."), ("O", "O"), 0, "x:1")
    assert choose_splitter("auto", [given, marked])[0] == FINE
    assert choose_splitter("auto", [given])[0] == COARSE
    rule, note = choose_splitter("coarse", [marked])
    assert rule == COARSE and note == 'words of raw text: "coarse", as task.splitter says'
