"""Files of a `conll:` or `jsonl:` source: which file is which split, and its lines with their numbers."""

import glob
import gzip
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence

from jaxfm.data.source_records import SPLIT_NAMES, canonical_split, require_split
from jaxfm.errors import UserError

_EXPLICIT = re.compile(r"\w+=")


def find_split_files(rest: str, kind: str, suffixes: Sequence[str]) -> tuple[dict[str, pathlib.Path], str]:
    """Returns the file of each split that there is, and what the place holds, for error messages.

    `rest` is a folder (files with a suffix of `suffixes`, or named like CoNLL-2003's eng.testa), a glob, one file, or
    `train=PATH,valid=PATH,test=PATH`. A file's split is the word train, valid, dev, test ... in its name.
    Raises UserError: nothing there, two files for one split, a name with two splits.
    """
    if not rest:
        raise UserError(f"{kind}: needs a folder, a glob or train=PATH,valid=PATH,test=PATH after the colon.")
    if _EXPLICIT.match(rest):
        return _explicit(rest, kind)
    place = pathlib.Path(rest).expanduser()
    if place.is_dir():
        names = sorted(os.listdir(place))
        paths = [place / name for name in names if _is_data(name, suffixes) and (place / name).is_file()]
        listed = f"{place} holds {_listing(names)}"
    elif glob.has_magic(str(place)):
        paths = sorted(path for path in map(pathlib.Path, glob.glob(str(place), recursive=True)) if path.is_file())
        listed = f"the glob matches {_listing([str(path) for path in paths])}"
    elif place.is_file():
        paths, listed = [place], f"{place} is one file"
    else:
        raise UserError(f"{kind}:{rest}: no such file or folder; {_nearest_folder(place)}.")
    files: dict[str, pathlib.Path] = {}
    for path in paths:
        split = _split_of(path, kind)
        if split is None:
            continue
        if split in files:
            raise UserError(
                f"{kind}:{rest}: both {files[split]} and {path} could be the split {split!r}: "
                f"say which, as {kind}:{split}={path},..."
            )
        files[split] = path
    if not files:
        raise UserError(
            f"{kind}:{rest}: no file of a split: {listed}. A file is taken by the word train, valid (dev, testa) or "
            f"test (testb) in its name and one of the suffixes {' '.join(suffixes)} (.gz may follow); "
            f"or name the files: {kind}:train=PATH,valid=PATH,test=PATH."
        )
    return files, listed


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, text without line end) of a UTF-8 file, gzip by its suffix; a byte order mark is dropped.

    Lines end at LF or CRLF alone: characters such as U+2028 belong to the text.
    Raises UserError `path:line:` for bytes that are not UTF-8, and `path:` for what cannot be opened or unpacked.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, data in enumerate(file, 1):
                if number == 1:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                yield number, data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number}: byte 0x{error.object[error.start]:02X} at position {error.start + 1} of the line is not "
            f"UTF-8 ({error.reason}). Convert the file, for instance: iconv -f LATIN1 -t UTF-8."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number + 1}: the gzip data is damaged ({error}). Copy the file again.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _explicit(rest: str, kind: str) -> tuple[dict[str, pathlib.Path], str]:
    files: dict[str, pathlib.Path] = {}
    for part in re.split(r",(?=\w+=)", rest):
        name, _, value = part.partition("=")
        split, path = require_split(name), pathlib.Path(value).expanduser()
        if split in files:
            raise UserError(f"{kind}:{rest}: the split {split!r} is given twice: {files[split]} and {path}.")
        if not path.is_file():
            raise UserError(f"{kind}:{part}: no such file; {_nearest_folder(path.parent)}.")
        files[split] = path
    return files, ""


def _stem_words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower().removesuffix(".gz"))


def _is_data(name: str, suffixes: Sequence[str]) -> bool:
    plain = name.lower().removesuffix(".gz")
    # CoNLL-2003's own files end in the split: eng.train, eng.testa, eng.testb.
    return not name.startswith(".") and (
        plain.endswith(tuple(suffixes)) or canonical_split(_stem_words(name)[-1]) is not None
    )


def _split_of(path: pathlib.Path, kind: str) -> str | None:
    splits = {split for split in map(canonical_split, _stem_words(path.name)) if split}
    if len(splits) > 1:
        names = " and ".join(split for split in SPLIT_NAMES if split in splits)
        raise UserError(f"{path}: the name speaks of {names}: say which, as {kind}:train={path},...")
    return splits.pop() if splits else None


def _nearest_folder(path: pathlib.Path) -> str:
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return f"the folder {folder} holds {_listing(sorted(os.listdir(folder)))}"


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) or "nothing") + more
