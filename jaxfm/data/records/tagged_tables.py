"""`csv:`, `tsv:`, `parquet:` and `hf:` tables of tagged words: a word, a sentence, a text or an entity a row."""

import ast
import dataclasses
import functools
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.annotations import SPAN_COLUMNS, TEXT_COLUMNS, Fields, add_record
from jaxfm.data.records.table import Row, Table, Tables, shown, usual_column
from jaxfm.data.records.tagged_builder import (
    DOCUMENT_COLUMNS,
    TAGS_COLUMNS,
    WORDS_COLUMNS,
    Columns,
    RawSplit,
    SplitBuilder,
    Splits,
    choose_document_column,
)
from jaxfm.errors import UserError

WORD_COLUMNS = (*WORDS_COLUMNS, "word", "token")
TAG_COLUMNS = (*TAGS_COLUMNS, "tag", "label", "ner_tag", "iob", "bio")
SENTENCE_COLUMNS = (
    "sentence #",
    "sentence_id",
    "sent_id",
    "sentence id",
    "sentence_idx",
    "sentence_number",
    "sentence",
)
_SPAN = ("text", "start", "end", "label")
_NUMPY_LIST = re.compile(r"""['"]\s+['"]""")  # ['a' 'b']: to Python one string
_HINT = "If the tags are in another column, set data.tags_column."


def tagged_splits(tables: Tables, columns: Columns) -> Splits:
    """Returns tables as splits of tagged words."""
    readers = {split: functools.partial(_open_and_read, opener, columns) for split, opener in tables.splits.items()}
    return Splits(readers, tables.found)


def _open_and_read(opener: Callable[[], Table], columns: Columns) -> RawSplit:
    return read_tagged_table(opener(), columns)


def read_tagged_table(table: Table, columns: Columns) -> RawSplit:
    """Reads a table whose rows are words, sentences, texts with entities, or entities with their text.

    - Words: a column of the word and one of the tag (Word, Tag), and one of the sentence (Sentence #, sentence_id),
      which is the same or empty in all words of one; without it an empty row ends a sentence.
    - Sentences and texts: the forms of `annotations.py`; a cell of csv holds a list as JSON or as Python
      prints it.
    - Entities: text, start, end, label; neighbours with the same text are one.

    Raises UserError with the row's origin for what fits none of these.
    """
    rows = table.read(_used(table, columns))
    first = next(rows, None)
    split = SplitBuilder(table.source, _HINT)
    if first is None:
        return split.finish("none")
    rows = itertools.chain([first], rows)
    present = table.declared or tuple(first.values)
    document = choose_document_column(
        present, columns.document_column, table.source if table.declared else first.origin
    )
    word = _column(present, columns.words_column, WORD_COLUMNS)
    tag = _column(present, columns.tags_column, TAG_COLUMNS)
    if word and tag and _is_word(first.values[word], first.values[tag]):
        _read_words(split, rows, word, tag, usual_column(present, SENTENCE_COLUMNS, {word, tag}), document)
    elif set(_SPAN) <= set(present) and not columns.words_column:
        _read_entities(split, rows, document)
    else:
        _read_records(split, rows, table, columns, document)
    return split.finish("marked" if document else "stream" if table.running_text else "none")


def _used(table: Table, columns: Columns) -> list[str] | None:
    """The columns to read, None for all: of a table with columns of words and tags by name, those and their like."""
    if table.declared is None or any(name and name not in table.declared for name in dataclasses.astuple(columns)):
        return None
    words = {name.lower() for name in (columns.words_column, *WORD_COLUMNS) if name}
    tags = {name.lower() for name in (columns.tags_column, *TAG_COLUMNS) if name}
    lower = {name.lower() for name in table.declared}
    if not (lower & words and lower & tags) or "text" in lower:
        return None
    known = {*words, *tags, *SENTENCE_COLUMNS, *DOCUMENT_COLUMNS, columns.document_column.lower(), "answer"}
    return [name for name in table.declared if name.lower() in known]


def _column(columns: Sequence[str], asked: str, usual: Sequence[str]) -> str:
    """The column asked for, or the first with a usual name; "" where it is absent."""
    if asked:
        return asked if asked in columns else ""
    return usual_column(columns, usual)


def _is_word(word: Any, tag: Any) -> bool:
    """Whether two cells hold a word and its tag, not lists of them."""
    return _is_plain(word) and _is_plain(tag) and (isinstance(word, str) or isinstance(tag, str))


def _is_plain(value: Any) -> bool:
    """Whether a cell holds one word or tag, not a list of them."""
    return value is None or (isinstance(value, str) and not value.lstrip().startswith(("[", "{"))) or value == "["


def _read_words(split: SplitBuilder, rows: Iterator[Row], word: str, tag: str, sentence: str, document: str) -> None:
    words: list[str] = []
    tags: list[str] = []
    start, before, last_document, borders = "", None, None, 0
    for origin, row in rows:
        value, label = row.get(word) or "", row.get(tag) or ""
        if not isinstance(value, str) or not isinstance(label, str):
            raise UserError(f"{origin}: {shown(value)} and {shown(label)} are not a word and its tag as text.")
        here = row.get(sentence) if sentence else None
        blank = not value.strip() and not label.strip() and here in (None, "")
        begins = here not in (None, "", before) if sentence else blank
        if begins and words:
            split.add(words, tags, start, last_document)
            words, tags = [], []
            borders += 1
        before = here if here not in (None, "") else before
        if blank:
            continue
        split.see(label, origin)
        if not words:
            start, last_document = origin, row.get(document) if document else None
        words.append(sys.intern(value.strip()))
        tags.append(sys.intern(label.strip()))
    if words:
        split.add(words, tags, start, last_document)
    if not borders and not sentence and len(words) > 1000:
        raise UserError(
            f"{start}: {len(words):,} words and nothing that says where a sentence ends: add a column sentence_id, or "
            "an empty row after each sentence."
        )


def _read_entities(split: SplitBuilder, rows: Iterator[Row], document: str) -> None:
    for _, same in itertools.groupby(rows, lambda row: (row.values.get("text"), row.values.get("id"))):
        group = list(same)
        origin, row = group[0]
        spans = [
            [entity.get("start"), entity.get("end"), entity.get("label")]
            for _, entity in group
            if entity.get("start") not in (None, "") or entity.get("label")
        ]
        record = {"text": row.get("text"), "entities": spans}
        add_record(split, record, Fields(Columns(), {}), origin, row.get(document) if document else None)


def _read_records(split: SplitBuilder, rows: Iterator[Row], table: Table, columns: Columns, document: str) -> None:
    text_columns = {name.lower() for name in TEXT_COLUMNS}
    fields = Fields(_as_named(table.declared, columns) if table.declared else columns, table.class_names)
    for origin, record in rows:
        here = choose_document_column(list(record), columns.document_column, origin)
        if here != document:
            raise UserError(f"{origin}: {document or here!r}, the document, must be in all records or in none.")
        if table.declared:  # rows of a ragged table are JSON objects: their values need no parsing
            record = {
                name: value if name.lower() in text_columns else _parsed(value, name, origin)
                for name, value in record.items()
            }
        add_record(split, record, fields, origin, record[document] if document else None)


def _as_named(present: Sequence[str], columns: Columns) -> Columns:
    """The columns asked for; where none is, those that have a usual name but for its case."""
    if columns.words_column or columns.tags_column or set(present) & {*TEXT_COLUMNS, *SPAN_COLUMNS, *WORDS_COLUMNS}:
        return columns
    return Columns(
        usual_column(present, (*WORD_COLUMNS, *TEXT_COLUMNS)), usual_column(present, (*TAG_COLUMNS, *SPAN_COLUMNS))
    )


def _parsed(value: Any, column: str, origin: str) -> Any:
    """A cell that holds a list or an object, as JSON or as Python prints it; any other as it is."""
    if not isinstance(value, str) or value[:1] not in ("[", "{") or value[-1:] not in ("]", "}"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if _NUMPY_LIST.search(value):
        raise UserError(
            f"{origin}: {shown(value)} in {column!r} is a list without commas, as NumPy prints it: use JSON."
        )
    try:
        return _plain_values(ast.literal_eval(value))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def _plain_values(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, list | tuple):
        return [_plain_values(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain_values(item) for key, item in value.items()}
    return value
