"""JSON lines: `{"tokens": [...], "ner_tags": [...]}` or `{"text": "...", "entities": [{"start", "end", "label"}]}`."""

import functools
import json
import pathlib
import re
import sys
import unicodedata
from typing import Any

from jaxfm.data import tagging
from jaxfm.data.source_files import find_split_files, numbered_lines
from jaxfm.data.source_records import (
    TAGS_FIELDS,
    WORDS_FIELDS,
    Columns,
    RawSplit,
    SplitBuilder,
    Splits,
    choose_document_field,
    choose_field,
    name_tags,
)
from jaxfm.errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".json")


def find_jsonl(rest: str, columns: Columns) -> Splits:
    """Returns the splits of `jsonl:rest`; see `find_split_files` for the forms of `rest`."""
    files, listed = find_split_files(rest, "jsonl", SUFFIXES)
    readers = {split: lambda path=path: read_jsonl(path, columns) for split, path in files.items()}
    return Splits(readers, listed)


def read_jsonl(path: pathlib.Path, columns: Columns) -> RawSplit:
    """Reads one file: an object a line, of words and tags as text, or of a text and its entities by character offsets.

    Raises UserError `path:line:` for what is no such object, and `path:` when there is no sentence.
    """
    split = SplitBuilder(str(path))
    field = None  # of the document; the first object says whether there is one
    for number, line in numbered_lines(path):
        if not line or line.isspace():
            continue
        origin = f"{path}:{number}"
        record = parse_object(line, origin)
        words, tags = _sentence(record, columns, origin)
        here = choose_document_field(list(record), columns.document_column, origin)
        if field is None:
            field = here
        if here != field:
            raise UserError(f"{origin}: {field or here!r}, the document, must be in all lines or in none.")
        document = record[field] if field else None
        split.add([sys.intern(word) for word in words], [sys.intern(tag) for tag in tags], origin, document)
    return split.finish("marked" if field else "none")


def split_words(text: str) -> list[tuple[int, int]]:
    """Returns the words of a text as (start, end) character offsets; no character but white space is left out.

    A word is a run of letters, digits and underscores with their combining marks; any other sign is a word by itself.
    """
    return [match.span() for match in _word_pattern().finditer(text)]


def tag_text(text: str, entities: list[tuple[int, int, str]], origin: str) -> tuple[list[str], list[str]]:
    """Returns the words of `text` and their BIO tags for (start, end, label) entities in characters, `end` exclusive.

    A word that an entity starts or ends inside of is cut there, so every entity covers whole words and none is lost.
    Raises UserError naming `origin` for an entity outside the text, without a word in it, or overlapping another.
    """
    cuts: set[int] = set()
    end_before = 0
    for start, end, label in sorted(entities):
        if not 0 <= start < end <= len(text):
            raise UserError(
                f"{origin}: the entity {start}..{end} ({label}) is not inside the text of {len(text)} characters."
            )
        if start < end_before:
            raise UserError(
                f"{origin}: the entity {start}..{end} ({label}) overlaps the one before it: entities must be flat."
            )
        if text[start:end].isspace():
            raise UserError(f"{origin}: the entity {start}..{end} ({label}) covers nothing but white space.")
        cuts |= {start, end}
        end_before = end
    offsets: list[tuple[int, int]] = []
    for start, end in split_words(text):
        edges = [start, *(cut for cut in range(start + 1, end) if cut in cuts), end]
        offsets.extend(zip(edges[:-1], edges[1:], strict=True))
    spans, word = [], 0
    for start, end, label in sorted(entities):
        while offsets[word][0] < start:
            word += 1
        first = word
        while word < len(offsets) and offsets[word][1] <= end:
            word += 1
        spans.append((first, word, label))
    return [text[start:end] for start, end in offsets], tagging.write_tags(spans, len(offsets))


def parse_object(line: str, origin: str) -> dict[str, Any]:
    """Returns the object that a line holds. Raises UserError naming `origin` for anything else."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{origin}: not JSON: {error}. Each line must be one object.") from None
    except RecursionError:
        raise UserError(f"{origin}: the JSON is nested too deeply.") from None
    if not isinstance(record, dict):
        raise UserError(f"{origin}: a {type(record).__name__}, but each line must be one JSON object.")
    return record


def _sentence(record: dict[str, Any], columns: Columns, origin: str) -> tuple[list[str], list[str]]:
    there = list(record)
    by_words = columns.words_column or columns.tags_column or set(WORDS_FIELDS) & set(there)
    if "text" in record and "entities" in record and not by_words:
        return tag_text(require_text(record["text"], "text", origin), _entities(record["entities"], origin), origin)
    words_field = choose_field(there, columns.words_column, WORDS_FIELDS, "words", origin)
    tags_field = choose_field(there, columns.tags_column, TAGS_FIELDS, "tags", origin)
    words, tags = record[words_field], record[tags_field]
    for field, values in ((words_field, words), (tags_field, tags)):
        if not isinstance(values, list):
            raise UserError(f"{origin}: {field!r} is a {type(values).__name__}, but must be a list.")
    for word in words:
        if not require_text(word, words_field, origin).strip():
            raise UserError(f"{origin}: the word {word!r} in {words_field!r} is empty.")
    return words, name_tags(tags, None, origin)


def _entities(values: Any, origin: str) -> list[tuple[int, int, str]]:
    if not isinstance(values, list):
        raise UserError(f"{origin}: 'entities' is a {type(values).__name__}, but must be a list.")
    entities = []
    for value in values:
        fields = [value.get(name) for name in ("start", "end", "label")] if isinstance(value, dict) else [None] * 3
        start, end, label = fields
        if type(start) is not int or type(end) is not int or not isinstance(label, str):
            raise UserError(
                f'{origin}: {json.dumps(value)} is not an entity: {{"start": 0, "end": 5, "label": "PER"}}, '
                "in characters, end exclusive."
            )
        if not tagging.TAG.fullmatch(f"B-{label}"):
            raise UserError(f"{origin}: the label {label!r} must be a name without white space around it.")
        entities.append((start, end, label))
    return entities


def require_text(value: Any, field: str, origin: str) -> str:
    """Returns a value that is text. Raises UserError naming `origin` for any other, or for half a surrogate pair."""
    if not isinstance(value, str):
        raise UserError(f"{origin}: {json.dumps(value)} in {field!r} is a {type(value).__name__}, but must be text.")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise UserError(
            f"{origin}: {json.dumps(value)} in {field!r} has half of a surrogate pair, which is no character."
        )
    return value


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """Built from the Unicode tables, as `re` has no class of combining marks and counts them to no word."""
    # Marks lie in the first two planes and in the variation selectors of plane 14; the joiners bind letters too.
    codes = [*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)]
    marks = [code for code in codes if unicodedata.category(chr(code)).startswith("M")] + [0x200C, 0x200D]
    runs: list[list[int]] = []
    for code in sorted(marks):
        if runs and code == runs[-1][1] + 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    mark = "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in runs)
    return re.compile(rf"\w[\w{mark}]*|\S[{mark}]*")
