"""`jsonl:` JSON objects: a line each, or in one array or one after the other over several lines.

A pair `["text", {...}]` (spaCy 2) is the object with that text. Of an annotator's file (`{"classes": [...],
"annotations": [...]}`) the annotations are the objects, of SQuAD's nested file the questions.
"""

import functools
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jaxfm.data.records.source_files import LINE_BYTES, file_names, files_size, numbered_lines, numbered_pieces
from jaxfm.data.records.squad import questions_of
from jaxfm.data.records.table import FileFormat, Row, Table
from jaxfm.errors import UserError

_SPACE = re.compile(r"[ \t\r\n]*")


def open_jsonl(paths: Sequence[pathlib.Path], by_number: bool = False) -> Table:
    """Returns files of JSON objects as one ragged table."""
    del by_number  # the objects name their columns
    return Table(
        file_names(paths), None, functools.partial(_read, paths), size=files_size(paths), folder=paths[0].parent
    )


def _read(paths: Sequence[pathlib.Path], asked: Sequence[str] | None) -> Iterator[Row]:
    for path in paths:
        for origin, record in _objects(path):
            yield Row(origin, record if asked is None else {name: record[name] for name in asked if name in record})


def _objects(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (path:line, object) of a file. Raises UserError `path:line:` for what is not a JSON object."""
    lines = ((number, line) for number, line in numbered_lines(path) if line and not line.isspace())
    first, line = next(lines, (0, ""))
    if not first:
        return
    if _spans_lines(line, path):
        yield from _streamed(path)
        return
    yield f"{path}:{first}", _parse(line, f"{path}:{first}")
    for number, line in lines:
        yield f"{path}:{number}", _parse(line, f"{path}:{number}")


def _parse(line: str, origin: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{origin}: not JSON: {error}. Each line must be one object.") from None
    except RecursionError:
        raise UserError(f"{origin}: the JSON is nested too deeply.") from None
    return _as_object(value, origin)


def _as_object(value: Any, origin: str) -> dict[str, Any]:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict):
        value = {"text": value[0], **value[1]}
    if not isinstance(value, dict):
        raise UserError(f"{origin}: a {type(value).__name__}, but each record must be one JSON object.")
    return value


def _spans_lines(line: str, path: pathlib.Path) -> bool:
    """Whether a file with this first line holds values over several lines, or an array of records."""
    sign = line.lstrip()[0]
    if sign not in "[{":
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return sign == "[" or line.strip() == "{" or path.name.lower().removesuffix(".gz").endswith(".json")
    if isinstance(value, dict):
        return _inner_records(value) is not None
    return all(isinstance(item, dict | list) for item in value)


def _inner_records(value: dict[str, Any]) -> list[Any] | None:
    """The records of an annotator's file: {"classes": [...], "annotations": [[text, {"entities": ...}], ...]}.

    Those of SQuAD's file are its questions.
    """
    if "data" in value:
        return questions_of(value)
    records = value.get("annotations")
    if "classes" in value and isinstance(records, list) and "text" not in value:
        return [record for record in records if record is not None]
    return None


def _streamed(path: pathlib.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of an array, or one after the other; one of them is in memory at a time."""
    stream = _JsonStream(path)
    is_array = stream.skip("[")
    line = same = 0
    while not stream.at_end():
        if is_array and stream.skip("]"):
            break
        same = same + 1 if stream.line == line else 0
        line = stream.line
        origin = f"{path}:{line}[{same}]" if same else f"{path}:{line}"  # each record has its own place
        value = stream.value()
        records = _inner_records(value) if isinstance(value, dict) else None
        if records is None:
            yield origin, _as_object(value, origin)
        else:
            for number, record in enumerate(records):
                yield f"{origin}[{number}]", _as_object(record, f"{origin}[{number}]")
        if is_array and not stream.skip(","):
            if stream.skip("]"):
                break
            if not stream.at_end():
                raise stream.error("a comma or ] after an object is missing")
        if is_array and stream.next_is("]"):
            raise stream.error("an object after the comma is missing")
    else:
        if is_array:
            raise stream.error("the array does not end: ] is missing, so the file seems to be cut")
    if not stream.at_end():
        raise stream.error("something follows the array")


class _JsonStream:
    """The text of a file, cut into JSON values as they are asked for."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._pieces = numbered_pieces(path)
        self._text, self._at = "", 0
        self.line = 1  # of the next value
        self._decode = json.JSONDecoder().raw_decode

    def error(self, why: str) -> UserError:
        return UserError(f"{self._path}:{self.line}: not JSON: {why}.")

    def _more(self, least: int = 1) -> bool:
        """Adds at least that many characters, if the file has any more."""
        added: list[str] = []
        size = 0
        for _, piece, ends in self._pieces:
            added.append(piece + "\n" if ends else piece)
            size += len(added[-1])
            if size >= least:
                break
        self._text, self._at = self._text[self._at :] + "".join(added), 0
        return bool(added)

    def at_end(self) -> bool:
        """Goes to the next character that is not white space; whether the file ends before it."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None, "it matches the empty text"
            self.line += space[0].count("\n")
            self._at = space.end()
            if self._at < len(self._text):
                return False
            if not self._more():
                return True

    def next_is(self, sign: str) -> bool:
        return not self.at_end() and self._text[self._at] == sign

    def skip(self, sign: str) -> bool:
        found = self.next_is(sign)
        self._at += found
        return found

    def value(self) -> Any:
        """Returns the value that starts here."""
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A value that goes on in text not yet read fails where that text begins, or a few characters before it
                # (\\u1234).
                cut = error.pos >= len(self._text.rstrip()) - 12 or error.msg.startswith("Unterminated string")
                size = len(self._text) - self._at
                if cut and size > LINE_BYTES:
                    raise self.error(f"the object is longer than {LINE_BYTES >> 20} MiB") from None
                line = self.line + self._text.count("\n", self._at, error.pos)
                if cut and self._more(size):
                    continue
                raise UserError(f"{self._path}:{line}: not JSON: {error.msg}.") from None
            except RecursionError:
                raise self.error("it is nested too deeply") from None
            except ValueError as error:
                raise self.error(f"{error}") from None
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return value


FORMAT = FileFormat("jsonl", (".jsonl", ".ndjson", ".json"), open_jsonl)
