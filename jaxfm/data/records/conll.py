"""Columns, one word a line: the files of CoNLL-2003, WNUT-17, Universal NER and most other NER data."""

import functools
import pathlib
import re
import sys
from collections.abc import Sequence

from jaxfm.data.records.conll_layout import DOCSTART, Layout, find_layout, in_words
from jaxfm.data.records.source_files import find_split_files, numbered_lines
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.data.records.tagged_builder import Columns, RawSplit, SplitBuilder, Splits
from jaxfm.errors import UserError

SUFFIXES = (".conll", ".txt", ".tsv", ".bio", ".iob", ".iob2", ".conllu", ".bmes", ".bioes", ".annotated")
# Comments that start a document: CoNLL-U and CoNLL-2012.
_NEW_DOCUMENT = re.compile(r"#\s*(?:newdoc|begin document)\b")


def find_conll(rest: str, columns: Columns) -> Splits:
    """Returns the splits of `conll:rest`; see `find_split_files` for the forms of `rest`."""
    if columns.document_column:
        raise UserError(
            f"data.document_column={columns.document_column!r}: conll: files mark documents by {DOCSTART} lines; "
            "leave it empty."
        )
    files, listed = find_split_files(rest, "conll", SUFFIXES)

    @functools.cache
    def first_layout() -> Layout:
        return find_layout(files[next(split for split in SPLIT_NAMES if split in files)], columns)

    def read(path: pathlib.Path) -> RawSplit:
        if len(files) == 1 or (columns.words_column and columns.tags_column):
            return read_conll(path, columns)
        # A small split may not show which its columns are.
        first = first_layout()
        same = Columns(str(first.word), str(first.tag) if first.tag < first.count - 1 else "-1")
        return read_conll(path, same, first.notes)

    readers = {split: functools.partial(read, path) for split, path in files.items()}
    return Splits(readers, listed)


def read_conll(path: pathlib.Path, columns: Columns, notes: Sequence[str] = ()) -> RawSplit:
    """Reads one file: a word and its tag on a line, an empty line after each sentence.

    Cells are separated by tabs where the first line of data has one, else by white space; every line has as many. For
    which column is which see `find_layout`. An empty word is left out and counted.
    `-DOCSTART-` lines (and the comments `# newdoc`, `#begin document`) start a document and are not words; without any,
    each sentence is its own document. A line that starts with `#` is a word if its cells fit the data, else it is a
    comment, which may stand only between sentences, so that a damaged line is never taken for one.
    Raises UserError `path:line:` for wrong cells or bytes, and `path:` for a file without a sentence.
    """
    layout = find_layout(path, columns)
    hint = f"Tags are read from column {layout.tag}; if they are in another one, set data.tags_column."
    split = SplitBuilder(str(path), hint)
    for note in notes or layout.notes:
        split.note(note)
    if layout.header:
        split.note(f"line {layout.header} left out, the names of the columns")
    word_column, tag_column, count = layout.word, layout.tag, layout.count
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
            if len(cells) == count and not layout.numbers:
                split.count(
                    "lines that start with # taken for comments, though as wide as the data", f"{path}:{number}"
                )
            document += _NEW_DOCUMENT.match(line) is not None
            continue
        if number == layout.header:
            continue
        if len(cells) != count:
            raise UserError(f"{path}:{number}: {in_words(len(cells))}, but {layout.expected}: {line!r}.")
        word, tag = cells[word_column], cells[tag_column]
        if layout.numbers and (what := layout.left_out(cells[0])):
            split.count(what, f"{path}:{number}")
            continue
        if layout.misc:
            tag = layout.tag_in(tag)
        if tag not in known_tags:
            split.see(tag, f"{path}:{number}")
            known_tags.add(tag)
        if not word or word.isspace():
            split.count("empty words left out", f"{path}:{number}")
            continue
        if not words:
            first_line = number
        words.append(sys.intern(word))
        tags.append(sys.intern(tag))
    if words:
        split.add(words, tags, f"{path}:{first_line}", document)
    return split.finish("marked" if document else "none")
