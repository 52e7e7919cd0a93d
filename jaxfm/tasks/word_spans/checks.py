"""Checks of entities that may overlap, before training: sizes, repeats, labels, and entities that no span can say."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.text_checks import LENGTH_COLUMNS, CheckedText, LabelCounts, length_row, shown
from jaxfm.tasks.word_spans.spans import entities_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHORT_SENTENCE = 4  # words; shorter ones repeat by chance


def check_nested(
    sentences: Mapping[str, Sequence[TaggedSentence]],
    pieces: Mapping[str, Sequence[Sequence[Sequence[int]]]],
    tokenizer: "PreTrainedTokenizerFast",
    window: int,
    max_positions: int,
    max_width: int,
) -> DataCheck:
    """Runs all checks.

    Args:
      sentences: split -> sentences, "train" first.
      pieces: the pieces of their words.
      tokenizer: that made them.
      window: tokens that are read at once.
      max_positions: of the encoder.
      max_width: most words of a span.
    """
    flat = {split: [[piece for word in words for piece in word] for words in found] for split, found in pieces.items()}
    lengths = {split: np.asarray([2 + len(row) for row in rows], np.int64) for split, rows in flat.items()}
    longest = {split: sentences[split][int(found.argmax())].origin for split, found in lengths.items()}
    types = {
        split: LabelCounts.of([(kind, one.origin) for one in found for _, _, kind in entities_of(one).given])
        for split, found in sentences.items()
    }
    texts = {
        split: [
            CheckedText(" ".join(one.words), str(entities_of(one).given), one.origin)
            for one in found
            if len(one.words) >= SHORT_SENTENCE
        ]
        for split, found in sentences.items()
    }
    findings = (
        *text_checks.check_texts(texts, f"sentences (of at least {SHORT_SENTENCE} words)"),
        *text_checks.check_labels(types, "entity types"),
        check_width(sentences, max_width),
        text_checks.check_lengths(lengths, window, max_positions, "cut into windows", longest),
        text_checks.check_unknown(flat, tokenizer),
    )
    rows = [
        (
            split,
            len(found),
            sum(types[split].counts.values()),
            sum(len(one.overlapping) for one in found),
            *length_row(lengths[split]),
        )
        for split, found in sentences.items()
    ]
    columns = ("split", "sentences", "entities", "inside or across others", *LENGTH_COLUMNS)
    return DataCheck((Table("Splits", columns, rows), text_checks.label_table(types, "Entities", "type")), findings)


def check_width(sentences: Mapping[str, Sequence[TaggedSentence]], max_width: int) -> Finding:
    """Checks for entities of more words than a span has."""
    places, needed, total = [], 0, 0
    for found in sentences.values():
        for one in found:
            for start, end, kind in entities_of(one).in_words:
                total += 1
                if end - start > max_width:
                    needed = max(needed, end - start)
                    places.append(f"{one.origin}: {kind}, {end - start} words: {shown(' '.join(one.words[start:end]))}")
    if not places:
        return Finding("ok", "wide entities", f"none has more than {max_width} words (task.max_width)")
    message = f"entities of more than {max_width} words, which are never found: {len(places):,} of {total:,}"
    return Finding("warning", "wide entities", message, f"set task.max_width={needed} to find all", tuple(places))
