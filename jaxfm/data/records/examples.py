"""Labelled texts of a source: one URI, one shape of example, whatever the source is. For classification."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records import targets
from jaxfm.data.records.choice_tasks import with_choices
from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.glue import GlueSet, glue_set
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.label_forms import LabelForm, find_form
from jaxfm.data.records.registry import are_numbers, open_tables, parse_source
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, choose_column, require_columns, text_or_empty
from jaxfm.data.records.target_checks import SET_COLUMNS, check_training, summarise, target_notes
from jaxfm.data.records.targets import Target
from jaxfm.errors import UserError

TEXT_COLUMNS = tuple(
    "text sentence question review content document description comment_text comment tweet utterance query message body"
    .split()
)  # fmt: skip
PAIR_COLUMNS = (
    ("text", "pair"),
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "context"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
)
LABEL_COLUMNS = {
    "single": "label labels class category target sentiment topic intent relation".split(),
    "multi": "labels label classes categories topics tags emotions genres".split(),
    "regression": "score label target rating similarity similarity_score value stars".split(),
}
_LOOK = 1000  # records that show whether a split has labels


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Attributes:
        text: not blank.
        pair: the second text of a pair; None for single texts.
        target: the class ("single"), the classes ("multi", in the order of the source), the score ("regression"), None
            where it is unknown (to be predicted).
        origin: where it was read: "dir/train.csv:12" or "tfds:glue/sst2/train[17]".
    """

    text: str
    pair: str | None
    target: Target | None
    origin: str


@dataclasses.dataclass(frozen=True)
class ExampleSplit:
    """One split.

    Attributes:
        examples: in the order of the source.
        note: one line for the log.
        classes: those that the source declares, in its order, where an example has a 0 or 1 for each of them; otherwise
            empty: the classes are those that occur.
    """

    examples: tuple[Example, ...]
    note: str
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExampleColumns:
    """Which columns hold what (`data.{text,pair,label}_column`); empty finds the usual ones.

    Attributes:
        text: the text, or the first of a pair.
        pair: the second text. Empty: none where `text` is given, else the partner of the usual pairs.
        label: the class, classes or score. With "multi" it may be several columns, A,B,C, each 0 or 1.
    """

    text: str = ""
    pair: str = ""
    label: str = ""


def read_examples(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: ExampleColumns,
    kind: str,
    holdout: float | None = 0.0,
    by: SplitKeys = NO_KEYS,
) -> dict[str, ExampleSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source.

    Sources: quickstart, and all of `jaxfm/data/records/formats/`. A split whose examples have no labels counts as
    absent. In a file every record must have text and label; in a published set (tfds:, hf:), which the user cannot
    repair, those without are left out and counted.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has, of which "train" must be one.
      columns: which columns to read.
      kind: what the target of an example is: "single" (a class), "multi" (any number of classes), "regression".
      holdout: this share of train becomes valid where the source has no labelled split of that name, None: a share
        by size (`holdout_share`); see `choose_held_out`.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source, split or column, a split that is empty or without labels, a damaged record, a blank
        text, a target that is missing or of another kind, training targets that are all the same.
    """
    assert kind in targets.KINDS
    check_source(source, by, splits)
    wanted = [] if splits is None else list(map(require_split, splits))
    found = _open(source, columns, kind, by)
    present = found.split_names(holdout)
    if splits is None:
        wanted = [*present] if "train" in present else ["train"]  # refused below, with the reason
    held_out = "valid" in present and "valid" not in found.tables
    for name in wanted:
        if name not in present:
            listed = ", ".join(present) or "none of the usual ones"
            more = "; ".join(filter(None, (found.splits_found, *found.left_out)))
            raise UserError(f"{source} has no split {name!r}; it has: {listed}{f' ({more})' if more else ''}.")
    found = _with_form(found)
    read: dict[str, list[Example]] = {}
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], notes[name] = _read(found, name)
    if by:
        divided = divide_source(
            source,
            read,
            by,
            given=found.tables,
            holdout=holdout,
            origin=lambda example: example.origin,
            targets=lambda examples: [example.target for example in examples],
        )
        read = divided.read
        notes = {name: notes.get(name, "") + said for name, said in divided.notes.items()}
    elif held_out and "train" in read:
        share = holdout_share(holdout, len(read["train"]))
        read["train"], read["valid"] = _held_out(source, read["train"], share)
        notes["valid"] = f"; {share:.1%} of the examples of train, of every class, chosen by a hash of their text"
        notes["train"] += f"; without the {len(read['valid']):,} that are valid"
    if "train" in read:
        known = [example.target for example in read["train"] if example.target is not None]
        check_training(source, kind, ",".join(found.labels), known, found.tables["train"].columns)
        said = (found.form.note, *target_notes(known, found.form.classes), *found.left_out)
        notes["train"] += "".join(f"; {note}" for note in said if note)
    return {
        name: ExampleSplit(
            tuple(read[name]), _note(name, read[name], found, held_out) + notes[name], found.form.classes
        )
        for name in wanted
    }


@dataclasses.dataclass(frozen=True)
class _LabelledSource:
    """An opened source: the tables with labels, which columns to read and how, what is left out and why."""

    source: str
    kind: str
    tables: Mapping[str, Table]
    text: str
    pair: str
    labels: tuple[str, ...]
    no_label: float | None
    splits_found: str
    left_out: tuple[str, ...]
    form: LabelForm

    def split_names(self, holdout: float | None) -> tuple[str, ...]:
        """Those with labels, and valid where it is held out of train."""
        names = {*self.tables, *(("valid",) if holdout != 0 and "train" in self.tables else ())}
        return tuple(name for name in SPLIT_NAMES if name in names)

    def is_missing(self, table: Table, values: Sequence[Any]) -> bool:
        """Whether the values of the label columns mean that the example has no label."""
        return any(
            targets.is_missing(value, self.kind, table.class_names.get(column), self.no_label)
            for column, value in zip(self.labels, values, strict=True)
        )

    def target(self, table: Table, values: Sequence[Any], origin: str) -> Target:
        """The target of an example with these values of the label columns."""
        column, *more = self.labels
        if more:
            return targets.marked_of(values, self.labels, origin)
        value = values[0]
        if self.kind == "regression":
            return targets.score_of(value, column, origin)
        if self.kind == "multi":
            return self.form.classes_of(value, origin)
        return targets.class_of(value, table.class_names.get(column), column, origin)


def _open(source: str, columns: ExampleColumns, kind: str, by: SplitKeys) -> _LabelledSource:
    glue = glue_set(source)
    asked = (columns.text, columns.pair, *columns.label.split(","))
    found = by.hide(_tables(source, columns, glue), asked)
    opened = {split: found.splits[split]() for split in SPLIT_NAMES if split in found.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({found.found}).")
    first = next(iter(opened.values()))
    if glue:
        columns = ExampleColumns(
            columns.text or glue.text,
            columns.pair or ("" if columns.text else glue.pair),
            columns.label or glue.label,
        )
    text, pair = _choose_texts(first, columns)
    labels = _choose_labels(first, columns.label, kind)
    for name in {text, pair} & set(labels):
        raise UserError(f"{first.source}: the column {name!r} is to be both text and label. {SET_COLUMNS}")
    form = LabelForm(labels[0], "columns", labels if len(labels) > 1 else ())
    every = _LabelledSource(
        source, kind, opened, text, pair, labels, glue.no_label if glue else None, found.found, left_out=(), form=form
    )  # fmt: skip
    left_out = {split: reason for split, table in opened.items() if (reason := _without_labels(every, table))}
    return dataclasses.replace(
        every,
        tables={split: table for split, table in opened.items() if split not in left_out},
        left_out=tuple(f"{split} is left out: {reason}" for split, reason in left_out.items()),
    )


def _with_form(found: _LabelledSource) -> _LabelledSource:
    """Adds how the classes of an example are written, found on all splits together."""
    if found.kind != "multi" or len(found.labels) > 1:
        return found
    column = ",".join(found.labels)
    names = next((table.class_names[column] for table in found.tables.values() if column in table.class_names), None)
    return dataclasses.replace(found, form=find_form(_label_values(found), column, names))


def _label_values(found: _LabelledSource) -> Iterator[tuple[str, Any]]:
    """Yields where each label of every split was read, and the label."""
    for table in found.tables.values():
        for origin, values in table.values(found.labels):
            if not found.is_missing(table, values):
                yield origin, values[0]


def _tables(source: str, columns: ExampleColumns, glue: GlueSet | None) -> Tables:
    scheme, rest = parse_source(source)
    if scheme == "quickstart":
        from jaxfm.data.records.docstring_packages import find_packages

        return find_packages()
    by_number = are_numbers((columns.text, columns.pair, *columns.label.split(",")))
    return with_choices(open_tables(scheme, rest, by_number=by_number, names=glue.splits if glue else None))


def _choose_texts(table: Table, columns: ExampleColumns) -> tuple[str, str]:
    """The columns of the text and of its partner, "" for single texts."""
    unused = [name for name in table.columns if name not in (columns.label, columns.pair)]
    if columns.text and columns.text == columns.pair:
        raise UserError(f"data.text_column and data.pair_column are both {columns.text!r}. {SET_COLUMNS}")
    pair = choose_column(table.columns, columns.pair, (), "pair", table.source) if columns.pair else ""
    if columns.text:
        return choose_column(table.columns, columns.text, (), "text", table.source), pair
    if pair:
        usual = dict.fromkeys((*TEXT_COLUMNS, *(first for first, _ in PAIR_COLUMNS)))
        return choose_column(unused, "", tuple(usual), "text", table.source), pair
    pairs = [both for both in PAIR_COLUMNS if set(both) <= set(unused)]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        several = " and ".join("+".join(both) for both in pairs)
        raise UserError(f"{table.source}: {several} could both be the pair of texts. {SET_COLUMNS}")
    return choose_column(unused, "", TEXT_COLUMNS, "text", table.source), ""


def _choose_labels(table: Table, asked: str, kind: str) -> tuple[str, ...]:
    if "," in asked and asked not in table.columns:
        names = tuple(name.strip() for name in asked.split(","))
        if kind != "multi":
            raise UserError(
                f"data.label_column={asked!r}: several label columns, each 0 or 1, are for several classes an example "
                f"(multi-label), but this is {kind!r}."
            )
        require_columns(table.columns, names, f"{table.source}: data.label_column={asked!r}")
        return names
    return (choose_column(table.columns, asked, LABEL_COLUMNS[kind], "label", table.source),)


def _without_labels(found: _LabelledSource, table: Table) -> str:
    """Why a split counts as unlabelled; "" for one with labels, and for an empty one, which reading will find."""
    for name in found.labels:
        if name not in table.columns:
            return f"no column {name!r}"
    require_columns(table.columns, filter(None, (found.text, found.pair)), table.source)
    looked = 0
    for _, values in itertools.islice(table.values(found.labels), _LOOK):
        if not found.is_missing(table, values):
            return ""
        looked += 1
    return "no labels" + (f" in its first {_LOOK:,} examples" if looked == _LOOK else "") if looked else ""


def _read(found: _LabelledSource, split: str) -> tuple[list[Example], str]:
    """Reads a split; also what its note says of examples left out."""
    table = found.tables[split]
    texts = tuple(filter(None, (found.text, found.pair)))
    examples: list[Example] = []
    no_text = no_label = trimmed = 0
    for origin, values in table.values((*texts, *found.labels)):
        text, *pair = (
            text_or_empty(value, column, origin) for column, value in zip(texts, values[: len(texts)], strict=True)
        )  # fmt: skip
        labels = values[len(texts) :]
        blank = next((column for column, value in zip(texts, (text, *pair), strict=True) if not value.strip()), None)
        if blank is not None:
            if not table.published:
                raise UserError(f"{origin}: the text in {blank!r} is empty. Leave the example out, or correct it.")
            no_text += 1
            continue
        if found.is_missing(table, labels):
            if not table.published:
                raise UserError(
                    f"{origin}: no label in {' or '.join(map(repr, found.labels))}, but other examples of {split} have "
                    "one. Leave the example out, or correct it."
                )
            no_label += 1
            continue
        trimmed += any(isinstance(value, str) and value != value.strip() for value in labels)
        examples.append(Example(text, pair[0] if pair else None, found.target(table, labels, origin), origin))
    if not examples:
        raise UserError(f"{table.source}: the split {split!r} is empty: it has no example.")
    note = f"; {no_text:,} without a text left out" if no_text else ""
    note += f"; {no_label:,} without a label left out" if no_label else ""
    if found.kind != "regression" and trimmed:
        note += f"; white space around {trimmed:,} labels is left out"
    return examples, note


def _held_out(source: str, examples: list[Example], holdout: float) -> tuple[list[Example], list[Example]]:
    chosen = choose_held_out(
        [example.text for example in examples], [example.target for example in examples], holdout
    )  # fmt: skip
    if not any(chosen):
        raise UserError(
            f"{source}: it has no split 'valid', and none of the {len(examples):,} training examples can be held out: "
            "each is the only one of its class, or all have one text. Give more, a file of validation examples, or "
            "config.data.holdout=0 for no validation."
        )
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example, is_held_out in zip(examples, chosen, strict=True):
        sides[is_held_out].append(example)
    return sides


def _note(name: str, examples: Sequence[Example], found: _LabelledSource, held_out: bool) -> str:
    texts = "+".join(filter(None, (found.text, found.pair)))
    read_from = found.tables["train" if held_out and name == "valid" else name].source
    said = summarise([example.target for example in examples if example.target is not None])
    return f"{name}: {len(examples):,} examples from {read_from} ({texts} -> {','.join(found.labels)}); {said}"
