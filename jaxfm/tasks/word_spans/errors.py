"""The sentences that a span classifier has most wrong, gold and predicted entities in layers that do not overlap."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.text.tagging import Span
from jaxfm.observe.examples import SHOWN, Mark, Status, View, WrongExample


def worst_sentences(
    sentences: Sequence[TaggedSentence],
    gold: Sequence[Sequence[Span]],
    found: Sequence[Sequence[Span]],
    losses: np.ndarray,
) -> tuple[WrongExample, ...]:
    """Returns the sentences with a missed or invented entity, that of the largest summed loss first, at most `SHOWN`.

    Args:
      sentences: of the split.
      gold: entities of each, as the source gives them.
      found: entities that the model finds in each, likewise.
      losses: nats of each sentence, summed over its spans.
    """
    wrong = [
        number for number in np.argsort(-losses, kind="stable").tolist() if set(gold[number]) != set(found[number])
    ]
    return tuple(
        WrongExample(
            sentences[number].origin,
            (
                *_views("gold", sentences[number], gold[number], found[number], "missed"),
                *_views("predicted", sentences[number], found[number], gold[number], "wrong"),
            ),
            (("loss", float(losses[number])),),
        )
        for number in wrong[:SHOWN]
    )


def layers(spans: Sequence[Span]) -> list[list[Span]]:
    """Returns the spans in layers none of which has an overlap, the outermost first."""
    found: list[list[Span]] = []
    for span in sorted(spans, key=lambda each: (each[0], -each[1], each[2])):
        layer = next((each for each in found if each[-1][1] <= span[0]), None)
        if layer is None:
            found.append([span])
        else:
            layer.append(span)
    return found


def text_and_offsets(sentence: TaggedSentence) -> tuple[str, list[tuple[int, int]]]:
    """Returns the text, words joined by spaces where the source gives words alone, and the offsets of its words."""
    if sentence.marked:
        return sentence.marked.text, list(sentence.marked.offsets)
    starts = np.cumsum([0, *(len(word) + 1 for word in sentence.words)]).tolist()
    return " ".join(sentence.words), [
        (start, start + len(word)) for start, word in zip(starts, sentence.words, strict=False)
    ]


def _views(
    heading: str, sentence: TaggedSentence, spans: Sequence[Span], others: Sequence[Span], status: Status
) -> Iterator[View]:
    text, offsets = text_and_offsets(sentence)
    for depth, layer in enumerate(layers(spans) or [[]]):
        marks = []
        for start, end, kind in layer:
            first, last = (start, end) if sentence.marked else (offsets[start][0], offsets[end - 1][1])
            marks.append(Mark(first, last, kind, "right" if (start, end, kind) in others else status))
        yield View(f"{heading}, inside" if depth else heading, text, tuple(marks))
