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

from jaxfm.data.records.splits import SPLIT_NAMES, canonical_split, require_split
from jaxfm.errors import UserError
from jaxfm.files import expanded

_EXPLICIT = re.compile(r"\w+=")
_PART = re.compile(r"-(\d+)-of-(\d+)")
# Files beside the data that are not data.
_ABOUT = frozenset("readme license licence copying notice changelog citation contributing".split())
PIECE_BYTES = 1 << 20  # of a line held at a time
LINE_BYTES = 1 << 28  # the longest line that is read whole
_LINE_END = re.compile(r"\r*\n|\r")
_HEAD = 1024  # first bytes, which show what a file is
_MARKS = (  # of byte order; the first that fits, as one begins with another
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_WIDE = (("UTF-32LE", 4, (1, 2, 3)), ("UTF-32BE", 4, (0, 1, 2)), ("UTF-16LE", 2, (1,)), ("UTF-16BE", 2, (0,)))
_BINARY = (
    (b"\x1f\x8b", "gzip data: let its name end in .gz"),
    (b"PK\x03\x04", "a zip archive or an Office file: unpack it, or save it as text"),
    (b"PAR1\x15", "a parquet file: name it so and write parquet:"),
    (b"%PDF", "a PDF file"),
    (b"BZh", "bzip2 data: unpack it"),
    (b"\xfd7zXZ", "xz data: unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstandard data: unpack it"),
    (b"\xd0\xcf\x11\xe0", "an old Office file: save it as text"),
    (b"SQLite format 3", "an SQLite data base: write its table to a csv file"),
)


def find_split_files(rest: str, kind: str, suffixes: Sequence[str]) -> tuple[dict[str, pathlib.Path], str]:
    """Returns the file of each split, and what the source holds, for messages.

    `rest` is a folder (files with a suffix of `suffixes`, or named like CoNLL-2003's eng.testa), a glob, one file, or
    `train=PATH,valid=PATH,test=PATH`. A file's split is the word train, valid, dev, test ... in its name; one file
    without such a word is train.
    Raises UserError: no such files, two files for one split, a name with two splits.
    """
    if not rest:
        raise UserError(f"{kind}: needs a folder, a glob or train=PATH,valid=PATH,test=PATH after the colon.")
    if _EXPLICIT.match(rest):
        return _explicit(rest, kind)
    path = expanded(rest)
    if path.is_file() and _split_of(path, kind) is None:
        return {"train": path}, f"{path} is one file"
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
    and the like are left out. Raises UserError: no such files, a name with two splits.
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
    """Returns the files of each split, and what the source holds, for messages.

    As `find_split_files`, but one file whose name has no split in it is train, and a split may be in several parts
    named NAME-00000-of-00003 and so on, as files of the Hugging Face hub are. Raises UserError as that does, and for a
    part that is missing.
    """
    path = expanded(rest)
    if rest and path.is_file() and _split_of(path, kind) is None:
        return {"train": [path]}, f"{path} is one file"
    if not rest or _EXPLICIT.match(rest):
        files, listed = find_split_files(rest, kind, suffixes)
        return {split: [path] for split, path in files.items()}, listed
    paths, listed = _paths(rest, kind, suffixes)
    parts: dict[tuple[pathlib.Path, str], list[pathlib.Path]] = {}
    for path in paths:
        parts.setdefault((path.parent, _PART.sub(r"-of-\2", path.name)), []).append(path)
    parts_of = {same[0]: same for same in parts.values()}
    for first, same in parts_of.items():
        match = _PART.search(first.name)
        if match and int(match[2]) != len(same):
            raise UserError(f"{first}: of the {int(match[2])} parts that the name speaks of, {len(same)} are present.")
    files = _by_split(list(parts_of), rest, kind, suffixes, listed)
    return {split: parts_of[path] for split, path in files.items()}, listed


def split_folders(rest: str, kind: str, suffix: str) -> tuple[dict[str, pathlib.Path], str]:
    """Returns the folder of each split, and what the source holds, for messages.

    `rest` is `train=DIR,valid=DIR,test=DIR`, or a folder: of folders named after splits, or of files with `suffix`,
    which are of the split that its name says, else train. Raises UserError: no such files, two folders for one split.
    """
    if not rest:
        raise UserError(f"{kind}: needs a folder or train=DIR,valid=DIR,test=DIR after the colon.")
    folders: dict[str, pathlib.Path] = {}
    if _EXPLICIT.match(rest):
        named = [(require_split(name), expanded(value)) for name, value in _parts(rest)]
    else:
        path = expanded(rest)
        if not path.is_dir():
            raise UserError(f"{kind}:{rest}: no such folder; {nearest_folder(path)}.")
        inner = [(_split_of(folder, kind), folder) for folder in sorted(path.iterdir()) if folder.is_dir()]
        named = [(split, folder) for split, folder in inner if split]
        if not named and any(path.glob(f"*{suffix}")):
            named = [(_split_of(path, kind) or "train", path)]
        if not named:
            raise UserError(
                f"{kind}:{rest}: neither a folder named train, valid (dev) or test nor a file with the suffix "
                f"{suffix}; {nearest_folder(path)}."
            )
    for split, folder in named:
        if split in folders:
            raise UserError(f"{kind}:{rest}: both {folders[split]} and {folder} could be the split {split!r}.")
        if not folder.is_dir():
            raise UserError(f"{kind}:{rest}: {folder} is not a folder; {nearest_folder(folder)}.")
        folders[split] = folder
    return folders, f"the folders {_listing([str(folder) for folder in folders.values()])}"


def file_names(paths: Sequence[pathlib.Path]) -> str:
    """Returns the files of a split in words."""
    return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def files_size(paths: Sequence[pathlib.Path]) -> str:
    """Returns the number of files and their size in words."""
    size = sum(path.stat().st_size for path in paths) / 1e6
    return f"{len(paths)} file{'s' * (len(paths) > 1)}, {size:,.1f} MB"


def numbered_lines(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """Yields (number from 1, text without line end) of a text file, gzip by its suffix.

    The text is UTF-8, or UTF-16 or UTF-32 by its byte order mark; a mark at the start of any line is dropped. Lines
    end at LF, CRLF (also CR CR LF) and CR alone: characters such as U+2028 belong to the text.
    Raises UserError `path:line:` for bytes that are not text, for a NUL character and for a line of more than
    LINE_BYTES characters, and `path:` for what cannot be opened or unpacked.
    """
    parts: list[str] = []
    for number, lines, ends in _blocks(path):
        if parts:
            parts.append(lines[0])
            if sum(map(len, parts)) > LINE_BYTES:
                raise UserError(f"{path}:{number}: the line is longer than {LINE_BYTES >> 20} MiB: divide it.")
            if len(lines) == 1 and not ends:
                continue
            lines[0], parts = "".join(parts), []
        if not ends:
            parts = [lines.pop()]
        yield from enumerate(lines, number)


def numbered_pieces(path: pathlib.Path) -> Iterator[tuple[int, str, bool]]:
    """Yields lines as `numbered_lines` does, but long ones cut: (number, part, whether the line ends there).

    A line of fewer than PIECE_BYTES characters is whole; no part has more than twice as many. Raises UserError as
    `numbered_lines` does, but for no length.
    """
    for number, lines, ends in _blocks(path):
        last = number + len(lines) - 1
        for at, line in enumerate(lines, number):
            yield at, line, ends or at < last


def _blocks(path: pathlib.Path) -> Iterator[tuple[int, list[str], bool]]:
    """Yields (number of the first line, lines, whether the last one ends); if not, the next block goes on with it.

    PIECE_BYTES are read and divided at a time, so a line costs little time and a file little memory.
    """
    number, rest, before = 1, "", 0  # the line to come: its start as read, and bytes of it already yielded
    returns = ""  # carriage returns at the end of what was read: a line feed may follow
    try:
        with _opened(path) as file:
            head = file.peek(_HEAD)[:_HEAD]
            encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
            decoder = codecs.getincrementaldecoder(encoding)()
            data, fault = b"-", None
            while data and not fault:
                data = file.read(PIECE_BYTES)
                text, fault = _decode(decoder, data, encoding)
                if returns or "\r" in text:
                    text = returns + text
                    end = len(text.rstrip("\r")) if data else len(text)
                    text, returns = _LINE_END.sub("\n", text[:end]), text[end:]
                lines = (rest + text).split("\n")
                if "\ufeff" in text:
                    lines = [
                        line if before and not at else line.removeprefix("\ufeff") for at, line in enumerate(lines)
                    ]
                rest = lines.pop()
                if lines:
                    yield number, lines, True
                    number, before = number + len(lines), 0
                if len(rest) >= PIECE_BYTES:
                    yield number, [rest], False
                    rest, before = "", before + len(rest.encode(encoding))
            if fault:
                position = before + len(rest.encode(encoding)) + 1
                raise UserError(f"{path}:{number}: {_explain(fault, position, encoding, head)}")
            if rest or before:
                yield number, [rest], True
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}:{number}: the gzip data is damaged ({error}). Copy the file again.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}.") from None


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, encoding: str) -> tuple[str, UnicodeDecodeError | str]:
    """Returns the text of `data` up to the first fault, and the fault: an error, "NUL" or ""."""
    fault: UnicodeDecodeError | str = ""
    try:
        text = decoder.decode(data, not data)
    except UnicodeDecodeError as error:
        text, fault = error.object[: error.start].decode(encoding), error
    if "\0" in text:
        text, fault = text.partition("\0")[0], "NUL"
    return text, fault


def _explain(fault: UnicodeDecodeError | str, position: int, encoding: str, head: bytes) -> str:
    """Says why a file is not text, and what to do; `head` is its first bytes."""
    for magic, kind in _BINARY:
        if head.startswith(magic):
            return f"not text but {kind}."
    if encoding == "utf-8" and (guess := _guess_utf16(head)):
        return (
            f"a NUL byte at position {position} of the line: the file seems to be {guess} without a byte order mark. "
            f"Convert it, for instance: iconv -f {guess} -t UTF-8."
        )
    if isinstance(fault, str):
        return (
            f"a NUL byte at position {position} of the line: this is a binary or damaged file, or text in UTF-16 "
            "without a byte order mark."
        )
    if encoding != "utf-8":
        return f"the file is {encoding.upper()} by its byte order mark, but damaged here ({fault.reason})."
    byte = fault.object[fault.start]
    return (
        f"byte 0x{byte:02X} at position {position} of the line is not UTF-8 ({fault.reason}). Convert the file from "
        f"the encoding it was written in, for instance: iconv -f {'CP1252' if byte < 0xA0 else 'LATIN1'} -t UTF-8."
    )


def _guess_utf16(head: bytes) -> str:
    """Returns "UTF-16LE" or the like where every second byte (or three of four) is mostly NUL, else ""."""
    for name, width, nul_bytes in _WIDE:
        columns = [head[offset::width] for offset in range(width)]
        nul = [column.count(0) > 0.6 * len(column) for column in columns]
        if columns[-1] and [offset for offset in range(width) if nul[offset]] == list(nul_bytes):
            return name
    return ""


def _opened(path: pathlib.Path) -> io.BufferedReader:
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path))  # pyright: ignore[reportArgumentType]  (its own readline is slow)
    return open(path, "rb")


def _paths(rest: str, kind: str, suffixes: Sequence[str]) -> tuple[list[pathlib.Path], str]:
    """The files of a folder, a glob or a file, sorted, and what the source holds."""
    path = expanded(rest)
    if path.is_dir():
        names = sorted(os.listdir(path))
        paths = [path / name for name in names if _is_data(name, suffixes) and (path / name).is_file()]
        return paths, f"{path} holds {_listing(names)}"
    if glob.has_magic(str(path)):
        paths = sorted(path for path in map(pathlib.Path, glob.glob(str(path), recursive=True)) if path.is_file())
        return paths, f"the glob matches {_listing([str(path) for path in paths])}"
    if path.is_file():
        return [path], f"{path} is one file"
    raise UserError(f"{kind}:{rest}: no such file or folder; {nearest_folder(path)}.")


def _some_paths(rest: str, kind: str, suffixes: Sequence[str]) -> list[pathlib.Path]:
    paths, listed = _paths(rest, kind, suffixes)
    if expanded(rest).is_dir():
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
        split, path = require_split(name), expanded(value)
        if split in files:
            raise UserError(f"{kind}:{rest}: the split {split!r} is given twice: {files[split]} and {path}.")
        if not path.is_file():
            raise UserError(f"{kind}:{name}={value}: no such file; {nearest_folder(path.parent)}.")
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
    words = _stem_words(path.name)
    splits = {split for split in map(canonical_split, words) if split}
    if not splits:  # wnut17train
        parts = re.split(r"[\W\d_]+", path.name.lower())
        splits = {split for split in map(canonical_split, parts) if split}
    if len(splits) > 1:
        names = " and ".join(split for split in SPLIT_NAMES if split in splits)
        raise UserError(f"{path}: the name speaks of {names}: say which, as {kind}:train={path},...")
    return splits.pop() if splits else None


def nearest_folder(path: pathlib.Path) -> str:
    """Returns what the nearest folder that exists holds, in words: for messages of a path that does not."""
    folder = path
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return f"the folder {folder} holds {_listing(sorted(os.listdir(folder)))}"


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) or "nothing") + more
