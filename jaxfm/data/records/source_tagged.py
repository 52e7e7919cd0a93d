"""`csv:`, `tsv:`, `parquet:` and `hf:` tables of tagged words: a word, a sentence, a text or an entity a row."""

import ast
import functools
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.annotations import SPAN_FIELDS, TEXT_FIELDS, Fields, add_record, shown
from jaxfm.data.records.source_records import (
    TAGS_FIELDS,
    WORDS_FIELDS,
    Columns,
    RawSplit,
    SplitBuilder,
    Splits,
    choose_document_field,
)
from jaxfm.data.records.source_table import Table, Tables, find_table
from jaxfm.errors import UserError

WORD_FIELDS = (*WORDS_FIELDS, "word", "token")
TAG_FIELDS = (*TAGS_FIELDS, "tag", "label", "ner_tag", "iob", "bio")
SENTENCE_FIELDS = ("sentence #", "sentence_id", "sent_id", "sentence id", "sentence_idx", "sentence_number", "sentence")
_SPAN = ("text", "start", "end", "label")
_NUMPY_LIST = re.compile(r"""['"]\s+['"]""")  # ['a' 'b']: to Python one string
_HINT = "If the tags are in another field, set data.tags_column."


def find_tagged_table(kind: str, rest: str, columns: Columns) -> Splits:
    """Returns the splits of `csv:rest`, `tsv:rest` or `parquet:rest`, as `find_table` finds them."""
    return tagged_splits(find_table(kind, rest), columns)


def tagged_splits(tables: Tables, columns: Columns) -> Splits:
    """Returns tables as splits of tagged words."""
    return Splits(
        {split: functools.partial(_read, opener, columns) for split, opener in tables.splits.items()}, tables.others
    )


def _read(opener: Any, columns: Columns) -> RawSplit:
    return read_tagged_table(opener(), columns)


def read_tagged_table(table: Table, columns: Columns) -> RawSplit:
    """Reads a table whose rows are words, sentences, texts with entities, or entities with their text.

    - Words: a field of the word and one of the tag (Word, Tag), and one of the sentence (Sentence #, sentence_id),
      which is the same or empty in all words of one; without it an empty row ends a sentence.
    - Sentences and texts: the forms of `annotations.py`; a cell of csv holds a list as JSON or as Python
      prints it.
    - Entities: text, start, end, label; neighbours with the same text are one.

    Raises UserError with the place for what fits none of these.
    """
    document = choose_document_field(table.fields, columns.document_column, table.place)
    fields = _used(table, columns, document)
    rows = ((origin, dict(zip(fields, values, strict=True))) for origin, values in table.records(fields))
    first = next(rows, None)
    split = SplitBuilder(table.place, _HINT)
    if first is None:
        return split.finish("none")
    rows = itertools.chain([first], rows)
    word = _field(table.fields, columns.words_column, WORD_FIELDS)
    tag = _field(table.fields, columns.tags_column, TAG_FIELDS)
    if word and tag and _is_plain(first[1][word]) and _is_plain(first[1][tag]):
        _read_words(split, rows, word, tag, _field(table.fields, "", SENTENCE_FIELDS, {word, tag}), document)
    elif set(_SPAN) <= set(table.fields) and not columns.words_column:
        _read_entities(split, rows, document)
    else:
        _read_records(split, rows, table, columns, document)
    return split.finish("marked" if document else "none")


def _used(table: Table, columns: Columns, document: str) -> list[str]:
    """The fields to read: of a table with fields of words and tags by name, just those and what tells them apart."""
    words = {columns.words_column, *WORD_FIELDS} if columns.words_column else {*WORD_FIELDS}
    tags = {columns.tags_column, *TAG_FIELDS} if columns.tags_column else {*TAG_FIELDS}
    there = {name.lower() for name in table.fields}
    known = {name.lower() for name in words | tags} | {*SENTENCE_FIELDS, document.lower(), "answer"}
    if not (there & {name.lower() for name in words} and there & {name.lower() for name in tags}) or "text" in there:
        return list(table.fields)
    return [name for name in table.fields if name.lower() in known]


def _field(there: Sequence[str], asked: str, usual: Sequence[str], taken: set[str] | None = None) -> str:
    """The field asked for, or the first usual one there, whatever its case; "" for none."""
    if asked:
        return asked if asked in there else ""
    lower = {name.lower(): name for name in reversed(there) if name not in (taken or ())}
    return next((lower[name] for name in usual if name in lower), "")


def _is_plain(value: Any) -> bool:
    """Whether a cell holds one word or tag, not a list of them."""
    return value is None or (isinstance(value, str) and not value.lstrip().startswith(("[", "{"))) or value == "["


def _read_words(
    split: SplitBuilder, rows: Iterator[tuple[str, dict[str, Any]]], word: str, tag: str, sentence: str, document: str
) -> None:
    words: list[str] = []
    tags: list[str] = []
    start, before, last_document, borders = "", None, None, 0
    for origin, row in rows:
        value, label = row[word] or "", row[tag] or ""
        if not isinstance(value, str) or not isinstance(label, str):
            raise UserError(f"{origin}: {shown(value)} and {shown(label)} are not a word and its tag as text.")
        here = row[sentence] if sentence else None
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
            start, last_document = origin, row[document] if document else None
        words.append(sys.intern(value.strip()))
        tags.append(sys.intern(label.strip()))
    if words:
        split.add(words, tags, start, last_document)
    if not borders and not sentence and len(words) > 1000:
        raise UserError(
            f"{start}: {len(words):,} words and nothing that says where a sentence ends: add a column sentence_id, or "
            "an empty row after each sentence."
        )


def _read_entities(split: SplitBuilder, rows: Iterator[tuple[str, dict[str, Any]]], document: str) -> None:
    for _, same in itertools.groupby(rows, lambda row: (row[1]["text"], row[1].get("id"))):
        group = list(same)
        origin, row = group[0]
        spans = [
            [entity["start"], entity["end"], entity["label"]]
            for _, entity in group
            if entity["start"] not in (None, "") or entity["label"]
        ]
        add_record(
            split,
            {"text": row["text"], "entities": spans},
            Fields(Columns(), {}),
            origin,
            row[document] if document else None,
        )


def _read_records(
    split: SplitBuilder, rows: Iterator[tuple[str, dict[str, Any]]], table: Table, columns: Columns, document: str
) -> None:
    fields = Fields(_as_named(table.fields, columns), table.class_names)
    plain = {field.lower() for field in TEXT_FIELDS}
    for origin, row in rows:
        record = {
            field: value if field.lower() in plain else _parsed(value, field, origin) for field, value in row.items()
        }
        add_record(split, record, fields, origin, row[document] if document else None)


def _as_named(there: Sequence[str], columns: Columns) -> Columns:
    """The columns asked for; where none is, those that have a usual name but for its case."""
    if columns.words_column or columns.tags_column or set(there) & {*TEXT_FIELDS, *SPAN_FIELDS, *WORDS_FIELDS}:
        return columns
    return Columns(_field(there, "", (*WORD_FIELDS, *TEXT_FIELDS)), _field(there, "", (*TAG_FIELDS, *SPAN_FIELDS)))


def _parsed(value: Any, field: str, origin: str) -> Any:
    """A cell that holds a list or an object, as JSON or as Python prints it; any other as it is."""
    if not isinstance(value, str) or value[:1] not in ("[", "{") or value[-1:] not in ("]", "}"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    if _NUMPY_LIST.search(value):
        raise UserError(
            f"{origin}: {shown(value)} in {field!r} is a list without commas, as NumPy prints it: use JSON."
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
