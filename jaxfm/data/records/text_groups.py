"""Groups of texts of a source: an anchor and what goes with it. For sentence embeddings, retrieval and reranking."""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.dialogues import DIALOGUE_COLUMNS, DialogueOptions, dialogue_tables
from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.glue import glue_set
from jaxfm.data.records.group_columns import KINDS, LABEL_RULES, ChosenColumns, GroupColumns, choose_columns
from jaxfm.data.records.group_forms import NEGATIVE, NEITHER, POSITIVE, role_of, scores_of, teacher_scores, texts_of
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.registry import are_numbers, open_tables, parse_source
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table
from jaxfm.data.records.targets import is_missing
from jaxfm.errors import UserError, did_you_mean

DIALOGUE = "dialogue:DIR"
_LOOK = 1000  # records that show whether a split has scores


@dataclasses.dataclass(frozen=True, slots=True)
class TextGroup:
    """One group.

    Attributes:
        anchor: the query, premise or question; not blank.
        others: "pairs": the positive, then negatives (0 or more); "scored": the other text; "teacher": the passages,
            the positive first where the source says which it is.
        scores: "scored": one number; "teacher": one for each passage; "pairs": ().
        origin: where it was read: "dir/train.csv:12".
    """

    anchor: str
    others: tuple[str, ...]
    scores: tuple[float, ...]
    origin: str


@dataclasses.dataclass(frozen=True)
class GroupSplit:
    """One split: its groups in the order of the source, and one line for the log."""

    groups: tuple[TextGroup, ...]
    note: str


def read_groups(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: GroupColumns,
    kind: str,
    holdout: float | None = 0.0,
    label_rule: str = "",
    dialogue: DialogueOptions | None = None,
    by: SplitKeys = NO_KEYS,
) -> dict[str, GroupSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source.

    Sources: quickstart (docstrings and the functions they describe), `dialogue:DIR` (what was said and the next turn),
    and all of `jaxfm/data/records/formats/`. In a file every record must have its texts and scores; in a published set
    (tfds:, hf:), which the user cannot repair, those without are left out and counted. A split without scores counts as
    absent where scores are asked for.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has.
      columns: which columns to read.
      kind: what a group is: "pairs" (a positive and any number of negatives), "scored" (another text and how similar
        it is), "teacher" (passages, each with the score of a teacher; see `teacher_scores` for margins).
      holdout: this share of train becomes valid where the source has no valid, None: a share by size (`holdout_share`).
        A hash of the anchor chooses, so all groups of an anchor are on one side; of dialogues, all of a dialogue.
      label_rule: of pairs with a label: "nli" (entailments are positives, contradictions of the same premise its
        negatives), "binary" (1 is a positive, 0 of the same anchor a negative), "all" (labels are not read). Empty:
        there must be no such label.
      dialogue: how a dialogue becomes pairs; None: as DialogueOptions says.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source, split or column, an empty split, a damaged record, a blank text, a score that is not a
        finite number, scores that do not fit the passages, texts or scores that are all the same.
    """
    assert kind in KINDS
    check_source(source, by, splits)
    if label_rule not in LABEL_RULES:
        raise UserError(
            f"task.label_rule={label_rule!r}: {did_you_mean(label_rule, [rule for rule in LABEL_RULES if rule])}"
        )
    wanted = None if splits is None else list(map(require_split, splits))
    found = _open(source, columns, kind, label_rule, dialogue or DialogueOptions(), by)
    held_out = holdout != 0 and "valid" not in found.tables and "train" in found.tables
    present = [name for name in SPLIT_NAMES if name in found.tables or (name == "valid" and held_out)]
    for name in wanted or ():
        if name not in present:
            more = "; ".join(filter(None, (found.listed, *found.left_out)))
            listed = ", ".join(present) or "none of the usual ones"
            raise UserError(f"{source} has no split {name!r}; it has: {listed}{f' ({more})' if more else ''}.")
    wanted = present if wanted is None else wanted
    read: dict[str, list[TextGroup]] = {}
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], units, notes[name] = _read(found, name)
        if name == "train":
            check_training(source, kind, read[name])
            if held_out and not by:
                share = holdout_share(holdout, len(read[name]))
                read["train"], read["valid"] = _held_out(source, kind, read[name], units, share)
                what = "dialogues" if found.is_dialogue else "anchors"
                notes["valid"] = f"; {share:.1%} of train, {what} chosen by a hash"
                notes["train"] += f"; without the {len(read['valid']):,} that are valid"
            notes["train"] += "".join(f"; {reason}" for reason in found.left_out)
    if by:
        divided = divide_source(source, read, by, given=found.tables, holdout=holdout, origin=lambda each: each.origin)
        read = divided.read
        notes = {name: notes.get(name, "") + said for name, said in divided.notes.items()}
    return {
        name: GroupSplit(tuple(read[name]), _note(name, read[name], found, held_out) + notes[name]) for name in wanted
    }


@dataclasses.dataclass(frozen=True)
class _GroupSource:
    """An opened source: the tables of the splits that have what is asked for, and which columns are read."""

    kind: str
    label_rule: str
    tables: Mapping[str, Table]
    chosen: ChosenColumns
    listed: str
    left_out: tuple[str, ...]
    no_score: float | None
    is_dialogue: bool


def _open(
    source: str, columns: GroupColumns, kind: str, label_rule: str, dialogue: DialogueOptions, by: SplitKeys
) -> _GroupSource:
    scheme, rest = parse_source(source, own=(DIALOGUE,))
    glue = glue_set(source)
    if glue is not None and not glue.pair:
        raise UserError(f"{source}: its examples are single texts, not pairs.")
    is_dialogue = scheme == DIALOGUE.partition(":")[0]
    if is_dialogue or scheme == "quickstart":
        if kind != "pairs" or label_rule:
            raise UserError(f"{source}: gives pairs without scores or labels, but {label_rule or kind!r} is asked for.")
        if columns.named():
            raise UserError(f"{source}: has no columns to choose from, but {columns.named()[0]!r} is asked for.")
    if is_dialogue:
        tables = dialogue_tables(rest, dialogue)
    elif scheme == "quickstart":
        from jaxfm.data.records.quickstart_functions import find_functions

        tables = find_functions()
    else:
        names = glue.splits if glue else None
        tables = open_tables(scheme, rest, by_number=are_numbers(columns.named()), names=names, own=(DIALOGUE,))
        tables = by.hide(tables, columns.named())
    opened = {split: tables.splits[split]() for split in SPLIT_NAMES if split in tables.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({tables.found}).")
    if is_dialogue:
        chosen = ChosenColumns(*DIALOGUE_COLUMNS[:2])
    else:
        chosen = choose_columns(next(iter(opened.values())), columns, kind, label_rule, glue)
    no_score = glue.no_label if glue else None
    left_out = {
        split: reason
        for split, table in opened.items()
        if chosen.scores and (reason := _without_scores(table, chosen, no_score))
    }
    kept = {split: table for split, table in opened.items() if split not in left_out}
    said = tuple(f"{split} is left out: {reason}" for split, reason in left_out.items())
    return _GroupSource(kind, label_rule, kept, chosen, tables.found, said, no_score, is_dialogue)


def _without_scores(table: Table, chosen: ChosenColumns, no_score: float | None) -> str:
    """Why a split counts as absent where scores are asked for; "" for one that has them, and for an empty one."""
    for name in chosen.scores:
        if name not in table.columns:
            return f"no column {name!r}"
    looked = 0
    for _, values in table.values(chosen.scores):
        if looked == _LOOK or not any(is_missing(value, "regression", None, no_score) for value in values):
            break
        looked += 1
    else:
        return "no scores" if looked else ""
    return f"no scores in its first {_LOOK:,} records" if looked == _LOOK else ""


class _Row:
    """The parts of one record."""

    def __init__(self, chosen: ChosenColumns, origin: str, values: Sequence[Any]) -> None:
        """Reads the texts; raises UserError for what is not text."""
        self.origin = origin
        at = 2 + len(chosen.negatives)
        self.scores = tuple(zip(chosen.scores, values[at : at + len(chosen.scores)], strict=True))
        self.label = values[-1] if chosen.label else None
        anchors, is_list = texts_of(values[0], chosen.anchor, origin)
        if is_list:
            raise UserError(f"{origin}: a list of texts in {chosen.anchor!r}, but a group has one anchor.")
        self.anchor = anchors[0] if anchors else ""
        self.positives, self.positive_is_list = texts_of(values[1], chosen.positive, origin)
        self.negatives: list[str] = []
        self.blank = "" if self.anchor.strip() else chosen.anchor
        if not self.positives or not all(text.strip() for text in self.positives):
            self.blank = self.blank or chosen.positive
        for column, value in zip(chosen.negatives, values[2:at], strict=True):
            texts, is_list = texts_of(value, column, origin)
            # An empty cell in one of several columns is a group with fewer negatives; in a list it is a mistake.
            texts = texts if is_list else [text for text in texts if text]
            if not all(text.strip() for text in texts):
                self.blank = self.blank or column
            self.negatives += texts


def _read(found: _GroupSource, split: str) -> tuple[list[TextGroup], list[str], str]:
    """Reads a split; also each group's unit, which a holdout keeps whole, and what the note says of texts left out."""
    table = found.tables[split]
    chosen = found.chosen.present_in(table)
    make: Mapping[str, Callable[[_Row], Iterator[TextGroup]]] = {
        "pairs": _pairs,
        "scored": lambda row: _scored(row),
        "teacher": lambda row: _taught(row, chosen),
    }
    columns = (*chosen.all, DIALOGUE_COLUMNS[2]) if found.is_dialogue else chosen.all
    labelled = _LabelledPairs(found.label_rule, chosen.label, table.class_names.get(chosen.label))
    groups: list[TextGroup] = []
    units: list[str] = []
    no_text = no_score = 0
    for origin, values in table.values(columns):
        row = _Row(chosen, origin, values[: len(chosen.all)])
        if row.blank:
            if not table.published:
                raise UserError(f"{origin}: the text in {row.blank!r} is empty. Leave the record out, or correct it.")
            no_text += 1
        elif any(is_missing(value, "regression", None, found.no_score) for _, value in row.scores):
            if not table.published:
                raise UserError(
                    f"{origin}: no number in {' or '.join(map(repr, chosen.scores))}, but others of {split} have one. "
                    "Leave the record out, or correct it."
                )
            no_score += 1
        elif chosen.label:
            labelled.add(row)
        else:
            for group in make[found.kind](row):
                groups.append(group)
                units.append(values[-1] if found.is_dialogue else group.anchor)
    note = f"; {no_text:,} without a text left out" if no_text else ""
    note += f"; {no_score:,} without a score left out" if no_score else ""
    if chosen.label:
        groups = list(labelled.groups())
        units = [group.anchor for group in groups]
        note += labelled.note()
    groups, dropped = _without_false_negatives(found.kind, groups)
    note += f"; {dropped:,} negatives left out that are the positive of their anchor" if dropped else ""
    if not groups:
        raise UserError(f"{table.source}: the split {split!r} is empty: it has no group of texts{note}.")
    return groups, units, note


def _pairs(row: _Row) -> Iterator[TextGroup]:
    for positive in row.positives:
        yield TextGroup(row.anchor, (positive, *row.negatives), (), row.origin)


def _scored(row: _Row) -> Iterator[TextGroup]:
    ((column, value),) = row.scores
    found = scores_of(value, column, row.origin)
    if len(found) != 1 or row.positive_is_list:
        raise UserError(
            f"{row.origin}: a pair has two texts and one score; a list is read where a teacher's scores are."
        )
    yield TextGroup(row.anchor, (row.positives[0],), (found[0],), row.origin)


def _taught(row: _Row, chosen: ChosenColumns) -> Iterator[TextGroup]:
    found = [score for column, value in row.scores for score in scores_of(value, column, row.origin)]
    others = (*row.positives, *row.negatives)
    # A query with no negatives has its passages in one list, of which no one is known to be the positive.
    listed = row.positive_is_list or len(row.scores) > 1
    names = "+".join(map(repr, chosen.scores))
    yield TextGroup(row.anchor, others, teacher_scores(found, len(others), listed, names, row.origin), row.origin)


class _LabelledPairs:
    """Pairs with a label, gathered by anchor: those that are positives get the negatives of their anchor."""

    def __init__(self, rule: str, column: str, names: Sequence[str] | None) -> None:
        """Starts with no pair."""
        self._rule, self._column, self._names = rule, column, names
        self._positives: list[TextGroup] = []
        self._negatives: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {POSITIVE: 0, NEGATIVE: 0, NEITHER: 0}

    def add(self, row: _Row) -> None:
        """Takes one record. Raises UserError for a label that the rule does not know."""
        role = role_of(row.label, self._rule, self._names, self._column, row.origin)
        self._counts[role] += 1
        if role == POSITIVE:
            self._positives += _pairs(row)
        elif role == NEGATIVE:
            self._negatives.setdefault(row.anchor, []).extend(row.positives)

    def groups(self) -> Iterator[TextGroup]:
        """Yields a group for each positive pair."""
        for group in self._positives:
            more = dict.fromkeys(self._negatives.get(group.anchor, ()))
            yield dataclasses.replace(group, others=(*group.others, *more))

    def note(self) -> str:
        """Returns what became of the labels."""
        unused = set(self._negatives) - {group.anchor for group in self._positives}
        lost = sum(len(self._negatives[anchor]) for anchor in unused)
        counts = self._counts
        return (
            f"; by task.label_rule={self._rule} of {self._column!r}: {counts[POSITIVE]:,} positives, "
            f"{counts[NEGATIVE]:,} negatives ({lost:,} of them of anchors without a positive, left out), "
            f"{counts[NEITHER]:,} neither, left out"
        )


def _without_false_negatives(kind: str, groups: list[TextGroup]) -> tuple[list[TextGroup], int]:
    """Leaves out negatives that are a positive of the same anchor, in any group of the split; also their number."""
    if kind != "pairs" or all(len(group.others) == 1 for group in groups):
        return groups, 0
    positives: dict[str, set[str]] = {}
    for group in groups:
        positives.setdefault(group.anchor, {group.anchor}).add(group.others[0])
    kept = []
    dropped = 0
    for group in groups:
        others = (group.others[0], *(text for text in group.others[1:] if text not in positives[group.anchor]))
        dropped += len(group.others) - len(others)
        kept.append(group if len(others) == len(group.others) else dataclasses.replace(group, others=others))
    return kept, dropped


def check_training(source: str, kind: str, groups: Sequence[TextGroup]) -> None:
    """Raises UserError for groups from which nothing can be learned."""
    texts = {text for group in groups for text in (group.anchor, *group.others)}
    if len(texts) == 1:
        raise UserError(f"{source}: all texts of its {len(groups):,} groups are {texts.pop()!r:.80}: nothing to learn.")
    if kind == "pairs":
        positives = {group.others[0] for group in groups}
        if len(positives) == 1 and all(len(group.others) == 1 for group in groups):
            raise UserError(
                f"{source}: the positive of all {len(groups):,} pairs is {positives.pop()!r:.80}, and there are no "
                "negatives: no text can be told from another. Give other texts, or columns of negatives "
                "(task.negative_columns)."
            )
    elif all(len(set(group.scores)) == 1 for group in groups) and len({group.scores[0] for group in groups}) == 1:
        raise UserError(
            f"{source}: all scores of its {len(groups):,} groups are {groups[0].scores[0]:g}: nothing to learn."
        )


def _held_out(
    source: str, kind: str, groups: Sequence[TextGroup], units: Sequence[str], share: float
) -> tuple[list[TextGroup], list[TextGroup]]:
    chosen = choose_held_out(units, [group.scores[0] if kind == "scored" else "group" for group in groups], share)
    if not any(chosen):
        raise UserError(
            f"{source}: it has no split 'valid', and none of the {len(groups):,} training groups can be held out: "
            "there are too few anchors. Give more, a file of validation groups, or config.data.holdout=0 for none."
        )
    sides: tuple[list[TextGroup], list[TextGroup]] = ([], [])
    for group, is_held_out in zip(groups, chosen, strict=True):
        sides[is_held_out].append(group)
    return sides


def _note(name: str, groups: Sequence[TextGroup], found: _GroupSource, held_out: bool) -> str:
    table = found.tables["train" if held_out and name == "valid" else name]
    what = {"pairs": "pairs", "scored": "scored pairs", "teacher": "queries with a teacher's scores"}[found.kind]
    said = f"{name}: {len(groups):,} {what} from {table.source} ({'+'.join(found.chosen.all)})"
    said += f"; {len({group.anchor for group in groups}):,} different anchors"
    if found.kind == "scored":
        scores = [group.scores[0] for group in groups]
        mean = sum(score / len(scores) for score in scores)  # the sum of the largest floats is none
        return f"{said}; scores {min(scores):g} to {max(scores):g}, {mean:.4g} on average"
    sizes = [len(group.others) - (found.kind == "pairs") for group in groups]
    noun = "negatives" if found.kind == "pairs" else "passages"
    if max(sizes) == 0:
        return f"{said}; no negatives"
    return f"{said}; {min(sizes)} to {max(sizes)} {noun} each, {statistics.fmean(sizes):.3g} on average"
