"""The sentences that a tagger has most wrong, with gold and predicted entities side by side."""

# W words of all sentences

from collections.abc import Sequence

import numpy as np

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.text.resplit import found_entities, gold_entities
from jaxfm.data.text.tagging import Span
from jaxfm.observe.examples import SHOWN, Mark, Status, View, WrongExample, without_overlaps


def worst_sentences(
    sentences: Sequence[TaggedSentence], predicted: Sequence[Sequence[str]], loss_W: np.ndarray
) -> tuple[WrongExample, ...]:
    """Returns the sentences with a missed or invented entity, that of the largest summed loss first, at most `SHOWN`.

    Args:
      sentences: with their gold tags.
      predicted: tags of each sentence.
      loss_W: cross-entropy of each word in nats, all sentences one after the other.
    """
    ends = np.cumsum([len(sentence.words) for sentence in sentences])[:-1]
    losses = [float(words.sum()) for words in np.split(loss_W, ends)]
    wrong = []
    for sentence, tags, loss in zip(sentences, predicted, losses, strict=True):
        gold, found = gold_entities(sentence), found_entities(sentence, tags)
        if set(gold) != set(found):
            wrong.append((loss, sentence, gold, found))
    wrong.sort(key=lambda each: -each[0])
    return tuple(_example(*each) for each in wrong[:SHOWN])


def _example(loss: float, sentence: TaggedSentence, gold: Sequence[Span], found: Sequence[Span]) -> WrongExample:
    text, offsets = _text_of(sentence)

    def marks(spans: Sequence[Span], others: Sequence[Span], status: Status) -> tuple[Mark, ...]:
        made = []
        for start, end, kind in spans:
            first, last = (start, end) if sentence.marked else (offsets[start][0], offsets[end - 1][1])
            made.append(Mark(first, last, kind, "right" if (start, end, kind) in others else status))
        return without_overlaps(made)

    views = (View("gold", text, marks(gold, found, "missed")), View("predicted", text, marks(found, gold, "wrong")))
    return WrongExample(sentence.origin, views, (("loss", loss),))


def _text_of(sentence: TaggedSentence) -> tuple[str, Sequence[tuple[int, int]]]:
    """Returns the text, words joined by spaces where the source gives words alone, and the offsets of its words."""
    if sentence.marked:
        return sentence.marked.text, sentence.marked.offsets
    starts = np.cumsum([0, *(len(word) + 1 for word in sentence.words)]).tolist()
    return " ".join(sentence.words), [
        (start, start + len(word)) for start, word in zip(starts, sentence.words, strict=False)
    ]
