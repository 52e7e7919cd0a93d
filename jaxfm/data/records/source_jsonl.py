"""`jsonl:`: a JSON object a line, or one JSON array of them, of tagged words or texts with entities."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from jaxfm.data.records.annotations import Fields, add_record, require_text
from jaxfm.data.records.source_files import LINE_BYTES, find_split_files, numbered_lines
from jaxfm.data.records.source_records import Columns, RawSplit, SplitBuilder, Splits, choose_document_field
from jaxfm.errors import UserError

__all__ = ["SUFFIXES", "find_jsonl", "json_values", "parse_object", "read_jsonl", "require_text"]

SUFFIXES = (".jsonl", ".ndjson", ".json")
_SPACE = " \t\n\r"


def find_jsonl(rest: str, columns: Columns) -> Splits:
    """Returns the splits of `jsonl:rest`; see `find_split_files` for the forms of `rest`."""
    files, listed = find_split_files(rest, "jsonl", SUFFIXES)
    readers = {split: lambda path=path: read_jsonl(path, columns) for split, path in files.items()}
    return Splits(readers, listed)


def read_jsonl(path: pathlib.Path, columns: Columns) -> RawSplit:
    """Reads one file of objects in any form of `jaxfm.data.records.annotations`, a line each or in one array.

    Raises UserError `path:line:` for what is no such object, and `path:` when there is no sentence.
    """
    split = SplitBuilder(str(path), "If the tags are in another field, set data.tags_column.")
    fields = Fields(columns, {})
    field = None  # of the document; the first object says whether there is one
    for origin, record in json_values(path):
        there = list(record) if isinstance(record, dict) else []
        here = choose_document_field(there, columns.document_column, origin)
        if field is None:
            field = here
        if here != field:
            raise UserError(f"{origin}: {field or here!r}, the document, must be in all lines or in none.")
        add_record(split, record, fields, origin, record[field] if field else None)
    return split.finish("marked" if field else "none")


def json_values(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """Yields (path:line, value) of a file with a value a line, or of one array or object over several lines.

    Raises UserError `path:line:` for what is not JSON.
    """
    lines = ((number, line) for number, line in numbered_lines(path) if line and not line.isspace())
    number, line = next(lines, (0, ""))
    if not number:
        return
    if _is_whole(line):
        yield from _whole_values(path)
        return
    yield f"{path}:{number}", _parse(line, f"{path}:{number}")
    for number, line in lines:
        yield f"{path}:{number}", _parse(line, f"{path}:{number}")


def parse_object(line: str, origin: str) -> dict[str, Any]:
    """Returns the object that a line holds. Raises UserError naming `origin` for anything else."""
    record = _parse(line, origin)
    if not isinstance(record, dict):
        raise UserError(f"{origin}: a {type(record).__name__}, but each line must be one JSON object.")
    return record


def _parse(line: str, origin: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"{origin}: not JSON: {error}. Each line must be one object.") from None
    except RecursionError:
        raise UserError(f"{origin}: the JSON is nested too deeply.") from None


def _is_whole(line: str) -> bool:
    """Whether the first line begins a value over several lines, or an array of records."""
    if line[0] not in "[{" and line.lstrip()[:1] not in ("[", "{"):
        return False
    if line.strip() in ("[", "{"):
        return True
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line.lstrip()[0] == "["
    if isinstance(value, dict):
        return _inner_records(value) is not None
    return bool(value) and all(isinstance(item, dict | list) for item in value)


def _inner_records(value: dict[str, Any]) -> list[Any] | None:
    """The records of an annotator's file: {"classes": [...], "annotations": [[text, {"entities": ...}], ...]}."""
    records = value.get("annotations")
    if "classes" in value and isinstance(records, list) and "text" not in value:
        return [record for record in records if record is not None]
    return None


def _whole_values(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    text, decoder = _whole_text(path), json.JSONDecoder()
    at = line_at = 0
    line = 1
    inside = after = False  # an array; a value that a comma must follow
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        line, line_at = line + text.count("\n", line_at, at), at
        origin = f"{path}:{line}"
        sign = text[at : at + 1]
        if not sign:
            if inside:
                raise UserError(f"{origin}: not JSON: the array has no end; the file seems to be cut.")
            return
        if sign == "[" and not inside and not after:
            inside, at = True, at + 1
        elif inside and sign == "]":
            inside, after, at = False, False, at + 1
        elif inside and after:
            if sign != ",":
                raise UserError(f"{origin}: not JSON: a comma must stand between two values of an array.")
            after, at = False, at + 1
        else:
            try:
                value, at = decoder.raw_decode(text, at)
            except ValueError as error:
                place = f"{path}:{getattr(error, 'lineno', line)}"
                raise UserError(f"{place}: not JSON: {getattr(error, 'msg', error)}.") from None
            except RecursionError:
                raise UserError(f"{origin}: the JSON is nested too deeply.") from None
            records = _inner_records(value) if isinstance(value, dict) else None
            if records is None:
                yield origin, value
            else:
                yield from ((f"{origin}[{number}]", record) for number, record in enumerate(records))
            after = inside


def _whole_text(path: pathlib.Path) -> str:
    lines, size = [], 0
    for number, line in numbered_lines(path):
        size += len(line) + 1
        if size > LINE_BYTES:
            raise UserError(
                f"{path}:{number}: one JSON value of more than {LINE_BYTES >> 20} MiB: write a line for each record."
            )
        lines.append(line)
    return "\n".join(lines)
