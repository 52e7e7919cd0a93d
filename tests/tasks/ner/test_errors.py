"""The sentences that a tagger has most wrong, as a person is shown them."""

import numpy as np

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.records.spans import MarkedText
from jaxfm.observe.examples import SHOWN, Mark
from jaxfm.tasks.ner.errors import worst_sentences


def sentence(text: str, tags: str, origin: str = "test.conll:1") -> TaggedSentence:
    return TaggedSentence(tuple(text.split()), tuple(tags.split()), 0, origin)


def test_gold_and_predicted_are_side_by_side_the_worst_first() -> None:
    read = [
        sentence("Ada left Rome", "B-PER O B-LOC", "test.conll:1"),
        sentence("all is right", "O O O", "test.conll:5"),
        sentence("Ada Lovelace met Boole", "B-PER I-PER O B-PER", "test.conll:9"),
    ]
    predicted = [["B-PER", "O", "O"], ["O"] * 3, ["B-PER", "O", "O", "B-LOC"]]
    losses = np.array([0.1, 0.1, 0.5, 9.0, 0.0, 0.0, 0.2, 1.0, 0.0, 2.0])
    first, second = worst_sentences(read, predicted, losses)
    assert (first.origin, second.origin) == ("test.conll:9", "test.conll:1")  # the right one of loss 9 is not there
    assert [name for name, _ in first.facts] == ["loss"] and np.isclose(first.facts[0][1], 3.2)
    gold, found = first.views
    assert (gold.heading, found.heading) == ("gold", "predicted")
    assert gold.text == found.text == "Ada Lovelace met Boole"
    assert gold.marks == (Mark(0, 12, "PER", "missed"), Mark(17, 22, "PER", "missed"))
    assert found.marks == (Mark(0, 3, "PER", "wrong"), Mark(17, 22, "LOC", "wrong"))
    gold, found = second.views
    assert gold.marks == (Mark(0, 3, "PER", "right"), Mark(9, 13, "LOC", "missed"))
    assert found.marks == (Mark(0, 3, "PER", "right"),)


def test_text_with_entities_in_characters_is_shown_as_it_is() -> None:
    text = "Ada,\tLovelace's"
    marked = MarkedText(text, ((0, 3, "PER"), (5, 13, "PER")), ((0, 3), (3, 4), (5, 15)))
    read = TaggedSentence(("Ada", ",", "Lovelace's"), ("B-PER", "O", "B-PER"), 0, "a.ann:1", marked)
    (shown,) = worst_sentences([read], [["B-PER", "O", "B-PER"]], np.ones(3))
    gold, found = shown.views
    assert gold.text == text
    assert gold.marks[1] == Mark(5, 13, "PER", "missed")  # it ends inside a word
    assert found.marks == (Mark(0, 3, "PER", "right"), Mark(5, 15, "PER", "wrong"))


def test_no_more_are_shown_than_a_person_reads() -> None:
    read = [sentence("Ada", "B-PER", f"x:{index}") for index in range(SHOWN + 5)]
    shown = worst_sentences(read, [["O"]] * len(read), np.arange(len(read), dtype=float))
    assert len(shown) == SHOWN and shown[0].origin == f"x:{SHOWN + 4}"
