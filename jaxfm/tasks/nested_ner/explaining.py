"""What entities that may lie inside each other are due to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.explained import Explained, Target, TokenPlace
from jaxfm.models.word_spans import FIRSTS, LASTS
from jaxfm.tasks.nested_ner.spec import NestedNerSpec
from jaxfm.tasks.record_words import Words
from jaxfm.tasks.word_spans.spans import FoundSpans, SpanRows


def explained_spans(
    spec: NestedNerSpec,
    encoded: SpanRows,
    texts: Sequence[Words],
    found: Sequence[FoundSpans],
    results: Sequence[Mapping[str, Any]],
    baseline: int,
) -> list[Explained]:
    """Returns the entities of each text as targets, in the order of its result: of each the value of its type.

    Args:
      spec: of the model.
      encoded: the texts' windows.
      texts: with their words in characters.
      found: the entities of each text.
      results: of the texts.
      baseline: the token that means nothing.
    """
    tokens = _tokens(encoded, texts)
    explained = []
    for number, (text, spans, result) in enumerate(zip(texts, found, results, strict=True)):
        targets = []
        for first, end, kind in sorted(spans.spans, key=lambda each: (each[0], -each[1])):
            window = int(encoded.owners[number][first, end - first - 1])
            row, _, start = encoded.rows.example_locations[window].tolist()
            slot = first - int(encoded.windows.reach[window, 0])
            fields = encoded.rows.token_fields
            reads = [
                (row, start + int(fields[FIRSTS][row, start + slot])),
                (row, start + int(fields[LASTS][row, start + slot + end - first - 1])),
            ]
            of = {"start": text.offsets[first][0], "end": text.offsets[end - 1][1], "type": kind}
            place = np.asarray([[row, start + slot, end - first - 1, spec.labels.index(kind)]])
            targets.append(Target(of, place, np.ones(1), np.asarray(reads)))
        own = {"text": text.text}
        explained.append(Explained(result, own, tuple(targets), tuple(tokens[number]), baseline))
    return explained


def _tokens(encoded: SpanRows, texts: Sequence[Words]) -> list[list[TokenPlace]]:
    """Returns of each text the pieces of its words, in every window that shows them."""
    found: list[list[TokenPlace]] = [[] for _ in texts]
    firsts, lasts = (encoded.rows.token_fields[name] for name in (FIRSTS, LASTS))
    for window, (row, _, start) in enumerate(encoded.rows.example_locations.tolist()):
        number = int(encoded.windows.sentence[window])
        begin, stop = encoded.windows.reach[window].tolist()
        for slot, word in enumerate(range(begin, stop)):
            pieces = range(int(firsts[row, start + slot]), int(lasts[row, start + slot]) + 1)
            found[number] += [TokenPlace(row, start + piece, "text", *texts[number].offsets[word]) for piece in pieces]
    return found
