"""What the entities of texts are due to."""

# W words, C classes

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.explained import Explained, Target, TokenPlace
from jaxfm.data.text.tagging import entity_spans
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.tasks.ner.decoding import read_words, tags_of
from jaxfm.tasks.ner.spec import NerSpec
from jaxfm.tasks.record_words import Words
from jaxfm.tasks.windowed_rows import WindowedRows

_OUTSIDE = "O"


def explained_entities(
    spec: NerSpec,
    encoded: WindowedRows,
    outputs: Mapping[str, np.ndarray],
    texts: Sequence[Words],
    results: Sequence[Mapping[str, Any]],
    *,
    calibration: Mapping[str, float],
    decoding: str,
    baseline: int,
) -> list[Explained]:
    """Returns the entities of each text as targets: of each the mean over its words of the values of their tags.

    Args:
      spec: of the tagger.
      encoded: the texts' windows.
      outputs: of their rows.
      texts: with their words in characters.
      results: of the texts.
      calibration: of the alternatives, which are types and "O", each with the mean over the entity's words.
      decoding: how tags are chosen.
      baseline: the token that means nothing.
    """
    tokens, places = _tokens(encoded, [text.offsets for text in texts])
    explained = [
        Explained(result, {"text": text.text}, (), tuple(own), baseline)
        for text, result, own in zip(texts, results, tokens, strict=True)
    ]
    if not len(encoded.rows):
        return explained
    words = read_words(spec, encoded, outputs)
    classes = words.decode(decoding)
    for number, (tags, classes_W, logits_WC) in enumerate(
        zip(tags_of(spec.labels, classes), classes, words.logits, strict=True)
    ):
        probabilities_WC = calibration_lib.probabilities(logits_WC, calibration)
        offsets, targets = texts[number].offsets, []
        for first, end, kind in entity_spans(tags):
            reads = places[number][first:end]
            where = np.concatenate([reads, classes_W[first:end, None]], axis=-1)
            of = {"start": offsets[first][0], "end": offsets[end - 1][1], "type": kind}
            others = _by_type(spec.labels, probabilities_WC[first:end].mean(axis=0), kind)
            targets.append(Target(of, where, np.full(end - first, 1 / (end - first)), reads, others))
        explained[number] = dataclasses.replace(explained[number], targets=tuple(targets))
    return explained


def _tokens(
    encoded: WindowedRows, offsets: Sequence[Sequence[tuple[int, int]]]
) -> tuple[list[list[TokenPlace]], list[np.ndarray]]:
    """Returns of each text the pieces of its words, and where each word is read, [W, 2] row and place."""
    tokens: list[list[TokenPlace]] = [[] for _ in offsets]
    places = [np.zeros((len(each), 2), np.int64) for each in offsets]
    windows = encoded.windows
    for text, pieces, words, (row, _, start) in zip(
        windows.sentence.tolist(),
        windows.word_pieces,
        windows.words,
        encoded.rows.example_locations.tolist(),
        strict=True,
    ):
        for place in np.flatnonzero(pieces >= 0).tolist():
            tokens[text].append(TokenPlace(row, start + place, "text", *offsets[text][pieces[place]]))
        read = np.flatnonzero(words >= 0)
        places[text][words[read]] = np.stack([np.full(len(read), row), start + read], axis=-1)
    return tokens, places


def _by_type(labels: Sequence[str], probabilities_C: np.ndarray, chosen: str) -> dict[str, float]:
    """Returns the probability of each other type, and of "O", the likeliest first."""
    found: dict[str, float] = {}
    for label, probability in zip(labels, probabilities_C.tolist(), strict=True):
        kind = _OUTSIDE if label == _OUTSIDE else label[2:]
        found[kind] = found.get(kind, 0.0) + probability
    del found[chosen]
    return dict(sorted(found.items(), key=lambda each: -each[1]))
