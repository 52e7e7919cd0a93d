"""Where labelled texts come from: one URI, one shape of example, whatever the source is. For classification."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records import targets
from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.glue import GlueSet, glue_set
from jaxfm.data.records.label_forms import LabelForm, find_form
from jaxfm.data.records.source_hf import find_hf_tables
from jaxfm.data.records.source_records import SPLIT_NAMES, choose_field, parse_source, require_split
from jaxfm.data.records.source_table import Table, Tables, find_table, require_fields
from jaxfm.data.records.source_tfds import find_tfds_tables
from jaxfm.data.records.target_checks import SET_COLUMNS, check_training, summarise, target_notes
from jaxfm.data.records.targets import Target
from jaxfm.errors import UserError

TEXT_FIELDS = tuple(
    "text sentence question review content document description comment_text comment tweet utterance query message body"
    .split()
)  # fmt: skip
PAIR_FIELDS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
)
LABEL_FIELDS = {
    "single": "label labels class category target sentiment topic intent relation".split(),
    "multi": "labels label classes categories topics tags emotions genres".split(),
    "regression": "score label target rating similarity similarity_score value stars".split(),
}
_LOOK = 1000  # records that say whether a split has labels


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One example.

    Attributes:
        text: not blank.
        pair: the second text of a pair; None for single texts.
        target: the class ("single"), the classes ("multi", in the order of the source), the score ("regression"), None
            where nobody knows (to be predicted).
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
        classes: all that the source says there are, in its order, where an example has a 0 or 1 for each of them;
            else empty: the classes are those that occur.
    """

    examples: tuple[Example, ...]
    note: str
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExampleColumns:
    """Which fields hold what (`data.{text,pair,label}_column`); empty finds the usual ones.

    Attributes:
        text: the text, or the first of a pair.
        pair: the second text. Empty: none where `text` is given, else the partner of the usual pairs.
        label: the class, classes or score. With "multi" it may be several fields, A,B,C, each 0 or 1.
    """

    text: str = ""
    pair: str = ""
    label: str = ""


def available_example_splits(
    source: str, columns: ExampleColumns, *, kind: str = "single", holdout: float = 0.0
) -> tuple[str, ...]:
    """Returns which of train, valid and test a source has with labels; `holdout` as in `read_examples`.

    Raises UserError for a source that cannot be had, and for fields that are not there.
    """
    return _open(source, columns, kind).splits(holdout)


def read_examples(
    source: str, splits: Sequence[str] | None, *, columns: ExampleColumns, kind: str, holdout: float = 0.0
) -> dict[str, ExampleSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source.

    Sources: quickstart, csv:, tsv:, jsonl:, parquet:, tfds:, hf:. A split whose examples have no labels counts as not
    there. In a file every record must be right; in a published set (tfds:, hf:), which the user cannot mend, those
    without text or label are left out and counted.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has, of which "train" must be one.
      columns: which fields to read.
      kind: what the target of an example is: "single" (a class), "multi" (any number of classes), "regression".
      holdout: this share of train becomes valid where the source has no labelled split of that name; see
        `choose_held_out`.

    Raises:
      UserError: unknown source, split or field, a split that is empty or without labels, a record that is none, a text
        that is blank, a target that is missing or of another kind, training targets that are all the same.
    """
    assert kind in targets.KINDS
    wanted = [] if splits is None else list(map(require_split, splits))
    found = _open(source, columns, kind)
    there = found.splits(holdout)
    if splits is None:
        wanted = [*there] if "train" in there else ["train"]  # which says below why there is none
    held_out = "valid" in there and "valid" not in found.tables
    for name in wanted:
        if name not in there:
            listed = ", ".join(there) or "none of the usual ones"
            more = "; ".join(filter(None, (found.others, *found.left_out)))
            raise UserError(f"{source} has no split {name!r}; there is: {listed}{f' ({more})' if more else ''}.")
    found = _with_form(found)
    read: dict[str, list[Example]] = {}
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], notes[name] = _read(found, name)
    if held_out and "train" in read:
        read["train"], read["valid"] = _held_out(source, read["train"], holdout)
        notes["valid"] = f"; {holdout:.1%} of the examples of train, of every class, chosen by a hash of their text"
        notes["train"] += f"; without the {len(read['valid']):,} that are valid"
    if "train" in read:
        known = [example.target for example in read["train"] if example.target is not None]
        check_training(source, kind, ",".join(found.labels), known, found.tables["train"].fields)
        said = (found.form.note, *target_notes(known, found.form.classes), *found.left_out)
        notes["train"] += "".join(f"; {note}" for note in said if note)
    return {
        name: ExampleSplit(
            tuple(read[name]), _note(name, read[name], found, held_out) + notes[name], found.form.classes
        )
        for name in wanted
    }


@dataclasses.dataclass(frozen=True)
class _Found:
    """An opened source: the tables with labels, which fields to read and how, what is left out and why."""

    source: str
    kind: str
    tables: Mapping[str, Table]
    text: str
    pair: str
    labels: tuple[str, ...]
    no_label: float | None
    others: str
    left_out: tuple[str, ...]
    form: LabelForm

    def splits(self, holdout: float) -> tuple[str, ...]:
        """The names of the splits there are, with the one that is cut off train."""
        names = {*self.tables, *(("valid",) if holdout and "train" in self.tables else ())}
        return tuple(name for name in SPLIT_NAMES if name in names)

    def is_missing(self, table: Table, values: Sequence[Any]) -> bool:
        """Whether the values of the label fields stand for no label."""
        return any(
            targets.is_missing(value, self.kind, table.class_names.get(field), self.no_label)
            for field, value in zip(self.labels, values, strict=True)
        )

    def target(self, table: Table, values: Sequence[Any], origin: str) -> Target:
        """The target that the values of the label fields say."""
        field, *more = self.labels
        if more:
            return targets.marked_of(values, self.labels, origin)
        value = values[0]
        if self.kind == "regression":
            return targets.score_of(value, field, origin)
        if self.kind == "multi":
            return self.form.classes_of(value, origin)
        return targets.class_of(value, table.class_names.get(field), field, origin)


def _open(source: str, columns: ExampleColumns, kind: str) -> _Found:
    glue = glue_set(source)
    found = _tables(source, columns, glue)
    opened = {split: found.splits[split]() for split in SPLIT_NAMES if split in found.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({found.others}).")
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
        raise UserError(f"{first.place}: the field {name!r} is to be both text and label. {SET_COLUMNS}")
    form = LabelForm(labels[0], "columns", labels if len(labels) > 1 else ())
    every = _Found(
        source, kind, opened, text, pair, labels, glue.no_label if glue else None, found.others, left_out=(), form=form
    )  # fmt: skip
    left_out = {split: reason for split, table in opened.items() if (reason := _without_labels(every, table))}
    return dataclasses.replace(
        every,
        tables={split: table for split, table in opened.items() if split not in left_out},
        left_out=tuple(f"{split} is left out: {reason}" for split, reason in left_out.items()),
    )


def _with_form(found: _Found) -> _Found:
    """Adds how several classes an example are written, which all splits together say."""
    if found.kind != "multi" or len(found.labels) > 1:
        return found
    field = ",".join(found.labels)
    names = next((table.class_names[field] for table in found.tables.values() if field in table.class_names), None)
    return dataclasses.replace(found, form=find_form(_label_values(found), field, names))


def _label_values(found: _Found) -> Iterator[tuple[str, Any]]:
    """Yields where each label of every split was read, and the label."""
    for table in found.tables.values():
        for origin, values in table.records(found.labels):
            if not found.is_missing(table, values):
                yield origin, values[0]


def _tables(source: str, columns: ExampleColumns, glue: GlueSet | None) -> Tables:
    kind, rest = parse_source(source, _FORMS)
    if kind == "quickstart":
        from jaxfm.data.records.docstring_packages import find_packages

        return find_packages()
    if kind in ("tfds", "hf"):
        names = glue.splits if glue else {}
        return find_tfds_tables(rest, names) if kind == "tfds" else find_hf_tables(rest, names)
    numbers = [name for name in (columns.text, columns.pair, *columns.label.split(",")) if name]
    by_number = len(numbers) > 1 and all(re.fullmatch("[0-9]+", name) for name in numbers)
    return find_table(kind, rest, header=kind not in ("csv", "tsv") or not by_number)


def _choose_texts(table: Table, columns: ExampleColumns) -> tuple[str, str]:
    """The fields of the text and of its partner, "" for none."""
    there = [field for field in table.fields if field not in (columns.label, columns.pair)]
    if columns.text and columns.text == columns.pair:
        raise UserError(f"data.text_column and data.pair_column are both {columns.text!r}. {SET_COLUMNS}")
    pair = choose_field(table.fields, columns.pair, (), "pair", table.place) if columns.pair else ""
    if columns.text:
        return choose_field(table.fields, columns.text, (), "text", table.place), pair
    if pair:
        usual = dict.fromkeys((*TEXT_FIELDS, *(first for first, _ in PAIR_FIELDS)))
        return choose_field(there, "", tuple(usual), "text", table.place), pair
    pairs = [both for both in PAIR_FIELDS if set(both) <= set(there)]
    if len(pairs) == 1:
        return pairs[0]
    if pairs:
        several = " and ".join("+".join(both) for both in pairs)
        raise UserError(f"{table.place}: {several} could both be the pair of texts. {SET_COLUMNS}")
    return choose_field(there, "", TEXT_FIELDS, "text", table.place), ""


def _choose_labels(table: Table, asked: str, kind: str) -> tuple[str, ...]:
    if "," in asked and asked not in table.fields:
        names = tuple(name.strip() for name in asked.split(","))
        if kind != "multi":
            raise UserError(
                f"data.label_column={asked!r}: several label columns, each 0 or 1, are for several classes an example "
                f"(multi-label), but this is {kind!r}."
            )
        require_fields(table.fields, names, f"{table.place}: data.label_column={asked!r}")
        return names
    return (choose_field(table.fields, asked, LABEL_FIELDS[kind], "label", table.place),)


def _without_labels(found: _Found, table: Table) -> str:
    """Why a split counts as unlabelled; "" for one with labels, and for an empty one, which reading will find."""
    for field in found.labels:
        if field not in table.fields:
            return f"no field {field!r}"
    require_fields(table.fields, filter(None, (found.text, found.pair)), table.place)
    looked = 0
    for _, values in itertools.islice(table.records(found.labels), _LOOK):
        if not found.is_missing(table, values):
            return ""
        looked += 1
    return "no labels" + (f" in its first {_LOOK:,} examples" if looked == _LOOK else "") if looked else ""


def _read(found: _Found, split: str) -> tuple[list[Example], str]:
    """Reads a split; also what its note says of examples left out."""
    table = found.tables[split]
    texts = tuple(filter(None, (found.text, found.pair)))
    examples: list[Example] = []
    no_text = no_label = trimmed = 0
    for origin, values in table.records((*texts, *found.labels)):
        text, *pair = (
            _text(value, field, origin) for field, value in zip(texts, values[: len(texts)], strict=True)
        )  # fmt: skip
        labels = values[len(texts) :]
        blank = next((field for field, value in zip(texts, (text, *pair), strict=True) if not value.strip()), None)
        if blank is not None:
            if table.strict:
                raise UserError(f"{origin}: the text in {blank!r} is empty. Leave the example out, or mend it.")
            no_text += 1
            continue
        if found.is_missing(table, labels):
            if table.strict:
                raise UserError(
                    f"{origin}: no label in {' or '.join(map(repr, found.labels))}, but other examples of {split} have "
                    "one. Leave the example out, or mend it."
                )
            no_label += 1
            continue
        trimmed += any(isinstance(value, str) and value != value.strip() for value in labels)
        examples.append(Example(text, pair[0] if pair else None, found.target(table, labels, origin), origin))
    if not examples:
        raise UserError(f"{table.place}: the split {split!r} is empty: it has no example.")
    note = f"; {no_text:,} without a text left out" if no_text else ""
    note += f"; {no_label:,} without a label left out" if no_label else ""
    if found.kind != "regression" and trimmed:
        note += f"; white space around {trimmed:,} labels is left out"
    return examples, note


def _text(value: Any, field: str, origin: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{origin}: {value!r:.60} in {field!r} is a {type(value).__name__}, but must be text.")
    if "\0" in value:
        raise UserError(f"{origin}: a NUL byte in {field!r}: this is a binary file, or text in UTF-16; text is UTF-8.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(f"{origin}: the text in {field!r} has half of a surrogate pair, which is no character.")
    return value


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


def _note(name: str, examples: Sequence[Example], found: _Found, held_out: bool) -> str:
    fields = "+".join(filter(None, (found.text, found.pair)))
    place = found.tables["train" if held_out and name == "valid" else name].place
    said = summarise([example.target for example in examples if example.target is not None])
    return f"{name}: {len(examples):,} examples from {place} ({fields} -> {','.join(found.labels)}); {said}"


_FORMS = ("quickstart", "csv:DIR", "tsv:DIR", "jsonl:DIR", "parquet:DIR", "tfds:NAME", "hf:OWNER/NAME")
