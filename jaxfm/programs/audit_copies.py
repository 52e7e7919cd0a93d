"""Records that repeat others: inside their split, in train as well, or with another label."""

# N records

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.core.labels import IMAGE, LABEL, PAIR, TAGS, TEXT, TOKENS, LabelledRecord
from jaxfm.data.corpora.near_copies import find_copies
from jaxfm.data.corpora.overlap import LEAST_WORDS, TrainingText
from jaxfm.observe.tables import Cell, Table
from jaxfm.programs.audit_records import TRAIN, Records

EXACT, NEAR, CONFLICT, LEAK = "copy", "near copy", "other label", "in train"


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A record that repeats another one.

    Attributes:
      kind: EXACT or NEAR of a record of its split, LEAK (or a near copy) of a record of train, CONFLICT: a copy with
        another label.
      near: whether the two are near copies, not copies.
      split: of the record.
      record: its number.
      origin: where it was read.
      of_split: the split of the one that it repeats.
      of_record: its number.
      of_origin: where that was read.
      labels: of both.
    """

    kind: str
    near: bool
    split: str
    record: int
    origin: str
    of_split: str
    of_record: int
    of_origin: str
    labels: tuple[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class FoundCopies:
    """What was found.

    Attributes:
      repeated: of all splits, in order.
      groups: int [N] of the records of train: near copies of one another have one number.
      overlaps: split -> share of its longer texts of which thirteen words in a row are in a text of train.
    """

    repeated: tuple[Repeated, ...]
    groups: np.ndarray
    overlaps: Mapping[str, float]

    def count(self, kind: str, split: str, near: bool | None = None) -> int:
        """Returns how many records of a split repeat others."""
        return sum(
            each.kind == kind and each.split == split and near in (None, each.near) for each in self.repeated
        )  # fmt: skip


def text_of(record: LabelledRecord) -> str:
    """Returns a record in one text; of an image what its file holds, as a hash."""
    row = record.row
    if TOKENS in row:
        return " ".join(row[TOKENS])
    if IMAGE in row:
        return row[IMAGE].digest()
    return f"{row[TEXT]} | {row[PAIR]}" if PAIR in row else row[TEXT]


def label_of(record: LabelledRecord) -> str:
    """Returns the label of a record in one text."""
    given = record.row[TAGS] if TAGS in record.row else record.row[LABEL]
    separator = " " if TAGS in record.row else ", "
    return separator.join(given) if isinstance(given, list) else str(given)


def audit_copies(records: Records, *, words: bool) -> FoundCopies:
    """Finds what repeats.

    Args:
      records: split -> records, "train" first.
      words: whether they are tagged sentences: of fewer than `LEAST_WORDS` words these repeat by chance.
    """
    places = [(split, number) for split, own in records.items() for number in range(len(own))]
    texts = {split: [text_of(each) for each in own] for split, own in records.items()}
    copies = find_copies([text for own in texts.values() for text in own], LEAST_WORDS if words else 0)
    labels = [label_of(records[split][number]) for split, number in places]
    found = list[Repeated]()

    def add(kind: str, near: bool, index: int, of: int) -> None:
        (split, number), (of_split, of_number) = places[index], places[of]
        found.append(
            Repeated(
                kind,
                near,
                split,
                number,
                records[split][number].origin,
                of_split,
                of_number,
                records[of_split][of_number].origin,
                (labels[index], labels[of]),
            )
        )

    by_label: dict[tuple[int, str], int] = {}
    seen_exact: dict[tuple[str, int], int] = {}
    seen_near: dict[tuple[str, int], int] = {}
    first_of: dict[int, int] = {}
    for index, (split, _) in enumerate(places):
        exact, near = int(copies.exact[index]), int(copies.near[index])
        if (split, exact) in seen_exact:
            add(EXACT, False, index, seen_exact[split, exact])
        elif (split, near) in seen_near:
            add(NEAR, True, index, seen_near[split, near])
        if split != TRAIN and (TRAIN, exact) in seen_exact:
            add(LEAK, False, index, seen_exact[TRAIN, exact])
        elif split != TRAIN and (TRAIN, near) in seen_near:
            add(LEAK, True, index, seen_near[TRAIN, near])
        if exact in first_of and (exact, labels[index]) not in by_label:
            add(CONFLICT, False, index, first_of[exact])
        first_of.setdefault(exact, index)
        by_label.setdefault((exact, labels[index]), index)
        seen_exact.setdefault((split, exact), index)
        seen_near.setdefault((split, near), index)
    train = copies.near[: len(records[TRAIN])]
    return FoundCopies(tuple(found), train, _overlaps(texts) if not _are_images(records) else {})


def _overlaps(texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    trained = TrainingText(texts[TRAIN])
    return {split: trained.overlap(own).share for split, own in texts.items() if split != TRAIN}


def _are_images(records: Records) -> bool:
    return any(IMAGE in own[0].row for own in records.values() if own)


def copies_table(found: FoundCopies, records: Records) -> Table:
    """Lays out how many records of each split repeat others."""
    rows: list[tuple[Cell, ...]] = []
    for split, own in records.items():
        other = split != TRAIN
        rows.append(
            (
                split,
                len(own),
                found.count(EXACT, split),
                found.count(NEAR, split),
                found.count(CONFLICT, split),
                found.count(LEAK, split, near=False) if other else None,
                found.count(LEAK, split, near=True) if other else None,
                found.overlaps.get(split) if other else None,
            )
        )
    columns = ("split", "records", "copies", "near copies", "other label", "in train", "nearly in train", "13 words")
    return Table("Copies", columns, rows, formats={"13 words": ".1%"})


def repeated_table(kind: str, found: FoundCopies, records: Records, most: int, cut: int) -> Table:
    """Lays out the first records that repeat others in this way."""
    own = [each for each in found.repeated if each.kind == kind]
    title = {
        EXACT: "Copies inside a split",
        NEAR: "Near copies inside a split",
        CONFLICT: "One text with two labels",
        LEAK: "Records that are in train as well",
    }[kind]
    counted = collections.Counter(each.split for each in own)
    title += "".join(f", {split} {count:,}" for split, count in counted.items())
    rows = [
        (
            each.origin,
            each.of_origin,
            "near" if each.near else "same",
            *(_cut(label, cut) for label in each.labels),
            _cut(text_of(records[each.split][each.record]), cut),
        )
        for each in own[:most]
    ]
    return Table(title, ("place", "repeats", "text", "label", "label there", "reads"), rows)


def _cut(text: str, most: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
