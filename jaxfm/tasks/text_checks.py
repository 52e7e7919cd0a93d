"""Checks of labelled texts that several tasks share: what repeats, what contradicts, what is rare, what is too long."""

# E examples

import collections
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxfm.core.data_check import Finding
from jaxfm.data.corpora.preparation_report import MANY_UNKNOWN
from jaxfm.observe.tables import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Shares from which repeated or shared texts are said aloud. A tenth of a split that was trained on raises its score by
# up to a tenth of the errors: it no longer says what a new text would get.
MANY_DUPLICATES, MANY_LEAKS = 0.01, 0.10
RARE = 10  # training examples of a label below which it is hardly learned
MANY_CUT = 0.01  # share of the training examples that are longer than the model reads
_ROWS = 30  # labels in a table
_SHOWN = 60  # characters of a text in a message


class CheckedText(NamedTuple):
    """One example as the checks see it: what the model reads, what it should say, and where it was read."""

    text: str
    label: str
    origin: str


CheckedSplits = Mapping[str, Sequence[CheckedText]]
Differ = Callable[[Collection[str]], bool]


def check_texts(splits: CheckedSplits, what: str, differ: Differ = lambda labels: len(labels) > 1) -> list[Finding]:
    """Checks for texts that occur twice in a split, that are in two splits, and that have two labels.

    Texts are compared without regard to case and white space.

    Args:
      splits: "train" first.
      what: the examples are, in the plural.
      differ: whether labels of one text contradict each other.
    """
    keys = {split: [" ".join(each.text.split()).casefold() for each in texts] for split, texts in splits.items()}
    return [
        _duplicates(splits, keys, what),
        *_leaks(splits, keys, what),
        _contradictions(splits, keys, what, differ),
    ]


def _duplicates(splits: CheckedSplits, keys: Mapping[str, Sequence[str]], what: str) -> Finding:
    counts, examples, level = [], [], "ok"
    for split, texts in splits.items():
        first: dict[str, str] = {}
        repeated = 0
        for key, each in zip(keys[split], texts, strict=True):
            if key in first:
                repeated += 1
                examples.append(f"{each.origin}: as {first[key]}: {shown(each.text)}")
            first.setdefault(key, each.origin)
        if repeated:
            counts.append(f"{split} {repeated:,} of {len(texts):,} ({repeated / len(texts):.1%})")
        level = "warning" if repeated > MANY_DUPLICATES * len(texts) else level
    if not counts:
        return Finding("ok", "duplicates", f"no {what} occur twice in a split")
    message = f"{what} that occur again in their split: {', '.join(counts)}"
    if level == "ok":
        return Finding("ok", "duplicates", message)
    return Finding("warning", "duplicates", message, "keep one of each, or they count several times", tuple(examples))


def _leaks(splits: CheckedSplits, keys: Mapping[str, Sequence[str]], what: str) -> Iterator[Finding]:
    found = False
    names = list(splits)
    for number, later in enumerate(names):
        for earlier in names[:number]:
            origin = dict(
                zip(reversed(keys[earlier]), (each.origin for each in reversed(splits[earlier])), strict=True)
            )
            examples = [
                f"{each.origin}: as {origin[key]}: {shown(each.text)}"
                for key, each in zip(keys[later], splits[later], strict=True)
                if key in origin
            ]
            if examples:
                found = True
                share = len(examples) / len(splits[later])
                yield Finding(
                    "error" if share >= MANY_LEAKS else "warning",
                    "leaks",
                    f"{len(examples):,} of the {len(splits[later]):,} {what} of {later} ({share:.1%}) are in {earlier} "
                    "as well",
                    f"remove them from {earlier}: scores on {later} are too good otherwise",
                    tuple(examples),
                )
    if not found and len(names) > 1:
        yield Finding("ok", "leaks", f"no {what} are in two splits")


def _contradictions(splits: CheckedSplits, keys: Mapping[str, Sequence[str]], what: str, differ: Differ) -> Finding:
    labels: dict[str, dict[str, CheckedText]] = {}
    for split, texts in splits.items():
        for key, each in zip(keys[split], texts, strict=True):
            labels.setdefault(key, {}).setdefault(each.label, each)
    against = [found for found in labels.values() if len(found) > 1 and differ(found.keys())]
    if not against:
        return Finding("ok", "contradictions", f"no two {what} with one text have different labels")
    examples = []
    for found in against:
        one, other, *_ = found.values()
        examples.append(f"{one.origin}: {shown(one.label)}, {other.origin}: {shown(other.label)}: {shown(one.text)}")
    message = f"{what} that have different labels where they occur again: {len(against):,}"
    return Finding("warning", "contradictions", message, "decide on one label for each", tuple(examples))


class LabelCounts(NamedTuple):
    """How often each label occurs in a split, and where first."""

    counts: Mapping[str, int]
    first: Mapping[str, str]

    @classmethod
    def of(cls, found: Sequence[tuple[str, str]]) -> "LabelCounts":
        """Counts (label, origin) pairs."""
        first: dict[str, str] = {}
        for label, origin in found:
            first.setdefault(label, origin)
        return cls(collections.Counter(label for label, _ in found), first)


def label_table(splits: Mapping[str, LabelCounts], title: str, column: str) -> Table:
    """Lays out how often each label occurs in each split, the most frequent first."""
    total: collections.Counter[str] = collections.Counter()
    for split in splits.values():
        total.update(split.counts)
    ranked = [label for label, _ in total.most_common()]
    rows = [(label, *(split.counts.get(label, 0) for split in splits.values())) for label in ranked[:_ROWS]]
    if rest := ranked[_ROWS:]:
        sums = (sum(split.counts.get(label, 0) for label in rest) for split in splits.values())
        rows.append((f"({len(rest):,} others)", *sums))
    return Table(title, (column, *splits), rows)


def check_labels(splits: Mapping[str, LabelCounts], what: str) -> list[Finding]:
    """Checks for labels that training never sees (which it refuses), that are rare there, and that are not scored.

    Args:
      splits: "train" is one of them.
      what: the labels are, in the plural.
    """
    train, findings = splits["train"], []
    for split, found in splits.items():
        unseen = [label for label in found.counts if label not in train.counts]
        if unseen:
            findings.append(
                Finding(
                    "error",
                    "unseen labels",
                    f"{split} has {what} that train has not, which training refuses: {listed(unseen)}",
                    "add training examples of them, or correct the label",
                    tuple(f"{found.first[label]}: {label}" for label in unseen),
                )
            )
    findings = findings or [Finding("ok", "unseen labels", f"train has all {what}")]
    rare = sorted((label for label, count in train.counts.items() if count < RARE), key=lambda one: train.counts[one])
    if rare:
        named = [f"{label} ({train.counts[label]:,})" for label in rare]
        findings.append(
            Finding(
                "warning",
                "rare labels",
                f"fewer than {RARE} training examples have {listed(named)}",
                "label more of them, or join them with a related one",
                tuple(f"{train.first[label]}: {label}" for label in rare),
            )
        )
    else:
        findings.append(Finding("ok", "rare labels", f"each of the {what} has at least {RARE} training examples"))
    for split, found in splits.items():
        absent = [label for label in train.counts if label not in found.counts]
        if absent:
            message = f"{split} has none of {listed(absent)}: its score says nothing of them"
            findings.append(Finding("warning", "labels not scored", message, f"move some of train to {split}"))
    return findings


def check_lengths(
    splits: Mapping[str, np.ndarray], window: int, max_positions: int, consequence: str, longest: Mapping[str, str]
) -> Finding:
    """Checks how many examples are longer than the model reads at once.

    Args:
      splits: split -> tokens [E] of each example, special ones included.
      window: tokens that are read.
      max_positions: of the encoder.
      consequence: of being longer, in words.
      longest: split -> where its longest example is.
    """
    train = splits["train"]
    over = {split: int((lengths > window).sum()) for split, lengths in splits.items()}
    said = ", ".join(f"{split} {count:,} ({count / len(splits[split]):.1%})" for split, count in over.items() if count)
    if not said:
        return Finding("ok", "length", f"all fit the {window} tokens that are read at once")
    message = f"longer than the {window} tokens that are read at once, and so {consequence}: {said}"
    if over["train"] <= MANY_CUT * len(train):
        return Finding("ok", "length", message)
    wanted = -(-int(np.quantile(train, 0.99, method="higher")) // 8) * 8
    if window >= max_positions:
        fix = f"the encoder has {max_positions} positions: shorten or divide them, or take an encoder of longer texts"
    else:
        fix = f"--config.data.row_length={min(wanted, max_positions)}"
    examples = tuple(f"{longest[split]}: {int(splits[split].max()):,} tokens" for split, count in over.items() if count)
    return Finding("warning", "length", message, fix, examples)


def check_unknown(pieces: Mapping[str, Sequence[Sequence[int]]], tokenizer: "PreTrainedTokenizerFast") -> Finding:
    """Checks what share of the pieces of each split is the unknown token."""
    unknown, shares = tokenizer.unk_token_id, {}
    for split, rows in pieces.items():
        total = sum(map(len, rows))
        shares[split] = sum(piece == unknown for row in rows for piece in row) / max(total, 1)
    said = ", ".join(f"{split} {share:.2%}" for split, share in shares.items())
    message = f"share of the tokens that the tokenizer does not know: {said}"
    if max(shares.values()) <= MANY_UNKNOWN:
        return Finding("ok", "unknown tokens", message)
    fix = "the tokenizer does not fit this text: choose other weights (--config.model.init), of its language"
    return Finding("warning", "unknown tokens", message, fix)


def length_row(lengths_E: np.ndarray) -> tuple[int, int, int]:
    """Returns median, 99 % quantile and greatest of the lengths, for a table of sizes."""
    return int(np.median(lengths_E)), int(np.quantile(lengths_E, 0.99, method="higher")), int(lengths_E.max())


LENGTH_COLUMNS = ("tokens, median", "99 % have at most", "longest")


def check_repairs(repairs: Mapping[str, Sequence[str]], broken: Mapping[str, Sequence[str]]) -> Finding:
    """Says what the reader had to change or leave out.

    Args:
      repairs: split -> sentences.
      broken: split -> places of tags that break their scheme.
    """
    said = [f"{split}: {sentence}" for split, sentences in repairs.items() for sentence in sentences]
    if not said:
        return Finding("ok", "reading", "nothing had to be repaired or left out")
    places = tuple(place for split in broken.values() for place in split)
    return Finding("warning", "reading", "; ".join(said), "correct the files, if that is not what they mean", places)


def shown(text: str) -> str:
    """Returns a text in one line, shortened."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 4]} ..."


def listed(names: Sequence[str], most: int = 8) -> str:
    """Returns names with commas between them, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
