"""What the entities of one text are due to."""

# T tokens, W words, C classes

from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.core.explained import Explained, Target, TokenPlace
from jaxfm.data.text.tagging import entity_spans
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.tasks.ner.decoding import read_words, tags_of
from jaxfm.tasks.ner.spec import NerSpec
from jaxfm.tasks.windowed_rows import WindowedRows

_OUTSIDE = "O"


def explained_entities(
    spec: NerSpec,
    encoded: WindowedRows,
    outputs: Mapping[str, np.ndarray],
    offsets: Sequence[tuple[int, int]],
    *,
    calibration: Mapping[str, float],
    decoding: str,
    baseline: int,
) -> Explained:
    """Returns the entities of the one text as targets: of each the mean probability of the tags of its words.

    Args:
      spec: of the tagger.
      encoded: the text's windows.
      outputs: of their rows.
      offsets: of its words, in characters.
      calibration: of the alternatives, which are types and "O", each with the mean over the entity's words.
      decoding: how tags are chosen.
      baseline: the token that means nothing.
    """
    tokens, places = _tokens(encoded, offsets)
    if not offsets:
        return Explained("logits", "softmax", (), (), baseline)
    words = read_words(spec, encoded, outputs)
    (classes_W,), (logits_WC,) = words.decode(decoding), words.logits
    (tags,) = tags_of(spec.labels, [classes_W])
    probabilities_WC = calibration_lib.probabilities(logits_WC, calibration)
    targets = []
    for first, end, kind in entity_spans(tags):
        numbers = np.arange(first, end)
        where = np.concatenate([places[numbers], classes_W[numbers, None]], axis=-1)
        of = {"start": offsets[first][0], "end": offsets[end - 1][1], "type": kind}
        others = _by_type(spec.labels, probabilities_WC[first:end].mean(axis=0), kind)
        targets.append(Target(of, where, np.full(len(numbers), 1 / len(numbers)), others))
    return Explained("logits", "softmax", tuple(targets), tokens, baseline)


def _tokens(encoded: WindowedRows, offsets: Sequence[tuple[int, int]]) -> tuple[tuple[TokenPlace, ...], np.ndarray]:
    """Returns the pieces of all words, and where each word is read, [W, 2] row and place."""
    tokens, places_W2 = [], np.zeros((len(offsets), 2), np.int64)
    windows = encoded.windows
    for pieces, words, (row, _, start) in zip(
        windows.word_pieces, windows.words, encoded.rows.example_locations.tolist(), strict=True
    ):
        for place in np.flatnonzero(pieces >= 0).tolist():
            tokens.append(TokenPlace(row, start + place, "text", *offsets[pieces[place]]))
        read = np.flatnonzero(words >= 0)
        places_W2[words[read]] = np.stack([np.full(len(read), row), start + read], axis=-1)
    return tuple(tokens), places_W2


def _by_type(labels: Sequence[str], probabilities_C: np.ndarray, chosen: str) -> dict[str, float]:
    """Returns the probability of each other type, and of "O", the likeliest first."""
    found: dict[str, float] = {}
    for label, probability in zip(labels, probabilities_C.tolist(), strict=True):
        kind = _OUTSIDE if label == _OUTSIDE else label[2:]
        found[kind] = found.get(kind, 0.0) + probability
    del found[chosen]
    return dict(sorted(found.items(), key=lambda each: -each[1]))
