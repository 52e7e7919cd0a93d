"""Checks of labelled texts before training: sizes, repeats, labels and their balance, names that look alike, length."""

# E examples

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding, Lengths
from jaxfm.data.records.examples import Example
from jaxfm.data.text.tokenization import encode_texts
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.label_checks import check_balance, check_names
from jaxfm.tasks.text_checks import LENGTH_COLUMNS, CheckedText, LabelCounts, label_table, length_row, listed, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Examples = Mapping[str, Sequence[Example]]
Pieces = Mapping[str, Sequence[Sequence[int]]]
_SCORES_APART = 0.1  # of the range of training scores: equal texts whose scores differ by more contradict each other


def encode_whole(tokenizer: "PreTrainedTokenizerFast", examples: Examples) -> dict[str, list[list[int]]]:
    """Returns the pieces of each example of each split, of both texts of a pair, nothing cut and nothing added."""
    encoded = {}
    for split, found in examples.items():
        encoded[split] = encode_texts(tokenizer, [each.text for each in found])
        if found[0].pair is not None:
            second = encode_texts(tokenizer, [each.pair or "" for each in found])
            encoded[split] = [first + more for first, more in zip(encoded[split], second, strict=True)]
    return encoded


def token_lengths(tokenizer: "PreTrainedTokenizerFast", examples: Examples, pieces: Pieces) -> dict[str, np.ndarray]:
    """Returns the tokens [E] of each example of each split, special ones included."""
    added = tokenizer.num_special_tokens_to_add(pair=examples["train"][0].pair is not None)
    return {split: np.asarray([len(row) + added for row in rows], np.int64) for split, rows in pieces.items()}


def check_examples(
    kind: str,
    examples: Examples,
    pieces: Pieces,
    tokenizer: "PreTrainedTokenizerFast",
    window: int,
    max_positions: int,
) -> DataCheck:
    """Runs all checks of labelled texts.

    Args:
      kind: "single", "multi" or "regression".
      examples: of each split, "train" first.
      pieces: see `encode_whole`.
      tokenizer: that made them.
      window: tokens that are read.
      max_positions: of the encoder.
    """
    lengths = token_lengths(tokenizer, examples, pieces)
    longest = {split: examples[split][int(found.argmax())].origin for split, found in lengths.items()}
    texts = {
        split: [CheckedText(_text(each), _label(each), each.origin) for each in found]
        for split, found in examples.items()
    }
    sizes = [(split, len(found), *length_row(lengths[split])) for split, found in examples.items()]
    tables = [Table("Splits", ("split", "examples", *LENGTH_COLUMNS), sizes)]
    of_kind: list[Finding]
    if kind == "regression":
        scores = {split: np.asarray([each.target for each in found], np.float64) for split, found in examples.items()}
        rows = [(split, float(each.min()), float(each.mean()), float(each.max())) for split, each in scores.items()]
        tables.append(Table("Scores", ("split", "least", "mean", "greatest"), rows))
        of_kind = [check_range(examples, scores)]
        apart = _SCORES_APART * float(np.ptp(scores["train"]))
        repeats = text_checks.check_texts(texts, "texts", lambda found: _spread(found) > apart)
    else:
        counts = {split: LabelCounts.of(_labels(found)) for split, found in examples.items()}
        tables.append(label_table(counts, "Labels", "label"))
        of_kind = [
            *text_checks.check_labels(counts, "labels"),
            check_balance(counts["train"].counts, len(examples["train"]), kind),
            check_names(counts),
        ]
        repeats = text_checks.check_texts(texts, "texts")
    findings = (
        *repeats,
        *of_kind,
        check_words(examples),
        text_checks.check_lengths(lengths, window, max_positions, "cut (their ends are not read)", longest),
        text_checks.check_unknown(pieces, tokenizer),
    )
    of_splits = {split: Lengths(each, window, False) for split, each in lengths.items()}
    return DataCheck(tuple(tables), findings, of_splits)


def check_range(examples: Examples, scores: Mapping[str, np.ndarray]) -> Finding:
    """Checks for scores outside the range of the training scores."""
    low, high = float(scores["train"].min()), float(scores["train"].max())
    outside = [
        f"{each.origin}: {each.target:g}"
        for split, found in examples.items()
        for each, score in zip(found, scores[split], strict=True)
        if not low <= score <= high
    ]
    if not outside:
        return Finding("ok", "range of scores", f"all are within those of train, {low:g} to {high:g}")
    message = f"scores outside those of train, {low:g} to {high:g}: {len(outside):,}"
    return Finding("warning", "range of scores", message, "look whether they are on one scale", tuple(outside))


def check_words(examples: Examples) -> Finding:
    """Checks for texts without a letter or digit."""
    places = [
        f"{each.origin}: {shown(_text(each))}"
        for found in examples.values()
        for each in found
        if not any(character.isalnum() for character in each.text)
    ]
    if not places:
        return Finding("ok", "empty texts", "each has a letter or a digit")
    message = f"texts without a letter or digit: {len(places):,}"
    return Finding("warning", "empty texts", message, "leave them out, unless signs alone say something", tuple(places))


def _text(example: Example) -> str:
    return example.text if example.pair is None else f"{example.text} | {example.pair}"


def _label(example: Example) -> str:
    target = example.target
    return listed(sorted(target), len(target)) if isinstance(target, tuple) else str(target)


def _labels(examples: Sequence[Example]) -> list[tuple[str, str]]:
    """Returns each label of each example, and where it stands."""
    return [
        (name, each.origin)
        for each in examples
        for name in (each.target if isinstance(each.target, tuple) else (str(each.target),))
    ]


def _spread(labels: Collection[str]) -> float:
    scores = [float(label) for label in labels]
    return max(scores) - min(scores)
