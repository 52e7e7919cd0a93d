"""Documents of plain text (`text:`) and of records with a column of text: streamed, one at a time."""

import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

from jaxfm.data.corpora.documents import Document, Streams, joined_documents, whole_documents
from jaxfm.data.records.registry import TableParts, open_corpus_tables
from jaxfm.data.records.source_files import files_size, find_corpus_files, numbered_pieces
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.table import Table, Tables, choose_column, listed, require_text
from jaxfm.errors import UserError

TEXT_SUFFIXES = (".txt", ".md")
TEXT_COLUMNS = ("text", "content", "document")
# Books are divided by empty lines too, and may be a megabyte and more.
_LOOK_CHARACTERS = 8 << 20
_NOTED_FILES = 20  # a split


def find_text(rest: str, text_column: str) -> Streams:
    """Returns the splits of `text:rest`: plain text, UTF-8, gzip where the name ends in .gz; see `find_corpus_files`.

    Documents are divided by empty lines in a file that has one among its first 8 million characters; in any other file
    each line is a document. Raises UserError `path:line:` for what is not text.
    """
    if text_column:
        raise UserError(f"text_column={text_column!r}: text: files have no columns; leave it empty.")
    files = find_corpus_files(rest, "text", TEXT_SUFFIXES)
    notes = []
    for split, paths in files.items():
        kinds: dict[bool, list[str]] = {True: [], False: []}
        for path in paths[:_NOTED_FILES]:
            kinds[is_divided(path)].append(path.name)
        note = f"{split}: {files_size(paths)}"
        note += f"; documents are divided by empty lines in {', '.join(kinds[True])}" if kinds[True] else ""
        note += f"; each line is a document in {', '.join(kinds[False])}" if kinds[False] else ""
        note += "; and so on, a file at a time" if len(paths) > _NOTED_FILES else ""
        notes.append(note)
    return Streams({split: functools.partial(_read_files, paths) for split, paths in files.items()}, tuple(notes))


def is_divided(path: pathlib.Path) -> bool:
    """Returns whether empty lines divide the documents of a file: whether one stands between lines of text."""
    seen, inside, text_above, empty_above = 0, False, False, False
    for _, piece, ends in numbered_pieces(path):
        blank = not inside and ends and not piece.strip()
        if text_above and empty_above and not blank:
            return True
        empty_above = text_above and blank
        text_above = text_above or not blank
        inside = not ends
        seen += len(piece) + 1
        if seen > _LOOK_CHARACTERS:
            break
    return False


def read_text(path: pathlib.Path, divided: bool) -> Iterator[Document]:
    """Yields the documents of one file, divided by empty lines or, if not, one a line.

    Raises UserError `path:line:` for a NUL byte (a binary file, or UTF-16) and for what is not UTF-8.
    """
    return joined_documents(_fragments(path, divided), str(path))


def find_records(scheme: str, rest: str, text_column: str, by: SplitKeys = NO_KEYS) -> Streams:
    """Returns the splits of a source of records with a column of text, of any format in `jaxfm/data/records/formats/`.

    The columns of `by` are not taken for the text.
    Raises UserError: no such files or data set, no column of text or several.
    """
    splits = {
        split: parts._replace(openers=_without(parts.openers, by, text_column))
        for split, parts in open_corpus_tables(scheme, rest, own=("text:DIR",)).items()
    }
    for parts in splits.values():
        first = parts.openers[0]()
        if first.declared is not None:
            _text_column(first.declared, text_column, first.source)
    return Streams(
        {split: functools.partial(_read_records, parts, text_column) for split, parts in splits.items()},
        tuple(f"{split}: {parts.size}" for split, parts in splits.items()),
    )


def _without(openers: Sequence[Callable[[], Table]], by: SplitKeys, text_column: str) -> list[Callable[[], Table]]:
    """Returns what opens tables without the columns of groups and times."""
    return [by.hide(Tables({"": opener}), (text_column,)).splits[""] for opener in openers]


def _read_files(paths: Sequence[pathlib.Path]) -> Iterator[Document]:
    for path in paths:
        yield from read_text(path, is_divided(path))


def _fragments(path: pathlib.Path, divided: bool) -> Iterator[tuple[int, str, bool]]:
    number, inside = 0, False
    for number, piece, ends in numbered_pieces(path):
        if "\0" in piece:
            raise UserError(
                f"{path}:{number}: a NUL byte: this is a binary file, or text in UTF-16. Text must be UTF-8; convert "
                "it, for instance: iconv -f UTF-16 -t UTF-8."
            )
        blank = not inside and ends and not piece.strip()
        yield number, piece + "\n" if ends else piece, ends and (blank or not divided)
        inside = not ends
    yield number, "", True


def _read_records(parts: TableParts, text_column: str) -> Iterator[Document]:
    for opener in parts.openers:
        yield from _read_table(opener(), text_column)


def _read_table(table: Table, text_column: str) -> Iterator[Document]:
    if table.declared is not None:
        column = _text_column(table.declared, text_column, table.source)
        for origin, (value,) in table.values((column,)):
            yield from whole_documents(require_text(value, column, origin), origin)
        return
    column = None
    for origin, row in table.read(None):
        if column is None:
            column = _text_column(list(row), text_column, origin)
        if column not in row:
            raise UserError(f"{origin}: no column {column!r}, which earlier records have; columns: {listed(row)}.")
        yield from whole_documents(require_text(row[column], column, origin), origin)


def _text_column(columns: Sequence[str], asked: str, source: str) -> str:
    return choose_column(columns, asked, TEXT_COLUMNS, "text", source, option="text_column")
