"""`brat:DIR`: brat's standoff files, NAME.txt beside NAME.ann, in a folder for each split."""

import codecs
import functools
import pathlib
import re

from jaxfm.data.records.source_files import split_folders
from jaxfm.data.records.spans import CharSpan
from jaxfm.data.records.tagged_builder import Columns, RawSplit, SplitBuilder, Splits
from jaxfm.errors import UserError

# Offsets of more digits are none of any file, and int() refuses thousands of them.
_ENTITY = re.compile(r"T\S*\t(\S+) ([0-9]{1,18}) ([0-9]{1,18})((?:;[0-9]+ [0-9]+)*)(?:\t(.*))?")


def find_brat(rest: str, columns: Columns) -> Splits:
    """Returns the splits of `brat:rest`: a folder with a folder for each split, or train=DIR,valid=DIR,test=DIR.

    A folder that holds the files themselves is the split that its name says, else train.
    """
    if columns.words_column or columns.tags_column or columns.document_column:
        raise UserError("data.words_column, tags_column and document_column: brat: files have no columns; leave them.")
    folders, listed = split_folders(rest, "brat", ".txt")
    return Splits({split: functools.partial(read_brat, folder) for split, folder in folders.items()}, listed)


def read_brat(folder: pathlib.Path) -> RawSplit:
    """Reads the texts of a folder, each a document; a sentence is a line, or the lines that an entity goes over.

    Of the annotations T lines alone are read. An entity in several pieces is left out and counted.
    Raises UserError: a text without its .ann file or the reverse, and `path:line:` for an entity that is none.
    """
    split = SplitBuilder(str(folder))
    texts = {path.stem: path for path in sorted(folder.glob("*.txt")) if not path.name.startswith(".")}
    marks = {path.stem: path for path in sorted(folder.glob("*.ann")) if not path.name.startswith(".")}
    for name in sorted(texts.keys() ^ marks.keys()):
        here = texts.get(name) or marks[name]
        other = here.with_suffix(".ann" if name in texts else ".txt")
        if other.suffix == ".ann" and name.lower() in ("readme", "license", "licence"):
            del texts[name]
            continue
        raise UserError(f"{here}: the file {other.name} beside it is missing; one without entities is empty.")
    for name, path in texts.items():
        text = _read(path)
        spans = _entities(split, marks[name], text)
        start = 0
        while start < len(text):
            end = _sentence_end(text, start, spans)
            inside = [(first - start, last - start, kind) for first, last, kind in spans if start <= first < end]
            origin = f"{path}:{text.count(chr(10), 0, start) + 1}"
            if text[start:end].strip():
                split.add_text(text[start:end], inside, origin, name)
            start = end
    return split.finish("marked")


def _sentence_end(text: str, start: int, spans: list[CharSpan]) -> int:
    end = start
    while True:
        line = text.find("\n", end)
        end = len(text) if line < 0 else line + 1
        crossing = [last for first, last, _ in spans if first < end < last]
        if not crossing:
            return end


def _entities(split: SplitBuilder, path: pathlib.Path, text: str) -> list[CharSpan]:
    spans = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line.startswith("T"):
            continue
        origin = f"{path}:{number}"
        match = _ENTITY.fullmatch(line)
        if not match:
            raise UserError(f"{origin}: {line!r} is not an entity: T1, a tab, TYPE START END, a tab and its text.")
        kind, start, end, more, surface = match[1], int(match[2]), int(match[3]), match[4], match[5]
        if more:
            split.count("entities in several pieces left out", origin)
            continue
        found = text[start:end]
        if not 0 <= start < end <= len(text) or not found.strip():
            raise UserError(
                f"{origin}: the entity {start}..{end} ({kind}) is not inside the text of {len(text)} characters."
            )
        if surface is not None and found.split() != surface.split():
            raise UserError(
                f"{origin}: the entity {start}..{end} ({kind}) says {surface!r}, but these characters are {found!r}. "
                "Offsets count the characters of the file, line ends too: not bytes, nor UTF-16 units."
            )
        spans.append((start, end, kind))
    return sorted(spans)


def _read(path: pathlib.Path) -> str:
    """The characters of a file as they are, line ends too, since offsets count them."""
    try:
        data = path.read_bytes()
        marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
        return data.decode(next((name for mark, name in marks if data.startswith(mark)), "utf-8"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}:{line}: byte 0x{error.object[error.start]:02X} is not {error.encoding.upper()} ({error.reason}). "
            "Convert the file, for instance: iconv -f LATIN1 -t UTF-8."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}.") from None
