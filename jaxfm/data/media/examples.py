"""Images, or clips of sound, of a source with labels or texts: one shape of example, whatever the source is."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.media.medium import Medium, noun
from jaxfm.data.records import targets
from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.label_forms import LabelForm, find_form
from jaxfm.data.records.registry import are_numbers, open_tables, parse_source
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, choose_column, require_columns, shown, text_or_empty
from jaxfm.data.records.target_checks import summarise, target_notes
from jaxfm.errors import UserError

LABELS = ("none", "single", "multi")
LABEL_COLUMNS = {
    "single": "label labels class category target fine_label cls".split(),
    "multi": "labels label classes categories topics tags attributes".split(),
}
TEXT_COLUMNS = tuple("text caption captions description sentence title txt".split())
_LOOK = 1000  # records that show whether a split has labels
_FEW, _OWN = 20, 0.9  # a column with this share of distinct values, in at least 20 examples, does not hold classes


@dataclasses.dataclass(frozen=True, slots=True)
class MediaExample:
    """One image, or one clip.

    Attributes:
        stored: where it is kept; it is not decoded yet.
        labels: its class ("single"), its classes ("multi", in the order of the source), () where none are read.
        text: its caption; "" where none is read.
        origin: where it was read: "photos/train/cat/1.png", "dir/train.csv:12" or "tfds:cifar10/train[17]".
    """

    stored: Any
    labels: tuple[str, ...]
    text: str
    origin: str


@dataclasses.dataclass(frozen=True)
class MediaSplit:
    """One split.

    Attributes:
        examples: in the order of the source.
        note: one line for the log.
        classes: those that the source declares, in its order, where an example has a 0 or 1 for each of them; otherwise
            empty: the classes are those that occur.
    """

    examples: tuple[MediaExample, ...]
    note: str
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MediaColumns:
    """Which columns hold what (`data.{image,audio,label,text}_column`); empty finds the usual ones.

    Attributes:
        media: paths (relative to the folder of the table), bytes of files, or {"bytes", "path"}.
        label: the class or classes. With "multi" it may be several columns, A,B,C, each 0 or 1.
        text: the caption.
    """

    media: str = ""
    label: str = ""
    text: str = ""


def read_media(
    medium: Medium,
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: MediaColumns | None = None,
    holdout: float | None = 0.0,
    labels: str = "none",
    texts: bool = False,
    by: SplitKeys = NO_KEYS,
) -> dict[str, MediaSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source; decodes nothing.

    Sources: those of the medium, and all of `jaxfm/data/records/formats/`: tables with a column of paths or of bytes.
    In a file every record must have all that
    is asked for; in a published set (tfds:, hf:), which the user cannot repair, those without are left out and counted.
    A split without labels counts as absent where labels are asked for.

    Args:
      medium: what is read.
      source: the URI.
      splits: what to read; None: all that the source has.
      columns: which columns to read; None: the usual ones.
      holdout: this share of train becomes valid where the source has no valid, None: a share by size (`holdout_share`).
        A hash of each file chooses, so equal ones are on one side.
      labels: "none", "single" (each has a class) or "multi" (any number of classes).
      texts: whether each has a text.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source, split or column, an empty split, a damaged record, a path that is absent or leads out
        of its folder, a missing file, label or text, training classes that are all the same.
    """
    assert labels in LABELS
    check_source(source, by, splits)
    wanted = None if splits is None else list(map(require_split, splits))
    found = _open(medium, source, columns or MediaColumns(), labels, texts, by)
    held_out = holdout != 0 and "valid" not in found.tables and "train" in found.tables
    present = [name for name in SPLIT_NAMES if name in found.tables or (name == "valid" and held_out)]
    for name in present[:0] if wanted is None else wanted:
        if name not in present:
            more = "; ".join(filter(None, (found.listed, *found.left_out)))
            said = ", ".join(present) or "none of the usual ones"
            raise UserError(f"{source} has no split {name!r}; it has: {said}{f' ({more})' if more else ''}.")
    if not present:
        raise UserError(f"{source} has no split with labels: {'; '.join(found.left_out)}.")
    wanted = present if wanted is None else wanted
    found = _with_form(found)
    read: dict[str, list[MediaExample]] = {}
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], notes[name] = _read(found, name)
    if "train" in read:
        notes["train"] += "".join(f"; {note}" for note in (*_check_training(found, read["train"]), *found.left_out))
        if held_out and not by:
            share = holdout_share(holdout, len(read["train"]))
            read["train"], read["valid"] = _held_out(found, read["train"], share)
            notes["valid"] = f"; {share:.1%} of train, chosen by a hash of the {medium.many}"
            notes["train"] += f"; without the {len(read['valid']):,} that are valid"
    if by:
        divided = divide_source(
            source,
            read,
            by,
            given=found.tables,
            holdout=holdout,
            origin=lambda example: example.origin,
            targets=lambda examples: [example.labels for example in examples],
        )
        read = divided.read
        notes = {name: notes.get(name, "") + said for name, said in divided.notes.items()}
    return {
        name: MediaSplit(tuple(read[name]), _note(name, read[name], found, held_out) + notes[name], found.form.classes)
        for name in wanted
    }


@dataclasses.dataclass(frozen=True)
class _Source:
    """An opened source: the tables of the splits that have what is asked for, which columns are read and how."""

    medium: Medium
    source: str
    kind: str
    tables: Mapping[str, Table]
    media: str
    labels: tuple[str, ...]
    text: str
    listed: str
    left_out: tuple[str, ...]
    form: LabelForm

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are read."""
        return (self.media, *self.labels, *((self.text,) if self.text else ()))

    def is_missing(self, table: Table, values: Sequence[Any]) -> bool:
        """Whether the values of the label columns mean that there is no label."""
        return any(
            targets.is_missing(value, self.kind, table.class_names.get(column), None)
            for column, value in zip(self.labels, values, strict=True)
        )

    def classes_of(self, table: Table, values: Sequence[Any], origin: str) -> tuple[str, ...]:
        """The classes that go with these values of the label columns."""
        if not self.labels:
            return ()
        column, *more = self.labels
        if more:
            return targets.marked_of(values, self.labels, origin)
        if self.kind == "multi":
            return self.form.classes_of(values[0], origin)
        return (targets.class_of(values[0], table.class_names.get(column), column, origin),)


def _open(medium: Medium, source: str, columns: MediaColumns, kind: str, texts: bool, by: SplitKeys) -> _Source:
    scheme, rest = parse_source(source, medium.forms)
    if scheme in medium.open_own:
        tables = medium.open_own[scheme](rest, kind, texts)
    else:
        by_number = are_numbers((columns.media, columns.text, *columns.label.split(",")))
        tables = open_tables(scheme, rest, by_number=by_number, own=medium.forms)
        tables = by.hide(tables, (columns.media, columns.text, *columns.label.split(",")))
    opened = {split: tables.splits[split]() for split in SPLIT_NAMES if split in tables.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({tables.found}).")
    return _choose(medium, source, opened, tables, columns, kind, texts)


def _choose(
    medium: Medium,
    source: str,
    opened: Mapping[str, Table],
    tables: Tables,
    columns: MediaColumns,
    kind: str,
    texts: bool,
) -> _Source:
    """Chooses the columns, and leaves out the splits without labels."""
    first = next(iter(opened.values()))
    names = first.columns
    media = columns.media or next((name for name in medium.sure_columns if name in names), "")
    media = choose_column(names, media, medium.columns, medium.name, first.source)
    labels = _choose_labels(medium, first, columns.label, kind) if kind != "none" else ()
    text = choose_column(names, columns.text, TEXT_COLUMNS, "text", first.source) if texts else ""
    chosen = [media, *labels, *([text] if text else [])]
    twice = next((name for name in chosen if chosen.count(name) > 1), None)
    if twice:
        raise UserError(
            f"{first.source}: the column {twice!r} is to be two things at once. Set "
            f"data.{medium.name}_column, data.label_column, data.text_column."
        )
    form = LabelForm(labels[0] if labels else "", "columns", labels if len(labels) > 1 else ())
    every = _Source(medium, source, kind, opened, media, labels, text, tables.found, (), form)
    left_out = {split: reason for split, table in opened.items() if (reason := _without_labels(every, table))}
    return dataclasses.replace(
        every,
        tables={split: table for split, table in opened.items() if split not in left_out},
        left_out=tuple(f"{split} is left out: {reason}" for split, reason in left_out.items()),
    )


def _choose_labels(medium: Medium, table: Table, asked: str, kind: str) -> tuple[str, ...]:
    if "," in asked and asked not in table.columns:
        names = tuple(name.strip() for name in asked.split(","))
        if kind != "multi":
            raise UserError(
                f"data.label_column={asked!r}: several label columns, each 0 or 1, are for several classes "
                f"{medium.one} (multi-label), but this is {kind!r}."
            )
        require_columns(table.columns, names, f"{table.source}: data.label_column={asked!r}")
        return names
    return (choose_column(table.columns, asked, LABEL_COLUMNS[kind], "label", table.source),)


def _without_labels(found: _Source, table: Table) -> str:
    """Why a split counts as unlabelled; "" for one with labels, and for an empty one, which reading will find."""
    require_columns(table.columns, filter(None, (found.media, found.text)), table.source)
    for name in found.labels:
        if name not in table.columns:
            return f"no column {name!r}"
    if not found.labels:
        return ""
    looked = 0
    for _, values in itertools.islice(table.values(found.labels), _LOOK):
        if not found.is_missing(table, values):
            return ""
        looked += 1
    return "no labels" + (f" in its first {_LOOK:,} {found.medium.many}" if looked == _LOOK else "") if looked else ""


def _with_form(found: _Source) -> _Source:
    """Adds how classes are written, found on all splits together."""
    column, *more = found.labels or ("",)
    if found.kind != "multi" or more:
        return found
    names = next((table.class_names[column] for table in found.tables.values() if column in table.class_names), None)
    return dataclasses.replace(found, form=find_form(_label_values(found), column, names))


def _label_values(found: _Source) -> Iterator[tuple[str, Any]]:
    """Yields where each label of every split was read, and the label."""
    for table in found.tables.values():
        for origin, values in table.values(found.labels):
            if not found.is_missing(table, values):
                yield origin, values[0]


def _read(found: _Source, split: str) -> tuple[list[MediaExample], str]:
    """Reads a split; also what its note says of images left out."""
    table = found.tables[split]
    examples: list[MediaExample] = []
    lacking: dict[str, int] = {}
    for origin, (media, *values) in table.values(found.columns):
        text = text_or_empty(values.pop(), found.text, origin).strip() if found.text else ""
        missing = (
            (found.medium.one, _is_absent(media), found.media),
            ("a label", bool(values) and found.is_missing(table, values), ",".join(found.labels)),
            ("a text", bool(found.text) and not text, found.text),
        )
        first = next(((what, column) for what, is_missing, column in missing if is_missing), None)
        if first is not None and table.published:
            lacking[first[0]] = lacking.get(first[0], 0) + 1
            continue
        if first is not None:
            raise UserError(
                f"{origin}: without {first[0]} in {first[1]!r}, but every {noun(found.medium)} needs one. Leave "
                f"the record "
                "out, or complete it."
            )
        stored = stored_media(found.medium, media, found.media, origin, table.folder)
        examples.append(MediaExample(stored, found.classes_of(table, values, origin), text, origin))
    if not examples:
        raise UserError(f"{table.source}: the split {split!r} is empty: it has no {noun(found.medium)}.")
    note = "".join(f"; {count:,} without {what} left out" for what, count in lacking.items())
    return examples, note


def _is_absent(value: Any) -> bool:
    """Whether a value stands for nothing: null, an empty cell, or neither bytes nor a path."""
    if isinstance(value, Mapping):
        return {"bytes", "path"} >= value.keys() and not any(value.values())
    return value is None or (isinstance(value, str) and not value.strip())


def stored_media(medium: Medium, value: Any, column: str, origin: str, folder: pathlib.Path | None) -> Any:
    """Returns what a record holds, as it is kept.

    Args:
      medium: what it is.
      value: a path, bytes of a file, {"bytes", "path"}, or what else the medium may be.
      column: its name, for messages.
      origin: where it was read.
      folder: what paths are relative to, and must not leave; None: there are none.

    Raises:
      UserError: any other value, a path that is absent or leaves the folder; or as `Medium.of_value`.
    """
    found = medium.of_value(value, origin)
    if found is None and isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") or value.get("path")
        found = medium.of_value(value, origin)
    if found is not None:
        return found
    if isinstance(value, str):
        return medium.of_path(f"{origin} ({value})", _checked_path(medium, value, column, origin, folder))
    raise UserError(
        f"{origin}: {shown(value)} in {column!r} is of type {type(value).__name__}, but {medium.one} is a path, "
        f"{medium.values}."
    )


def _checked_path(medium: Medium, value: str, column: str, origin: str, folder: pathlib.Path | None) -> pathlib.Path:
    """Returns the path of a file inside the folder; what leads out of it, even by a link, is refused."""
    if "://" in value:
        raise UserError(
            f"{origin}: {value!r} in {column!r} is a URL; {medium.many} are not fetched. Download them first."
        )
    if folder is None:
        raise UserError(
            f"{origin}: {value!r} in {column!r} is a path, but there is no folder that it could be relative to. Give "
            f"the {noun(medium)} itself ({medium.values})."
        )
    if "\0" in value:
        raise UserError(f"{origin}: the path in {column!r} has a NUL byte.")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, value))
    if os.path.commonpath([root, path]) != root:
        raise UserError(
            f"{origin}: {value!r} in {column!r} leads out of {folder}. Paths of {medium.many} are relative to "
            f"the folder "
            f"of their table and stay inside it: move the {medium.many} or the table."
        )
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "absent"
        raise UserError(f"{origin}: the {noun(medium)} {value!r} in {column!r} is {what} (looked in {folder}).")
    return pathlib.Path(path)


def _check_training(found: _Source, examples: Sequence[MediaExample]) -> list[str]:
    """Returns what a person should know of training labels. Raises UserError where nothing can be learned from them."""
    if not found.labels:
        return []
    column = ",".join(found.labels)
    different = {frozenset(example.labels) for example in examples}
    if len(different) == 1:
        said = ", ".join(examples[0].labels) or "(none)"
        raise UserError(
            f"{found.source}: all {len(examples):,} training {found.medium.many} have the class {said} in "
            f"{column!r}: there is "
            "nothing to learn. Pretraining needs no classes."
        )
    if found.kind == "single" and len(examples) >= _FEW and len(different) > _OWN * len(examples):
        raise UserError(
            f"{found.source}: {column!r} has {len(different):,} values in {len(examples):,} training "
            f"{found.medium.many}, hardly "
            "any of them twice: these are not classes. Set data.label_column to another column "
            f"({', '.join(map(repr, found.tables['train'].columns))})."
        )
    known = [example.labels if found.kind == "multi" else example.labels[0] for example in examples]
    return [note for note in (found.form.note, *target_notes(known, found.form.classes)) if note]


def _held_out(
    found: _Source, examples: Sequence[MediaExample], share: float
) -> tuple[list[MediaExample], list[MediaExample]]:
    chosen = choose_held_out(
        [example.stored.digest() for example in examples], [example.labels for example in examples], share
    )
    if not any(chosen):
        raise UserError(
            f"{found.source}: it has no split 'valid', and none of the {len(examples):,} training "
            f"{found.medium.many} can be held out: "
            f"each is the only one of its class, or all are equal. Give more, a split of validation "
            f"{found.medium.many}, or "
            "config.data.holdout=0 for no validation."
        )
    sides: tuple[list[MediaExample], list[MediaExample]] = ([], [])
    for example, is_held_out in zip(examples, chosen, strict=True):
        sides[is_held_out].append(example)
    return sides


def _note(name: str, examples: Sequence[MediaExample], found: _Source, held_out: bool) -> str:
    read_from = found.tables["train" if held_out and name == "valid" else name].source
    said = "+".join(filter(None, (",".join(found.labels), found.text)))
    note = (
        f"{name}: {len(examples):,} {found.medium.many} from {read_from} ({found.media}{f' -> {said}' if said else ''})"
    )
    if found.labels:
        known = [example.labels if found.kind == "multi" else example.labels[0] for example in examples]
        note += f"; {summarise(known)}"
    return note
