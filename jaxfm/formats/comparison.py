"""Two models on the same texts: how far states and logits are apart, and which predictions differ."""

# B batch, T tokens, D model, C classes

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.data.text.tagging import entity_spans
from jaxfm.errors import UserError
from jaxfm.formats.inference import IDS, LOGITS, MASK, OF_TEXTS, TYPES, logits_of
from jaxfm.observe.tables import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Inputs by name, int64 [B, T] -> array or arrays by name.
Arrays = Mapping[str, np.ndarray]
_TEXTS_AT_ONCE = 8
_SHOWN = 12  # differing predictions
_TOKEN_HEADS = ("token_classes", "spans", "vocabulary", "replaced_tokens")


@dataclasses.dataclass(frozen=True)
class Side:
    """A model of any form, opened.

    Attributes:
      name: as the user gave it.
      form: what it is: "run", "checkpoint", "onnx", "stablehlo".
      tokenizer: of it.
      longest: most tokens of a text.
      head: kind of its head (`families.models.KINDS`); "" without one.
      labels: class names of the head.
      problem: of classes of texts: "single", "multi", "regression".
      outputs: of its head by name; None without a head.
      states: last hidden states [B, T, D]; None where it does not show them.
    """

    name: str
    form: str
    tokenizer: "PreTrainedTokenizerFast"
    longest: int
    head: str
    labels: tuple[str, ...]
    problem: str
    outputs: Callable[[Arrays], Arrays] | None
    states: Callable[[Arrays], np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two arrays are apart.

    Attributes:
      what: "states" or the name of an output.
      vectors: number of tokens or texts that were compared.
      width: numbers of each.
      largest: absolute difference.
      mean: absolute difference.
    """

    what: str
    vectors: int
    width: int
    largest: float
    mean: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
      differences: of states and outputs.
      agreeing: predictions that are equal.
      predictions: number of them; 0 without a head or where none is a choice.
      unit: what a prediction is of: "tokens", "words", "texts".
      differing: lines on predictions that differ, the first ones.
      notes: what was not compared, and why.
    """

    differences: tuple[Difference, ...]
    agreeing: int
    predictions: int
    unit: str
    differing: tuple[str, ...]
    notes: tuple[str, ...]

    def within(self, tolerance: float) -> bool:
        """Whether no number differs by more; one that is not a number does."""
        return all(each.largest <= tolerance for each in self.differences)

    def table(self, title: str) -> Table:
        """Returns the differences as a table."""
        rows = [(each.what, each.vectors, each.width, each.largest, each.mean) for each in self.differences]
        columns = ("what", "vectors", "numbers each", "largest difference", "mean difference")
        return Table(title, columns, rows, formats={columns[3]: ".2e", columns[4]: ".2e"})


def compare(a: Side, b: Side, texts: Sequence[str]) -> Comparison:
    """Compares two models on texts, each cut at what both can read.

    With equal tokenizers every token is compared, with others the first token of each word, and whole texts. Classes
    are put in the order of `a`.

    Raises:
      UserError: nothing of the two can be compared.
    """
    encoded = _encode(a, b, texts)
    same_tokens = all(np.array_equal(one.ids, other.ids) for one, other in zip(*encoded, strict=True))
    notes = [] if same_tokens else ["the tokenizers differ: the first token of each word is compared"]
    heads, order = _comparable_heads(a, b, same_tokens, notes)
    states = a.states is not None and b.states is not None
    found = [_Outputs(side, rows, heads, states) for side, rows in zip((a, b), encoded, strict=True)]
    places = [_places(rows, same_tokens) for rows in encoded]
    differences = []
    if states and found[0].states[0].shape[-1] != found[1].states[0].shape[-1]:
        notes.append(f"the widths differ: {found[0].states[0].shape[-1]} and {found[1].states[0].shape[-1]}")
        states = False
    if states:
        differences.append(_difference("states", *(_picked(o.states, p) for o, p in zip(found, places, strict=True))))
    elif not heads:
        raise UserError(f"{a.name} and {b.name}: have nothing to compare: {'; '.join(notes) or 'no states, no head'}.")
    if not heads:
        return Comparison(tuple(differences), 0, 0, "tokens", (), tuple(notes))
    of_tokens = a.head in _TOKEN_HEADS
    logits = [_picked(o.logits, p) if of_tokens else np.stack(o.logits) for o, p in zip(found, places, strict=True)]
    if order is not None:
        logits[1] = logits[1][..., order]
    differences.append(_difference(OF_TEXTS if a.head == OF_TEXTS else LOGITS, *logits))
    if a.head in ("spans", OF_TEXTS):  # a token, or a vector, decides nothing by itself
        return Comparison(tuple(differences), 0, 0, "tokens", (), tuple(notes))
    predictions = [_predictions(a, each) for each in logits]
    apart = np.not_equal(predictions[0], predictions[1]).reshape(len(predictions[0]), -1)
    equal = np.logical_not(np.any(apart, axis=-1))
    if a.problem == "regression" and a.head == "sequence_classes":
        return Comparison(tuple(differences), 0, 0, "texts", (), tuple(notes))
    unit = "texts" if not of_tokens else "tokens" if same_tokens else "words"
    lines = _differing(a, texts, encoded[0], places[0] if of_tokens else None, predictions, equal)
    return Comparison(tuple(differences), int(equal.sum()), len(equal), unit, tuple(lines), tuple(notes))


@dataclasses.dataclass(frozen=True)
class _Text:
    ids: np.ndarray
    types: np.ndarray
    words: list[tuple[int, int, int]]  # first token, start and end in characters


def _encode(a: Side, b: Side, texts: Sequence[str]) -> tuple[list[_Text], list[_Text]]:
    longest = min(a.longest, b.longest)

    def encode(side: Side) -> list[_Text]:
        rows = []
        for text in texts:
            found = side.tokenizer(text, truncation=True, max_length=longest, verbose=False)
            assert found.encodings, "see load_tokenizer"
            encoding = found.encodings[0]
            words = []
            for match in re.finditer(r"\S+", text):
                token = next(
                    (found for place in range(*match.span()) if (found := encoding.char_to_token(place)) is not None),
                    None,
                )
                if token is not None:
                    words.append((token, *match.span()))
            rows.append(_Text(np.asarray(encoding.ids), np.asarray(encoding.type_ids), words))
        return rows

    one, other = encode(a), encode(b)
    for number, (first, second) in enumerate(zip(one, other, strict=True)):
        # A word is compared where both tokenizers have a token of it before the end.
        shared = {word[1:] for word in first.words} & {word[1:] for word in second.words}
        for rows, row in ((one, first), (other, second)):
            rows[number] = dataclasses.replace(row, words=[word for word in row.words if word[1:] in shared])
    return one, other


def _comparable_heads(a: Side, b: Side, same_tokens: bool, notes: list[str]) -> tuple[bool, list[int] | None]:
    """Returns whether the heads are compared, and the place of each class of `a` among those of `b`."""
    if not a.head or not b.head or a.outputs is None or b.outputs is None:
        without = [side.name for side in (a, b) if not side.head]
        notes.append(f"without a head: {', '.join(without)}")
        return False, None
    if a.head != b.head:
        notes.append(f"the heads differ: {a.head} and {b.head}")
        return False, None
    if a.head == "vocabulary" and not same_tokens:
        notes.append("scores of different vocabularies are not compared")
        return False, None
    if a.problem != b.problem and a.head == "sequence_classes":
        notes.append(f"the problems differ: {a.problem} and {b.problem}")
        return False, None
    if set(a.labels) != set(b.labels):
        only = [f"only in {side.name}: {', '.join(sorted(set(side.labels) - set(other.labels)))}"
                for side, other in ((a, b), (b, a)) if set(side.labels) - set(other.labels)]  # fmt: skip
        notes.append(f"the labels differ ({'; '.join(only)}), so that heads are not compared")
        return False, None
    return True, None if a.labels == b.labels else [b.labels.index(label) for label in a.labels]


class _Outputs:
    """States and logits of all texts, arrays [T, ...] (classes of texts: [C]) in the order of the texts."""

    def __init__(self, side: Side, rows: Sequence[_Text], heads: bool, states: bool):
        self.logits: list[np.ndarray] = []
        self.states: list[np.ndarray] = []
        of_tokens = side.head in _TOKEN_HEADS
        for chunk, inputs in _batches(rows):
            lengths = [len(row.ids) for row in chunk]
            if heads and side.outputs is not None:
                logits = logits_of(side.outputs(inputs))
                pairs = zip(logits, lengths, strict=False)  # not the rows that fill up the batch
                self.logits += [row[:length] if of_tokens else row for row, length in pairs]
            if states and side.states is not None:
                found = np.asarray(side.states(inputs))
                self.states += [row[:length] for row, length in zip(found, lengths, strict=False)]


def _batches(rows: Sequence[_Text]) -> Iterator[tuple[Sequence[_Text], dict[str, np.ndarray]]]:
    """Yields texts and their inputs, of few shapes: each is compiled."""
    for first in range(0, len(rows), _TEXTS_AT_ONCE):
        chunk = rows[first : first + _TEXTS_AT_ONCE]
        longest = -(-max(len(row.ids) for row in chunk) // 32) * 32
        longest = min(longest, max(len(row.ids) for row in rows))
        inputs = {name: np.zeros((_TEXTS_AT_ONCE, longest), np.int64) for name in (IDS, MASK, TYPES)}
        inputs[MASK][:, 0] = 1  # the rows that fill up the batch have one token
        for row, text in enumerate(chunk):
            inputs[IDS][row, : len(text.ids)] = text.ids
            inputs[MASK][row, : len(text.ids)] = 1
            inputs[TYPES][row, : len(text.ids)] = text.types
        yield chunk, inputs


def _places(rows: Sequence[_Text], same_tokens: bool) -> list[np.ndarray]:
    """Returns the tokens of each text that are compared."""
    return [
        np.arange(len(row.ids)) if same_tokens else np.asarray([word[0] for word in row.words], np.int64)
        for row in rows
    ]


def _picked(arrays: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([array[place] for array, place in zip(arrays, places, strict=True)])


def _difference(what: str, a: np.ndarray, b: np.ndarray) -> Difference:
    if a.shape != b.shape:
        raise UserError(f"{what}: have shapes {a.shape} and {b.shape}, which cannot be compared.")
    apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    largest = float("nan") if np.isnan(apart).any() else float(apart.max(initial=0.0))
    return Difference(what, len(a), int(np.prod(a.shape[1:])), largest, float(apart.mean()) if apart.size else 0.0)


def _predictions(side: Side, logits: np.ndarray) -> np.ndarray:
    """Returns the class of each vector; of labels that may hold together, and of replaced tokens, which are above 0."""
    if side.head == "replaced_tokens" or (side.head == "sequence_classes" and side.problem == "multi"):
        return logits > 0
    return logits.argmax(axis=-1)


def _differing(
    side: Side,
    texts: Sequence[str],
    rows: Sequence[_Text],
    places: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    equal: np.ndarray,
) -> list[str]:
    """Returns lines on the first predictions that differ: entities, words, or texts."""

    def said(value: Any) -> str:
        if side.head == "replaced_tokens":
            return "replaced" if value else "original"
        if side.head == "vocabulary":
            return repr(side.tokenizer.convert_ids_to_tokens(int(value)))
        if np.ndim(value):
            return ", ".join(label for label, holds in zip(side.labels, value, strict=True) if holds) or "none"
        return side.labels[int(value)] if side.labels else str(int(value))

    lines: list[str] = []
    if places is None:
        for number in np.flatnonzero(~equal).tolist():
            a, b = (said(each[number]) for each in predictions)
            lines.append(f"text {number + 1}: {a} | {b}  ({texts[number][:60]})")
        return _shortened(lines)
    first = 0
    for number, (text, row, here) in enumerate(zip(texts, rows, places, strict=True)):
        found = [dict(zip(here.tolist(), each[first : first + len(here)], strict=True)) for each in predictions]
        first += len(here)
        words = [word for word in row.words if word[0] in found[0]]
        if side.head == "token_classes":
            spans = [_entities(side, words, each) for each in found]
            for start, end in sorted({span[:2] for span in spans[0] ^ spans[1]}):
                a, b = (
                    ", ".join(sorted(kind for *place, kind in each if place == [start, end])) or "none"
                    for each in spans
                )
                lines.append(f"text {number + 1}, {start}-{end}: {a} | {b}  ({text[start:end]})")
            continue
        for token, start, end in words:
            a, b = (said(each[token]) for each in found)
            if a != b:
                lines.append(f"text {number + 1}, {start}-{end}: {a} | {b}  ({text[start:end]})")
    return _shortened(lines)


def _entities(side: Side, words: Sequence[tuple[int, int, int]], found: Mapping[int, Any]) -> set[tuple[int, int, str]]:
    """Returns the entities of a text in characters, each word judged by its first token."""
    tags = [side.labels[int(found[token])] for token, _, _ in words]
    return {(words[first][1], words[last - 1][2], kind) for first, last, kind in entity_spans(tags)}


def _shortened(lines: list[str]) -> list[str]:
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more"]
