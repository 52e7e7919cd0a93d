"""Checks of related entities before training: sizes, repeats, relations and their balance, entities far apart."""

# E pairs

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.records.relation_forms import mark
from jaxfm.data.records.relations import RelationExample
from jaxfm.data.text.markers import MarkedPair
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.text_checks import LENGTH_COLUMNS, CheckedText, LabelCounts, label_table, length_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Examples = Mapping[str, Sequence[RelationExample]]
Marked = Mapping[str, Sequence[MarkedPair]]


def check_pairs(
    examples: Examples,
    marked: Marked,
    tokenizer: "PreTrainedTokenizerFast",
    window: int,
    max_positions: int,
    negative: str,
) -> DataCheck:
    """Runs all checks of pairs of entities.

    Args:
      examples: of each split, "train" first.
      marked: the same as pieces.
      tokenizer: that made them.
      window: tokens that are read.
      max_positions: of the encoder.
      negative: the class of pairs that are not related; "": there is none.
    """
    texts = {
        split: [CheckedText(mark(each.text, each.head, each.tail), str(each.relation), each.origin) for each in found]
        for split, found in examples.items()
    }
    counts = {
        split: LabelCounts.of([(str(each.relation), each.origin) for each in found])
        for split, found in examples.items()
    }
    lengths = {split: np.asarray([each.length for each in found], np.int64) for split, found in marked.items()}
    longest = {split: examples[split][int(found.argmax())].origin for split, found in lengths.items()}
    sizes = [
        (split, len(found), len({each.text for each in found}), *length_row(lengths[split]))
        for split, found in examples.items()
    ]
    tables = (
        Table("Splits", ("split", "pairs", "texts", *LENGTH_COLUMNS), sizes),
        label_table(counts, "Relations", "relation"),
    )
    pieces = {split: [each.ids.tolist() for each in found] for split, found in marked.items()}
    findings = (
        *text_checks.check_texts(texts, "pairs"),
        *text_checks.check_labels(counts, "relations"),
        check_negative(counts["train"], negative, len(examples["train"])),
        check_far(examples, marked, window, max_positions),
        check_edges(examples, marked),
        text_checks.check_lengths(lengths, window, max_positions, "read around their entities only", longest),
        text_checks.check_unknown(pieces, tokenizer),
    )
    return DataCheck(tables, findings)


def check_negative(counts: LabelCounts, negative: str, total: int) -> Finding:
    """Checks that there is a class of pairs that are not related."""
    if negative:
        count = counts.counts.get(negative, 0)
        message = f"{negative!r} says that a pair is not related: {count:,} of {total:,} training pairs"
        return Finding("ok", "negative class", f"{message}; it is left out of the scores")
    return Finding(
        "warning",
        "negative class",
        "no relation is named Other, no_relation or the like: the model gives every pair one of the relations",
        "name the class by --config.task.negative, or make pairs of other entities examples: --config.task.unrelated",
    )


def check_far(examples: Examples, marked: Marked, window: int, max_positions: int) -> Finding:
    """Checks for pairs whose entities are farther apart than the model reads, which training refuses."""
    far = [
        (pair.needed, example.origin)
        for split, found in marked.items()
        for example, pair in zip(examples[split], found, strict=True)
        if pair.needed > window
    ]
    if not far:
        return Finding("ok", "distance", f"both entities of each pair fit the {window} tokens that are read at once")
    most = max(needed for needed, _ in far)
    message = f"pairs whose entities are farther apart than the {window} tokens that are read at once: {len(far):,}"
    return Finding(
        "error",
        "distance",
        message,
        far_fix(most, max_positions),
        tuple(f"{origin}: {needed:,} tokens" for needed, origin in far),
    )


def far_fix(needed: int, max_positions: int) -> str:
    """Returns the nearest way to read entities that are `needed` tokens apart."""
    if needed <= max_positions:
        return f"--config.data.row_length={min(-(-needed // 8) * 8, max_positions)} --config.data.window=0"
    return f"leave them out, or take an encoder of longer texts (this one has {max_positions} positions)"


def check_edges(examples: Examples, marked: Marked) -> Finding:
    """Checks for entities that start or end inside a piece of the tokenizer."""
    places = [
        f"{example.origin}: {mark(example.text, example.head, example.tail)[:80]}"
        for split, found in marked.items()
        for example, pair in zip(examples[split], found, strict=True)
        if pair.inside
    ]
    if not places:
        return Finding("ok", "edges", "no entity starts or ends inside a piece of the tokenizer")
    message = f"entities that start or end inside a piece of the tokenizer, all of which is marked: {len(places):,}"
    return Finding("warning", "edges", message, "look whether their offsets are right", tuple(places))
