"""Files of a source such as `conll:` or `csv:`: which file is which split, and its lines with their numbers."""

import codecs
import glob
import gzip
import io
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Sequence

from jaxfm.data.source_records import SPLIT_NAMES, canonical_split, require_split
from jaxfm.errors import UserError

_EXPLICIT = re.compile(r"\w+=")
_PART = re.compile(r"-(\d+)-of-(\d+)")
# Files that lie beside data and are none.
_ABOUT = frozenset("readme license licence copying notice changelog citation contributing".split())
PIECE_BYTES = 1 << 20  # of a line held at a time
LINE_BYTES = 1 << 28  # the longest line that is ever put together


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
    paths, listed = _paths(rest, kind, suffixes)
    return _by_split(paths, rest, kind, suffixes, listed), listed


def _by_split(
    paths: Sequence[pathlib.Path], rest: str, kind: str, suffixes: Sequence[str], listed: str
) -> dict[str, pathlib.Path]:
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
    return files


def find_corpus_files(rest: str, kind: str, suffixes: Sequence[str]) -> dict[str, list[pathlib.Path]]:
    """Returns the files of each split, in the order of their names; any number may belong to one.

    `rest` is as for `find_split_files`, where each PATH may itself be a folder or a glob, and a split may be given more
    than once. A file without the word of a split in its name is of "train". In a folder, files named README, LICENSE
    and the like are left out. Raises UserError: nothing there, a name with two splits.
    """
    if not rest:
        raise UserError(f"{kind}: needs a folder, a glob, a file or train=PATH,valid=PATH,test=PATH after the colon.")
    files: dict[str, list[pathlib.Path]] = {}
    if _EXPLICIT.match(rest):
        for name, value in _parts(rest):
            files.setdefault(require_split(name), []).extend(_some_paths(value, kind, suffixes))
    else:
        for path in _some_paths(rest, kind, suffixes):
            files.setdefault(_split_of(path, kind) or "train", []).append(path)
    return files


def find_table_files(rest: str, kind: str, suffixes: Sequence[str]) -> tuple[dict[str, list[pathlib.Path]], str]:
    """Returns the files of each split that there is, and what the place holds, for error messages.

    As `find_split_files`, but one file whose name has no split in it is train, and a split may be in several parts
    named NAME-00000-of-00003 and so on, as files of the Hugging Face hub are. Raises UserError as that does, and for a
    part that is missing.
    """
    place = pathlib.Path(rest).expanduser()
    if rest and place.is_file() and _split_of(place, kind) is None:
        return {"train": [place]}, f"{place} is one file"
    if not rest or _EXPLICIT.match(rest):
        files, listed = find_split_files(rest, kind, suffixes)
        return {split: [path] for split, path in files.items()}, listed
    paths, listed = _paths(rest, kind, suffixes)
    parts: dict[tuple[pathlib.Path, str], list[pathlib.Path]] = {}
    for path in paths:
        parts.setdefault((path.parent, _PART.sub(r"-of-\2", path.name)), []).append(path)
    kept = {same[0]: same for same in parts.values()}
    for first, same in kept.items():
        match = _PART.search(first.name)
        if match and int(match[2]) != len(same):
            raise UserError(f"{first}: of the {int(match[2])} parts that the name speaks of, {len(same)} are there.")
    files = _by_split(list(kept), rest, kind, suffixes, listed)
    return {split: kept[path] for split, path in files.items()}, listed


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, text without line end) of a UTF-8 file, gzip by its suffix; a byte order mark is dropped.

    Lines end at LF or CRLF alone: characters such as U+2028 belong to the text.
    Raises UserError `path:line:` for bytes that are not UTF-8, and `path:` for what cannot be opened or unpacked.
    """
    parts: list[str] = []
    for number, piece, ends in numbered_pieces(path):
        if ends and not parts:
            yield number, piece
            continue
        parts.append(piece)
        if len(parts) * PIECE_BYTES > LINE_BYTES:
            raise UserError(f"{path}:{number}: the line is longer than {LINE_BYTES >> 20} MiB: divide it.")
        if ends:
            yield number, "".join(parts).rstrip("\r\n")
            parts = []


def numbered_pieces(path: pathlib.Path) -> Iterator[tuple[int, str, bool]]:
    """Yields lines as `numbered_lines` does, but cut: (number, at most PIECE_BYTES of it, whether the line ends there).

    Raises UserError as `numbered_lines` does.
    """
    number, before = 1, 0  # of the line, and its bytes already read
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with _opened(path) as file:
            while data := file.readline(PIECE_BYTES):
                if number == 1 and not before:
                    data = data.removeprefix(b"\xef\xbb\xbf")
                ends = data.endswith(b"\n") or len(data) < PIECE_BYTES or not file.peek(1)
                if ends and not before:
                    yield number, data.decode("utf-8").rstrip("\r\n"), True
                else:
                    piece = decoder.decode(data, ends)
                    yield number, piece.rstrip("\r\n") if ends else piece, ends
                number, before = (number + 1, 0) if ends else (number, before + len(data))
    except UnicodeDecodeError as error:
        # The decoder may still have held the first bytes of the character.
        position = before - len(decoder.getstate()[0]) + error.start + 1
        raise UserError(
            f"{path}:{number}: byte 0x{error.object[error.start]:02X} at position {position} of the line is not "
            f"UTF-8 ({error.reason}). Convert the file, for instance: iconv -f LATIN1 -t UTF-8."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number}: the gzip data is damaged ({error}). Copy the file again.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _opened(path: pathlib.Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path))  # pyright: ignore[reportArgumentType]  (its own readline is slow)
    return open(path, "rb")


def _paths(rest: str, kind: str, suffixes: Sequence[str]) -> tuple[list[pathlib.Path], str]:
    """The files of a folder, a glob or a file, sorted, and what the place holds."""
    place = pathlib.Path(rest).expanduser()
    if place.is_dir():
        names = sorted(os.listdir(place))
        paths = [place / name for name in names if _is_data(name, suffixes) and (place / name).is_file()]
        return paths, f"{place} holds {_listing(names)}"
    if glob.has_magic(str(place)):
        paths = sorted(path for path in map(pathlib.Path, glob.glob(str(place), recursive=True)) if path.is_file())
        return paths, f"the glob matches {_listing([str(path) for path in paths])}"
    if place.is_file():
        return [place], f"{place} is one file"
    raise UserError(f"{kind}:{rest}: no such file or folder; {_nearest_folder(place)}.")


def _some_paths(rest: str, kind: str, suffixes: Sequence[str]) -> list[pathlib.Path]:
    paths, listed = _paths(rest, kind, suffixes)
    if pathlib.Path(rest).expanduser().is_dir():
        paths = [path for path in paths if _stem_words(path.name)[0] not in _ABOUT]
    if not paths:
        raise UserError(
            f"{kind}:{rest}: no file with one of the suffixes {' '.join(suffixes)} (.gz may follow): {listed}. "
            f"For files in folders below write a glob: {kind}:DIR/**/*{suffixes[0]}."
        )
    return paths


def _parts(rest: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r",(?=\w+=)", rest):
        name, _, value = part.partition("=")
        yield name, value


def _explicit(rest: str, kind: str) -> tuple[dict[str, pathlib.Path], str]:
    files: dict[str, pathlib.Path] = {}
    for name, value in _parts(rest):
        split, path = require_split(name), pathlib.Path(value).expanduser()
        if split in files:
            raise UserError(f"{kind}:{rest}: the split {split!r} is given twice: {files[split]} and {path}.")
        if not path.is_file():
            raise UserError(f"{kind}:{name}={value}: no such file; {_nearest_folder(path.parent)}.")
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
