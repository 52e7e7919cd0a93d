"""Checks of groups of texts before training: sizes, repeats, texts in two splits, length, unknown tokens."""

# M groups

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.records.text_groups import TextGroup
from jaxfm.data.text.tokenization import encode_texts
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.text_checks import LENGTH_COLUMNS, CheckedText, length_row, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Groups = Mapping[str, Sequence[TextGroup]]
_MANY_EQUAL = 0.01  # share of the pairs whose two texts are the same


def check_groups(
    groups: Groups, tokenizer: "PreTrainedTokenizerFast", prompts: tuple[str, str], window: int, max_positions: int
) -> DataCheck:
    """Runs all checks.

    Args:
      groups: of each split, "train" first.
      tokenizer: of the run.
      prompts: put before anchors and before all other texts.
      window: tokens of a text that are read.
      max_positions: of the encoder.
    """
    query, document = prompts
    pieces = {
        split: encode_texts(
            tokenizer,
            [text for each in found for text in (query + each.anchor, *(document + other for other in each.others))],
        )
        for split, found in groups.items()
    }
    added = tokenizer.num_special_tokens_to_add(pair=False)
    lengths = {split: np.asarray([len(row) + added for row in rows], np.int64) for split, rows in pieces.items()}
    origins = {
        split: [each.origin for each in found for _ in range(1 + len(each.others))] for split, found in groups.items()
    }
    longest = {split: origins[split][int(found.argmax())] for split, found in lengths.items()}
    texts = {
        split: [CheckedText(f"{each.anchor}\t{each.others[0]}", _label(each), each.origin) for each in found]
        for split, found in groups.items()
    }
    sizes = [
        (split, len(found), round(float(np.mean([len(each.others) for each in found])), 2), *length_row(lengths[split]))
        for split, found in groups.items()
    ]
    table = Table("Splits", ("split", "groups", "texts beside the anchor", *LENGTH_COLUMNS), sizes)
    findings = (
        *text_checks.check_texts(texts, "pairs"),
        check_equal(groups),
        check_anchors(groups),
        text_checks.check_lengths(lengths, window, max_positions, "cut (their ends are not read)", longest),
        text_checks.check_unknown(pieces, tokenizer),
    )
    return DataCheck((table,), findings)


def check_equal(groups: Groups) -> Finding:
    """Checks for pairs whose two texts are the same, from which nothing can be learned."""
    found = [
        f"{each.origin}: {shown(each.anchor)}"
        for split in groups.values()
        for each in split
        if each.others[0].strip() == each.anchor.strip()
    ]
    total = sum(map(len, groups.values()))
    if len(found) <= _MANY_EQUAL * total:
        return Finding("ok", "equal texts", f"{len(found):,} of {total:,} pairs have two equal texts")
    message = f"{len(found):,} of {total:,} pairs have two equal texts"
    return Finding("warning", "equal texts", message, "leave them out: nothing is learned from them", tuple(found))


def check_anchors(groups: Groups) -> Finding:
    """Checks for anchors of training that a later split has too."""
    trained = {each.anchor for each in groups.get("train", ())}
    shares = {
        split: [each for each in found if each.anchor in trained] for split, found in groups.items() if split != "train"
    }
    said = ", ".join(
        f"{split} {len(each):,} ({len(each) / len(groups[split]):.1%})" for split, each in shares.items() if each
    )
    if not said:
        return Finding("ok", "anchors", "no anchor of another split is in train")
    fix = "divide by anchor, not by pair: scores are too good otherwise"
    places = tuple(f"{each.origin}: {shown(each.anchor)}" for found in shares.values() for each in found)
    level = "warning" if any(len(each) > 0.1 * len(groups[split]) for split, each in shares.items()) else "ok"
    return Finding(level, "anchors", f"groups whose anchor is in train as well: {said}", fix, places)


def _label(group: TextGroup) -> str:
    return f"{group.scores[0]:g}" if group.scores else ""
