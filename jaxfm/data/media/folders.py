"""`images:DIR`, `audio:DIR`: files, with their classes as folders and their captions as text files beside them.

DIR/CLASS/x.png                     classes; DIR/train/CLASS/x.png and so on where there are splits
DIR/x.png                           no classes
DIR/x.png and DIR/x.txt             with captions
"""

import collections
import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxfm.data.media.medium import Medium, noun
from jaxfm.data.records.source_files import nearest_folder, split_folders
from jaxfm.data.records.splits import canonical_split
from jaxfm.data.records.table import Table, Tables, listed, memory_table
from jaxfm.errors import UserError
from jaxfm.files import expanded

_CAPTION = ".txt"
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # which may say what the folders do not
_EXPLICIT = re.compile(r"\w+=")


def open_folders(medium: Medium, rest: str, *, kind: str, captions: bool) -> Tables:
    """Returns the splits of `images:rest` as tables with the medium's column, label (if classes), text (if captions).

    `rest` is a folder, or `train=DIR,valid=DIR,test=DIR`. Folders in it that are all named like splits are splits; a
    folder without such is one split, train unless it is named otherwise itself. `kind` is "none" or "single": whether
    there are classes.
    Raises UserError: "multi"; no such folder, one without files of the medium, names of splits beside names of
    classes, a file in no folder of a class, an empty folder of a class, a caption without its file, a file without it.
    """
    if kind == "multi":
        raise UserError(
            f"{medium.scheme}:{rest}: a folder gives {medium.one} one class, but any number of classes is asked for: "
            f"write a table with the paths of the {medium.many} (csv:, jsonl: or parquet:)."
        )
    if not rest:
        raise UserError(f"{medium.scheme}: needs a folder or train=DIR,valid=DIR,test=DIR after the colon.")
    if _EXPLICIT.match(rest):
        folders, found = split_folders(rest, medium.scheme, medium.suffixes[0])
    else:
        folders, found = _splits(medium, rest)
    openers = {
        split: functools.partial(_open, medium, folder, classes=kind == "single", captions=captions)
        for split, folder in folders.items()
    }
    return Tables(openers, found)


def _splits(medium: Medium, rest: str) -> tuple[dict[str, pathlib.Path], str]:
    root = expanded(rest)
    if root.is_file():
        raise UserError(
            f"{medium.scheme}:{rest}: is a file; {medium.scheme}: takes a folder. For a table write csv:, "
            f"jsonl: or parquet:."
        )
    if not root.is_dir():
        raise UserError(f"{medium.scheme}:{rest}: no such folder; {nearest_folder(root)}.")
    inner = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    named: dict[str, pathlib.Path] = {}
    for path in inner:
        split = canonical_split(path.name)
        if split is None:
            continue
        if split in named:
            raise UserError(f"{medium.scheme}:{rest}: both {named[split]} and {path} could be the split {split!r}.")
        named[split] = path
    if not named:
        return {canonical_split(root.name) or "train": root}, f"{root} has no folders of splits"
    others = [path.name for path in inner if path not in named.values() and _walk(medium, path).found]
    beside = [
        path.name for path in sorted(root.iterdir()) if path.is_file() and path.name.lower().endswith(medium.suffixes)
    ]
    if others or beside:
        raise UserError(
            f"{medium.scheme}:{rest}: its folders {listed(path.name for path in named.values())} name splits, "
            f"but beside them "
            f"are the {medium.many} {listed((others + beside)[:5])}, which belong to none. Move them into a "
            f"split; or, where "
            f"a class is named so, rename its folder or write a table with the paths of the {medium.many}."
        )
    return named, f"the folders {', '.join(str(path) for path in named.values())}"


class _Walked(NamedTuple):
    """Files of a folder and of those in it, sorted: of the medium, captions, and how many others by their suffix."""

    found: list[pathlib.Path]
    captions: list[pathlib.Path]
    others: Mapping[str, int]


def media_files(medium: Medium, folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the medium's files of a folder and of those in it, sorted; hidden ones are left out."""
    return _walk(medium, folder).found


def _walk(medium: Medium, folder: pathlib.Path) -> _Walked:
    found, captions = [], []
    others: collections.Counter[str] = collections.Counter()
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = pathlib.Path(here, name)
            if name.startswith("."):
                continue
            if name.lower().endswith(medium.suffixes):
                found.append(path)
            elif path.suffix.lower() == _CAPTION:
                captions.append(path)
            else:
                others[path.suffix or name] += 1
    return _Walked(sorted(found), captions, others)


def _open(medium: Medium, folder: pathlib.Path, *, classes: bool, captions: bool) -> Table:
    walked = _walk(medium, folder)
    if not walked.found:
        raise UserError(
            f"{folder}: holds no {noun(medium)} (a file that ends in {' '.join(medium.suffixes)}); "
            f"{nearest_folder(folder)}."
        )
    texts = _captions(medium, walked) if captions else {}
    rows = []
    for path in walked.found:
        values: list[Any] = [medium.of_path(str(path), path)]
        if classes:
            values.append(_class_of(medium, path, folder))
        if captions:
            values.append(texts[path])
        rows.append((str(path), values))
    if classes:
        _check_classes(medium, folder, rows)
    columns = (medium.name, *(("label",) if classes else ()), *(("text",) if captions else ()))
    left_out = dict(walked.others) | ({} if captions or not walked.captions else {_CAPTION: len(walked.captions)})
    said = ", ".join(f"{count:,} of {suffix}" for suffix, count in sorted(left_out.items()))
    source = f"{folder} (other files left out: {said})" if said else str(folder)
    return memory_table(source, columns, rows)


def _class_of(medium: Medium, path: pathlib.Path, folder: pathlib.Path) -> str:
    """The first folder on the way to a file."""
    parts = path.relative_to(folder).parts
    if len(parts) > 1:
        return parts[0]
    tables = [each.name for each in sorted(folder.iterdir()) if each.suffix.lower() in _TABLES]
    hint = (
        f"; if {tables[0]} has the labels, write {pathlib.Path(tables[0]).suffix[1:]}:{folder / tables[0]}"
        if tables
        else ""
    )
    raise UserError(
        f"{path}: lies in no folder of a class: {medium.scheme}:DIR takes the class of {medium.one} from its folder, "
        f"{folder}/CLASS/{path.name}{hint}."
    )


def _check_classes(medium: Medium, folder: pathlib.Path, rows: list[tuple[str, list[Any]]]) -> None:
    """Raises UserError for a folder of a class that holds no file of the medium."""
    filled = {values[1] for _, values in rows}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith(".") and path.name not in filled:
            raise UserError(f"{path}: the folder of a class holds no {noun(medium)}. Fill it, or remove it.")


def _captions(medium: Medium, walked: _Walked) -> dict[pathlib.Path, str]:
    """File -> its caption."""
    images: dict[pathlib.Path, pathlib.Path] = {}
    for path in walked.found:
        other = images.setdefault(path.with_suffix(_CAPTION), path)
        if other != path:
            raise UserError(
                f"{path}: the caption {other.with_suffix(_CAPTION).name} would be that of {other.name} too."
            )
    present = set(walked.captions)
    for caption in walked.captions:
        if caption not in images:
            raise UserError(
                f"{caption}: a caption without its {noun(medium)} ({caption.stem}{medium.suffixes[0]} or the like)."
            )
    for caption, image in images.items():
        if caption not in present:
            raise UserError(f"{image}: {medium.one} without its caption, which would be in {caption.name} beside it.")
    return {image: _read_caption(caption) for caption, image in images.items()}


def _read_caption(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the caption cannot be read as UTF-8: {error}.") from None
