"""Checks of pairs of texts before training: sizes, repeats, targets that copy their source, length, unknown tokens."""

# E examples

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.records.text_pairs import TextPair
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.seq2seq.encoding import EncodedPairs
from jaxfm.tasks.seq2seq.spec import Seq2SeqSpec
from jaxfm.tasks.seq2seq.texts import text_of
from jaxfm.tasks.text_checks import CheckedText, length_row, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_MANY_COPIES = 0.2  # share of the training targets that are their source: the model may learn to copy


def check_pairs(
    spec: Seq2SeqSpec,
    pairs: Mapping[str, Sequence[TextPair]],
    lengths: Mapping[str, np.ndarray],
    encoded: Mapping[str, EncodedPairs],
    tokenizer: "PreTrainedTokenizerFast",
) -> DataCheck:
    """Runs all checks.

    Args:
      spec: how texts are read.
      pairs: split -> pairs, "train" first.
      lengths: split -> tokens of sources and of targets, int64 [E, 2].
      encoded: split -> the same pairs as tokens.
      tokenizer: of the texts.
    """
    texts = {
        split: [CheckedText(each.source, each.targets[0], each.origin) for each in found]
        for split, found in pairs.items()
    }
    rows = [
        (split, len(pairs[split]), *length_row(found[:, 0]), *length_row(found[:, 1]))
        for split, found in lengths.items()
    ]
    columns = ("split", "pairs", *(f"{side}, {what}" for side in ("source", "target") for what in _LENGTHS))
    # That one source has several right targets is usual.
    findings = (
        *text_checks.check_texts(texts, "sources", lambda targets: False),
        _copies(pairs),
        _cut(spec, pairs, encoded),
        _lost(pairs, tokenizer),
        text_checks.check_unknown(
            {split: [*found.sources, *found.targets] for split, found in encoded.items()}, tokenizer
        ),
    )
    return DataCheck((Table("Splits (tokens)", columns, rows),), findings)


_LENGTHS = ("median", "99 %", "longest")


def _copies(pairs: Mapping[str, Sequence[TextPair]]) -> Finding:
    """Checks for targets that are their source."""
    train = pairs["train"]
    same = [each for each in train if each.source == each.targets[0]]
    message = f"training targets that are their source: {len(same):,} of {len(train):,}"
    if len(same) <= _MANY_COPIES * len(train):
        return Finding("ok", "copies", message)
    places = tuple(f"{each.origin}: {shown(each.source)}" for each in same)
    return Finding("warning", "copies", message, "leave them out, unless copying is the task", places)


def _cut(spec: Seq2SeqSpec, pairs: Mapping[str, Sequence[TextPair]], encoded: Mapping[str, EncodedPairs]) -> Finding:
    """Checks how many sources are longer than what is read."""
    said = ", ".join(f"{split} {int(found.cut.sum()):,}" for split, found in encoded.items() if found.cut.any())
    if not said:
        return Finding("ok", "length", f"all sources fit the {spec.max_source} tokens that are read")
    message = f"sources of more than {spec.max_source} tokens, whose end is cut: {said}"
    if encoded["train"].cut.mean() <= text_checks.MANY_CUT:
        return Finding("ok", "length", message)
    if spec.window < spec.encoder.max_positions:
        fix = f"--config.data.row_length, at most {spec.encoder.max_positions}"
    else:
        fix = f"the encoder has {spec.encoder.max_positions} positions: shorten the sources, or take another encoder"
    places = tuple(each.origin for each, cut in zip(pairs["train"], encoded["train"].cut, strict=True) if cut)
    return Finding("warning", "length", message, fix, places)


def _lost(pairs: Mapping[str, Sequence[TextPair]], tokenizer: "PreTrainedTokenizerFast") -> Finding:
    """Checks for targets that the tokenizer cannot write: case and spaces that it drops."""
    seen = list(pairs["train"][:2000])
    changed = []
    for each in seen:
        again = text_of(tokenizer, tokenizer(each.targets[0], add_special_tokens=False)["input_ids"])
        if again != " ".join(each.targets[0].split()):
            changed.append(f"{each.origin}: {shown(each.targets[0])} becomes {shown(again)}")
    message = f"targets that the tokenizer changes (case, spaces, signs): {len(changed):,} of {len(seen):,}"
    if not changed:
        return Finding("ok", "written as it is", message)
    fix = "scores compare with the references as they are: a tokenizer that keeps all is train:bpe/SIZE"
    return Finding("warning", "written as it is", message, fix, tuple(changed))
