"""Documents of `text:` and `jsonl:` files and of tfds and hub data sets: streamed, one at a time."""

import functools
import itertools
import pathlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.corpora.documents import Document, Streams, joined_documents, whole_documents
from jaxfm.data.records import source_jsonl
from jaxfm.data.records.source_files import find_corpus_files, numbered_lines, numbered_pieces
from jaxfm.data.records.source_hf import open_hf, read_columns
from jaxfm.data.records.source_records import choose_field, named_splits
from jaxfm.data.records.source_tfds import decode_text, open_split, open_tfds, read_records
from jaxfm.errors import UserError

TEXT_SUFFIXES = (".txt", ".md")
TEXT_FIELDS = ("text", "content", "document")
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
        note = f"{split}: {_counted(paths)}"
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


def find_jsonl(rest: str, text_column: str) -> Streams:
    """Returns the splits of `jsonl:rest`: an object a line, with a field of text; see `find_corpus_files`."""
    files = find_corpus_files(rest, "jsonl", source_jsonl.SUFFIXES)
    return Streams(
        {
            split: lambda paths=paths: itertools.chain.from_iterable(_read_jsonl(path, text_column) for path in paths)
            for split, paths in files.items()
        },
        tuple(f"{split}: {_counted(paths)}" for split, paths in files.items()),
    )


def find_tfds(rest: str, text_column: str) -> Streams:
    """Returns the splits of `tfds:rest`, downloaded and prepared first where need be; raises as `open_tfds`."""
    builder, source = open_tfds(rest), f"tfds:{rest}"
    names = named_splits(builder.info.splits, source)
    field = _text_field(list(builder.info.features), text_column, source)
    return Streams(
        {split: functools.partial(_read_tfds, builder, name, source, field) for split, name in names.items()},
        tuple(f"{split}: {builder.info.splits[name].num_examples:,} records" for split, name in names.items()),
    )


def find_hf(rest: str, text_column: str) -> Streams:
    """Returns the splits of `hf:rest`, downloaded first where need be; raises as `open_hf`."""
    data, source = open_hf(rest), f"hf:{rest}"
    names = named_splits(data, source)
    fields = {name: _text_field(list(data[name].features), text_column, source) for name in names.values()}
    return Streams(
        {split: functools.partial(_read_hf, data, name, source, fields[name]) for split, name in names.items()},
        tuple(f"{split}: {len(data[name]):,} records" for split, name in names.items()),
    )


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


def _read_jsonl(path: pathlib.Path, text_column: str) -> Iterator[Document]:
    field = None
    for number, line in numbered_lines(path):
        if not line or line.isspace():
            continue
        origin = f"{path}:{number}"
        record = source_jsonl.parse_object(line, origin)
        if field is None:
            field = _text_field(list(record), text_column, origin)
        if field not in record:
            there = ", ".join(map(repr, record)) or "none"
            raise UserError(f"{origin}: no field {field!r}, which the lines before have; fields here: {there}.")
        yield from whole_documents(source_jsonl.require_text(record[field], field, origin), origin)


def _read_tfds(builder: Any, name: str, source: str, field: str) -> Iterator[Document]:
    data = open_split(builder, name, source)
    for index, record in enumerate(read_records(data, range(len(data)))):
        origin = f"{source}/{name}[{index}]"
        yield from whole_documents(decode_text(record[field], field, origin), origin)


def _read_hf(data: Mapping[str, Any], name: str, source: str, field: str) -> Iterator[Document]:
    values = itertools.chain.from_iterable(chunk[field] for chunk in read_columns(data[name], [field]))
    for index, value in enumerate(values):
        origin = f"{source}/{name}[{index}]"
        if not isinstance(value, str):
            raise UserError(f"{origin}: {reprlib.repr(value)} in {field!r} is not text.")
        yield from whole_documents(value, origin)


def _text_field(there: Sequence[str], asked: str, place: str) -> str:
    return choose_field(there, asked, TEXT_FIELDS, "text", place, option="text_column")


def _counted(paths: Sequence[pathlib.Path]) -> str:
    size = sum(path.stat().st_size for path in paths) / 1e6
    return f"{len(paths)} file{'s' * (len(paths) > 1)}, {size:,.1f} MB"
