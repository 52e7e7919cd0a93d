"""Columns, one word a line: the files of CoNLL-2003, WNUT-17, Universal NER and most other NER data."""

import dataclasses
import pathlib
import re
import sys

from jaxfm.data import tagging
from jaxfm.data.source_files import find_split_files, numbered_lines
from jaxfm.data.source_records import Columns, RawSplit, SplitBuilder, Splits
from jaxfm.errors import UserError

SUFFIXES = (".conll", ".txt", ".tsv", ".bio", ".iob", ".iob2", ".conllu")
DOCSTART = "-DOCSTART-"
# Comments that start a document: CoNLL-U and CoNLL-2012.
_NEW_DOCUMENT = re.compile(r"#\s*(?:newdoc|begin document)\b")
# Not str.split(): a no-break space belongs to its word.
_CELL = re.compile(r"[^ \t]+")


def find_conll(rest: str, columns: Columns) -> Splits:
    """Returns the splits of `conll:rest`; see `find_split_files` for the forms of `rest`."""
    if columns.document_column:
        raise UserError(
            f"data.document_column={columns.document_column!r}: conll: files mark documents by {DOCSTART} lines; "
            "leave it empty."
        )
    files, listed = find_split_files(rest, "conll", SUFFIXES)
    readers = {split: lambda path=path: read_conll(path, columns) for split, path in files.items()}
    return Splits(readers, listed)


def read_conll(path: pathlib.Path, columns: Columns) -> RawSplit:
    """Reads one file: a word and its tag on a line, an empty line after each sentence.

    Cells are separated by tabs where the first line of data has one, else by white space; every line has as many.
    `-DOCSTART-` lines (and the comments `# newdoc`, `#begin document`) start a document and are no words; without any,
    each sentence is its own document. A line that starts with `#` is a word if its cells fit the data, else it is a
    comment, which may stand only between sentences, so that a damaged line never passes for one.
    Raises UserError `path:line:` for wrong cells, tags or bytes, and `path:` when there is no sentence.
    """
    layout = _find_layout(path, columns)
    split = SplitBuilder(str(path))
    words: list[str] = []
    tags: list[str] = []
    known_tags: set[str] = set()
    first_line = document = 0
    for number, line in numbered_lines(path):
        if not line or line.isspace() or line.startswith(DOCSTART):
            if words:
                split.add(words, tags, f"{path}:{first_line}", document)
                words, tags = [], []
            document += line.startswith(DOCSTART)
            continue
        cells = layout.cells(line)
        if line[0] == "#" and not layout.is_word(cells):
            if words:
                raise UserError(
                    f"{path}:{number}: neither a word ({layout.expected}) nor a comment, which stands between "
                    f"sentences: {line!r}."
                )
            document += _NEW_DOCUMENT.match(line) is not None
            continue
        if len(cells) != layout.count:
            raise UserError(f"{path}:{number}: {_columns(len(cells))}, but {layout.expected}: {line!r}.")
        word, tag = cells[layout.word], cells[layout.tag]
        if not word or word.isspace():
            raise UserError(f"{path}:{number}: the word (column {layout.word}) is empty: {line!r}.")
        if tag not in known_tags:
            if not tagging.TAG.fullmatch(tag):
                raise UserError(
                    f"{path}:{number}: {tag!r} (column {layout.tag}) is not a tag: {tagging.TAG_RULE}. "
                    "If the tags are in another column, set data.tags_column."
                )
            known_tags.add(tag)
        if not words:
            first_line = number
        words.append(sys.intern(word))
        tags.append(sys.intern(tag))
    if words:
        split.add(words, tags, f"{path}:{first_line}", document)
    return split.finish("marked" if document else "none")


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How the lines of one file are cut into cells; `line` is the one it was taken from."""

    tabs: bool
    count: int
    word: int
    tag: int
    line: int

    def cells(self, line: str) -> list[str]:
        if self.tabs:
            cells = line.split("\t")
            return [cell.strip(" ") for cell in cells] if " " in line else cells
        return _CELL.findall(line)

    def is_word(self, cells: list[str]) -> bool:
        """Whether a line that starts with # is a word: with tabs the count says so, else the tag must be one too."""
        return len(cells) == self.count and (self.tabs or tagging.TAG.fullmatch(cells[self.tag]) is not None)

    @property
    def expected(self) -> str:
        between = "tabs" if self.tabs else "white space"
        return f"{_columns(self.count)} with {between} between them are expected, as in line {self.line}"


def _find_layout(path: pathlib.Path, columns: Columns) -> _Layout:
    """Takes the layout from the first line that must be data; if all start with #, from the first with a tab."""
    sample = None
    for number, line in numbered_lines(path):
        if not line or line.isspace() or line.startswith(DOCSTART):
            continue
        if line[0] != "#":
            sample = (number, line)
            break
        if sample is None and "\t" in line:
            sample = (number, line)
    if sample is None:
        raise UserError(f"{path}: the split is empty: it has no sentence with a word.")
    number, line = sample
    tabs = "\t" in line
    count = len(line.split("\t") if tabs else _CELL.findall(line))
    if count < 2:
        raise UserError(f"{path}:{number}: {_columns(count)}, but a word and its tag need two: {line!r}.")
    word = _column_number("data.words_column", columns.words_column or "0", count, f"{path}:{number}")
    tag = _column_number("data.tags_column", columns.tags_column or "-1", count, f"{path}:{number}")
    if word == tag:
        raise UserError(f"{path}:{number}: the words and the tags are both read from column {word}: {line!r}.")
    return _Layout(tabs, count, word, tag, number)


def _column_number(option: str, value: str, count: int, place: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", value):
        raise UserError(f"{option}={value!r}: the columns of conll: go by number, 0 the first and -1 the last.")
    if not -count <= int(value) < count:
        raise UserError(f"{place}: {option}={value}, but the line has {_columns(count)}.")
    return int(value) % count


def _columns(count: int) -> str:
    return f"{count} column{'' if count == 1 else 's'}"
