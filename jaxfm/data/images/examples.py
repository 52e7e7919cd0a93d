"""Images of a source with their labels or texts: one URI, one shape of example, whatever the source is."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.data.images import decoding, folders, shards
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.data.records import targets
from jaxfm.data.records.example_holdout import choose_held_out
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.label_forms import LabelForm, find_form
from jaxfm.data.records.registry import are_numbers, open_tables, parse_source
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, choose_column, require_columns, shown, text_or_empty
from jaxfm.data.records.target_checks import summarise, target_notes
from jaxfm.errors import UserError

__all__ = ["BadImageError", "ImageColumns", "ImageExample", "ImageSplit", "StoredImage", "read_images"]

LABELS = ("none", "single", "multi")
OWN_FORMS = (folders.FORM, shards.FORM)
SURE_COLUMNS = ("image", "img")
IMAGE_COLUMNS = tuple(
    "picture image_path img_path path file_path filepath file_name filename file png jpg jpeg webp bytes".split()
)
LABEL_COLUMNS = {
    "single": "label labels class category target fine_label cls".split(),
    "multi": "labels label classes categories topics tags attributes".split(),
}
TEXT_COLUMNS = tuple("text caption captions description sentence title txt".split())
_LOOK = 1000  # records that show whether a split has labels
_FEW, _OWN = 20, 0.9  # a column with this share of distinct values, in at least 20 examples, does not hold classes


@dataclasses.dataclass(frozen=True, slots=True)
class ImageExample:
    """One image.

    Attributes:
        image: where it is kept; it is not decoded yet.
        labels: its class ("single"), its classes ("multi", in the order of the source), () where none are read.
        text: its caption; "" where none is read.
        origin: where it was read: "photos/train/cat/1.png", "dir/train.csv:12" or "tfds:cifar10/train[17]".
    """

    image: StoredImage
    labels: tuple[str, ...]
    text: str
    origin: str


@dataclasses.dataclass(frozen=True)
class ImageSplit:
    """One split.

    Attributes:
        examples: in the order of the source.
        note: one line for the log.
        classes: those that the source declares, in its order, where an example has a 0 or 1 for each of them; otherwise
            empty: the classes are those that occur.
    """

    examples: tuple[ImageExample, ...]
    note: str
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageColumns:
    """Which columns hold what (`data.{image,label,text}_column`); empty finds the usual ones.

    Attributes:
        image: paths (relative to the folder of the table), bytes of image files, or {"bytes", "path"}.
        label: the class or classes. With "multi" it may be several columns, A,B,C, each 0 or 1.
        text: the caption.
    """

    image: str = ""
    label: str = ""
    text: str = ""


def read_images(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: ImageColumns | None = None,
    holdout: float | None = 0.0,
    labels: str = "none",
    texts: bool = False,
) -> dict[str, ImageSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source; decodes nothing.

    Sources: quickstart (scikit-learn's digits), `images:DIR`, `webdataset:DIR`, and all of
    `jaxfm/data/records/formats/`: tables with a column of paths or of bytes. In a file every record must have all that
    is asked for; in a published set (tfds:, hf:), which the user cannot repair, those without are left out and counted.
    A split without labels counts as absent where labels are asked for.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has.
      columns: which columns to read; None: the usual ones.
      holdout: this share of train becomes valid where the source has no valid, None: a share by size (`holdout_share`).
        A hash of the image's file chooses, so equal images are on one side.
      labels: "none", "single" (each image has a class) or "multi" (any number of classes).
      texts: whether each image has a text.

    Raises:
      UserError: unknown source, split or column, an empty split, a damaged record, a path that is absent or leads out
        of its folder, a missing image, label or text, training classes that are all the same.
    """
    assert labels in LABELS
    wanted = None if splits is None else list(map(require_split, splits))
    found = _open(source, columns or ImageColumns(), labels, texts)
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
    read: dict[str, list[ImageExample]] = {}
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], notes[name] = _read(found, name)
    if "train" in read:
        notes["train"] += "".join(f"; {note}" for note in (*_check_training(found, read["train"]), *found.left_out))
        if held_out:
            share = holdout_share(holdout, len(read["train"]))
            read["train"], read["valid"] = _held_out(source, read["train"], share)
            notes["valid"] = f"; {share:.1%} of train, chosen by a hash of the images"
            notes["train"] += f"; without the {len(read['valid']):,} that are valid"
    return {
        name: ImageSplit(tuple(read[name]), _note(name, read[name], found, held_out) + notes[name], found.form.classes)
        for name in wanted
    }


@dataclasses.dataclass(frozen=True)
class _ImageSource:
    """An opened source: the tables of the splits that have what is asked for, which columns are read and how."""

    source: str
    kind: str
    tables: Mapping[str, Table]
    image: str
    labels: tuple[str, ...]
    text: str
    listed: str
    left_out: tuple[str, ...]
    form: LabelForm

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are read."""
        return (self.image, *self.labels, *((self.text,) if self.text else ()))

    def is_missing(self, table: Table, values: Sequence[Any]) -> bool:
        """Whether the values of the label columns mean that the image has no label."""
        return any(
            targets.is_missing(value, self.kind, table.class_names.get(column), None)
            for column, value in zip(self.labels, values, strict=True)
        )

    def classes_of(self, table: Table, values: Sequence[Any], origin: str) -> tuple[str, ...]:
        """The classes of an image with these values of the label columns."""
        if not self.labels:
            return ()
        column, *more = self.labels
        if more:
            return targets.marked_of(values, self.labels, origin)
        if self.kind == "multi":
            return self.form.classes_of(values[0], origin)
        return (targets.class_of(values[0], table.class_names.get(column), column, origin),)


def _open(source: str, columns: ImageColumns, kind: str, texts: bool) -> _ImageSource:
    scheme, rest = parse_source(source, OWN_FORMS)
    if scheme == "quickstart":
        from jaxfm.data.images.digits import find_digits

        tables = find_digits()
    elif scheme == "images":
        if kind == "multi":
            raise UserError(
                f"{source}: a folder gives an image one class, but any number of classes is asked for: write a table "
                "with the paths of the images (csv:, jsonl: or parquet:)."
            )
        tables = folders.open_folders(rest, classes=kind == "single", captions=texts)
    elif scheme == "webdataset":
        tables = shards.open_shards(rest)
    else:
        by_number = are_numbers((columns.image, columns.text, *columns.label.split(",")))
        tables = open_tables(scheme, rest, by_number=by_number, own=OWN_FORMS)
    opened = {split: tables.splits[split]() for split in SPLIT_NAMES if split in tables.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({tables.found}).")
    return _choose(source, opened, tables, columns, kind, texts)


def _choose(
    source: str, opened: Mapping[str, Table], tables: Tables, columns: ImageColumns, kind: str, texts: bool
) -> _ImageSource:
    """Chooses the columns, and leaves out the splits without labels."""
    first = next(iter(opened.values()))
    names = first.columns
    image = columns.image or next((name for name in SURE_COLUMNS if name in names), "")
    image = choose_column(names, image, IMAGE_COLUMNS, "image", first.source)
    labels = _choose_labels(first, columns.label, kind) if kind != "none" else ()
    text = choose_column(names, columns.text, TEXT_COLUMNS, "text", first.source) if texts else ""
    chosen = [image, *labels, *([text] if text else [])]
    twice = next((name for name in chosen if chosen.count(name) > 1), None)
    if twice:
        raise UserError(
            f"{first.source}: the column {twice!r} is to be two things at once. Set data.image_column, "
            "data.label_column, data.text_column."
        )
    form = LabelForm(labels[0] if labels else "", "columns", labels if len(labels) > 1 else ())
    every = _ImageSource(source, kind, opened, image, labels, text, tables.found, (), form)
    left_out = {split: reason for split, table in opened.items() if (reason := _without_labels(every, table))}
    return dataclasses.replace(
        every,
        tables={split: table for split, table in opened.items() if split not in left_out},
        left_out=tuple(f"{split} is left out: {reason}" for split, reason in left_out.items()),
    )


def _choose_labels(table: Table, asked: str, kind: str) -> tuple[str, ...]:
    if "," in asked and asked not in table.columns:
        names = tuple(name.strip() for name in asked.split(","))
        if kind != "multi":
            raise UserError(
                f"data.label_column={asked!r}: several label columns, each 0 or 1, are for several classes an image "
                f"(multi-label), but this is {kind!r}."
            )
        require_columns(table.columns, names, f"{table.source}: data.label_column={asked!r}")
        return names
    return (choose_column(table.columns, asked, LABEL_COLUMNS[kind], "label", table.source),)


def _without_labels(found: _ImageSource, table: Table) -> str:
    """Why a split counts as unlabelled; "" for one with labels, and for an empty one, which reading will find."""
    require_columns(table.columns, filter(None, (found.image, found.text)), table.source)
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
    return "no labels" + (f" in its first {_LOOK:,} images" if looked == _LOOK else "") if looked else ""


def _with_form(found: _ImageSource) -> _ImageSource:
    """Adds how the classes of an image are written, found on all splits together."""
    column, *more = found.labels or ("",)
    if found.kind != "multi" or more:
        return found
    names = next((table.class_names[column] for table in found.tables.values() if column in table.class_names), None)
    return dataclasses.replace(found, form=find_form(_label_values(found), column, names))


def _label_values(found: _ImageSource) -> Iterator[tuple[str, Any]]:
    """Yields where each label of every split was read, and the label."""
    for table in found.tables.values():
        for origin, values in table.values(found.labels):
            if not found.is_missing(table, values):
                yield origin, values[0]


def _read(found: _ImageSource, split: str) -> tuple[list[ImageExample], str]:
    """Reads a split; also what its note says of images left out."""
    table = found.tables[split]
    examples: list[ImageExample] = []
    lacking: dict[str, int] = {}
    for origin, (image, *values) in table.values(found.columns):
        text = text_or_empty(values.pop(), found.text, origin).strip() if found.text else ""
        missing = (
            ("an image", _is_absent(image), found.image),
            ("a label", bool(values) and found.is_missing(table, values), ",".join(found.labels)),
            ("a text", bool(found.text) and not text, found.text),
        )
        first = next(((what, column) for what, is_missing, column in missing if is_missing), None)
        if first is not None and table.published:
            lacking[first[0]] = lacking.get(first[0], 0) + 1
            continue
        if first is not None:
            raise UserError(
                f"{origin}: without {first[0]} in {first[1]!r}, but every image needs one. Leave the record out, or "
                "complete it."
            )
        stored = stored_image(image, found.image, origin, table.folder)
        examples.append(ImageExample(stored, found.classes_of(table, values, origin), text, origin))
    if not examples:
        raise UserError(f"{table.source}: the split {split!r} is empty: it has no image.")
    note = "".join(f"; {count:,} without {what} left out" for what, count in lacking.items())
    return examples, note


def _is_absent(value: Any) -> bool:
    """Whether a value stands for no image: null, an empty cell, or neither bytes nor a path."""
    if isinstance(value, Mapping):
        return {"bytes", "path"} >= value.keys() and not any(value.values())
    return value is None or (isinstance(value, str) and not value.strip())


def stored_image(value: Any, column: str, origin: str, folder: pathlib.Path | None) -> StoredImage:
    """Returns an image that a record holds.

    Args:
      value: a path, bytes of an image file, {"bytes", "path"}, an array, a picture of Pillow, or a StoredImage.
      column: its name, for messages.
      origin: where it was read.
      folder: what paths are relative to, and must not leave; None: there are none.

    Raises:
      UserError: any other value, a path that is absent or leaves the folder. BadImageError as `decoding.pixels_of`.
    """
    if isinstance(value, StoredImage):
        return value
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return StoredImage(origin, data=bytes(value))
    if isinstance(value, np.ndarray):
        return StoredImage(origin, array=value)
    if isinstance(value, str):
        return StoredImage(f"{origin} ({value})", path=_checked_path(value, column, origin, folder))
    if hasattr(value, "mode") and hasattr(value, "tobytes"):
        return StoredImage(origin, array=decoding.pixels_of(value, origin))
    raise UserError(
        f"{origin}: {shown(value)} in {column!r} is of type {type(value).__name__}, but an image is a path, the bytes "
        "of a file, an array of uint8 or a picture of Pillow."
    )


def _checked_path(value: str, column: str, origin: str, folder: pathlib.Path | None) -> pathlib.Path:
    """Returns the path of a file inside the folder; what leads out of it, even by a link, is refused."""
    if "://" in value:
        raise UserError(f"{origin}: {value!r} in {column!r} is a URL; images are not fetched. Download them first.")
    if folder is None:
        raise UserError(
            f"{origin}: {value!r} in {column!r} is a path, but there is no folder that it could be relative to. Give "
            "the image itself (bytes, an array of uint8 or a picture of Pillow)."
        )
    if "\0" in value:
        raise UserError(f"{origin}: the path in {column!r} has a NUL byte.")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, value))
    if os.path.commonpath([root, path]) != root:
        raise UserError(
            f"{origin}: {value!r} in {column!r} leads out of {folder}. Paths of images are relative to the folder of "
            "their table and stay inside it: move the images or the table."
        )
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "absent"
        raise UserError(f"{origin}: the image {value!r} in {column!r} is {what} (looked in {folder}).")
    return pathlib.Path(path)


def _check_training(found: _ImageSource, examples: Sequence[ImageExample]) -> list[str]:
    """Returns what a person should know of training labels. Raises UserError where nothing can be learned from them."""
    if not found.labels:
        return []
    column = ",".join(found.labels)
    different = {frozenset(example.labels) for example in examples}
    if len(different) == 1:
        said = ", ".join(examples[0].labels) or "(none)"
        raise UserError(
            f"{found.source}: all {len(examples):,} training images have the class {said} in {column!r}: there is "
            "nothing to learn. Pretraining needs no classes."
        )
    if found.kind == "single" and len(examples) >= _FEW and len(different) > _OWN * len(examples):
        raise UserError(
            f"{found.source}: {column!r} has {len(different):,} values in {len(examples):,} training images, hardly "
            "any of them twice: these are not classes. Set data.label_column to another column "
            f"({', '.join(map(repr, found.tables['train'].columns))})."
        )
    known = [example.labels if found.kind == "multi" else example.labels[0] for example in examples]
    return [note for note in (found.form.note, *target_notes(known, found.form.classes)) if note]


def _held_out(
    source: str, examples: Sequence[ImageExample], share: float
) -> tuple[list[ImageExample], list[ImageExample]]:
    chosen = choose_held_out(
        [example.image.digest() for example in examples], [example.labels for example in examples], share
    )
    if not any(chosen):
        raise UserError(
            f"{source}: it has no split 'valid', and none of the {len(examples):,} training images can be held out: "
            "each is the only one of its class, or all are equal. Give more, a split of validation images, or "
            "config.data.holdout=0 for no validation."
        )
    sides: tuple[list[ImageExample], list[ImageExample]] = ([], [])
    for example, is_held_out in zip(examples, chosen, strict=True):
        sides[is_held_out].append(example)
    return sides


def _note(name: str, examples: Sequence[ImageExample], found: _ImageSource, held_out: bool) -> str:
    read_from = found.tables["train" if held_out and name == "valid" else name].source
    said = "+".join(filter(None, (",".join(found.labels), found.text)))
    note = f"{name}: {len(examples):,} images from {read_from} ({found.image}{f' -> {said}' if said else ''})"
    if found.labels:
        known = [example.labels if found.kind == "multi" else example.labels[0] for example in examples]
        note += f"; {summarise(known)}"
    return note
