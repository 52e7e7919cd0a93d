"""`lines:` plain texts of which line n of one file goes with line n of another: parallel corpora, one file a language.

A file is PREFIX.LANGUAGE.txt or PREFIX.LANGUAGE (WMT), each with .gz or without; the language is its column.
"""

import functools
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from jaxfm.data.records.source_files import files_size, nearest_folder, numbered_lines
from jaxfm.data.records.splits import canonical_split, require_split
from jaxfm.data.records.table import Row, Table, Tables
from jaxfm.errors import UserError
from jaxfm.files import expanded

FORM = "lines:DIR"
_EXPLICIT = re.compile(r"\w+=")
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def line_tables(rest: str) -> Tables:
    """Returns the splits of `lines:REST` as tables with a column a language.

    `rest` is a folder, whose files are of the split that their names say, or train=PREFIX,valid=PREFIX,test=PREFIX:
    what the names of a split's files begin with (DIR/test2016).

    Raises:
      UserError: no such folder or files, one language only, two sets of files for one split.
    """
    if _EXPLICIT.match(rest):
        found = {}
        for part in re.split(r",(?=\w+=)", rest):
            name, _, prefix = part.partition("=")
            path = expanded(prefix)
            files = _languages(path.parent).get(path.name, {}) if path.parent.is_dir() else {}
            if len(files) < 2:
                raise UserError(
                    f"lines:{part}: there are no two files {prefix}.LANGUAGE.txt or {prefix}.LANGUAGE (.gz may "
                    f"follow); {nearest_folder(path.parent)}."
                )
            split = require_split(name)
            if split in found:
                raise UserError(f"lines:{rest}: the split {split!r} is given twice.")
            found[split] = (prefix, files)
    else:
        found = _of_folder(rest)
    listed = ", ".join(f"{split}: {prefix}.{{{','.join(sorted(files))}}}" for split, (prefix, files) in found.items())
    return Tables({split: functools.partial(_table, *found[split]) for split in found}, listed)


def _of_folder(rest: str) -> dict[str, tuple[str, dict[str, pathlib.Path]]]:
    """Returns split -> what its files begin with, and language -> file."""
    folder = expanded(rest)
    if not rest or not folder.is_dir():
        raise UserError(f"lines:{rest}: no such folder; {nearest_folder(folder)}.")
    found: dict[str, tuple[str, dict[str, pathlib.Path]]] = {}
    for name, files in sorted(_languages(folder).items()):
        split = _split_of(name)
        if split is None or len(files) < 2:
            continue
        prefix = f"{rest.rstrip('/')}/{name}"
        if split in found:
            other = found[split][0]
            raise UserError(
                f"lines:{rest}: both {other} and {prefix} could be the split {split!r}: say which, as "
                f"lines:train={rest.rstrip('/')}/train,{split}={prefix}."
            )
        found[split] = (prefix, files)
    if not found:
        raise UserError(
            f"lines:{rest}: no two files such as train.en.txt and train.de.txt (or train.en and train.de; .gz may "
            f"follow); {nearest_folder(folder)}."
        )
    return found


def _languages(folder: pathlib.Path) -> dict[str, dict[str, pathlib.Path]]:
    """Returns what names begin with -> language -> file, of a folder."""
    found: dict[str, dict[str, pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
        stem, dot, language = path.name.removesuffix(".gz").removesuffix(".txt").rpartition(".")
        if dot and stem and path.is_file() and _LANGUAGE.fullmatch(language):
            found.setdefault(stem, {})[language] = path
    return found


def _split_of(name: str) -> str | None:
    """Returns the split that a name speaks of ("test2016": test); None where it speaks of none."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word]
    return next((split for split in map(canonical_split, words) if split), None)


def _table(prefix: str, files: Mapping[str, pathlib.Path]) -> Table:
    def read(asked: Sequence[str] | None) -> Iterator[Row]:
        names = [name for name in files if asked is None or name in asked]
        return _rows({name: files[name] for name in names})

    return Table(f"{prefix}.{{{','.join(files)}}}", tuple(files), read, size=files_size(list(files.values())))


def _rows(files: Mapping[str, pathlib.Path]) -> Iterator[Row]:
    """Yields the lines with one number of all files; UserError where one file ends before another."""
    names, paths = list(files), list(files.values())
    readers = [numbered_lines(path) for path in paths]
    while True:
        lines = [next(reader, None) for reader in readers]
        if all(line is None for line in lines):
            return
        for path, line in zip(paths, lines, strict=True):
            if line is None:
                number, longer = next((each[0], other) for each, other in zip(lines, paths, strict=True) if each)
                raise UserError(
                    f"{path}: ends after line {number - 1:,}, but {longer.name} goes on: line n of one file goes with "
                    "line n of the other."
                )
        number = next(line[0] for line in lines if line is not None)
        where = f"{paths[0]}:{number}" if len(paths) == 1 else f"{paths[0]}:{number} (and {paths[1].name})"
        yield Row(where, {name: line[1] for name, line in zip(names, lines, strict=True) if line is not None})
