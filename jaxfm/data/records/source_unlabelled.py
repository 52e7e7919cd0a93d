"""Texts to predict on, from a file of any form that sources have: one record at a time, in bounded memory."""

import dataclasses
import functools
import itertools
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.conll_layout import DOCSTART, numbered_layout
from jaxfm.data.records.examples import PAIR_FIELDS, TEXT_FIELDS
from jaxfm.data.records.source_files import LINE_BYTES, numbered_lines, numbered_pieces
from jaxfm.data.records.source_jsonl import parse_object
from jaxfm.data.records.source_records import WORDS_FIELDS, choose_field
from jaxfm.data.records.source_table import open_table
from jaxfm.data.text import tagging
from jaxfm.errors import UserError

# Ending of a file's name -> how it is read; .gz may follow each but .parquet.
FORMS = {
    ".txt": "txt",
    **dict.fromkeys((".jsonl", ".ndjson"), "jsonl"),
    ".json": "json",
    ".csv": "csv",
    **dict.fromkeys((".tsv", ".tab"), "tsv"),
    ".parquet": "parquet",
    **dict.fromkeys((".conll", ".conllu", ".bio", ".iob", ".iob2"), "conll"),
}
ID = "id"  # the field that is copied to the result

Record = dict[str, Any]
"""{"text": ..., "pair": ..., "tokens": [word, ...], "id": ..., "origin": "in.csv:3"}: the fields there are."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a model reads.

    Attributes:
        pairs: whether it judges pairs of texts.
        words: whether it takes texts that are words already, as "tokens".
        given: `text_column`, `pair_column`, `words_column` that the user asks for: they must be there.
        trained: the same of the run's config, and `label_column`: taken where they are there.
    """

    pairs: bool = False
    words: bool = False
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)
    trained: Mapping[str, str] = dataclasses.field(default_factory=dict)


def form_of(path: pathlib.Path) -> str:
    """Returns how a file is read, by its ending. Raises UserError for one that is absent or ends in anything else."""
    if path.is_dir():
        raise UserError(f"--input={path}: is a directory; name a file.")
    name = path.name.lower()
    form = FORMS.get(pathlib.PurePath(name.removesuffix(".gz")).suffix)
    if form is None or (form == "parquet" and name.endswith(".gz")):
        endings = ", ".join(FORMS)
        raise UserError(
            f"--input={path}: what the file holds is known by the ending of its name, which must be one of {endings} "
            "(.gz may follow all but .parquet)."
        )
    if not path.exists():
        raise UserError(f"--input={path}: there is no such file.")
    return form


def read_unlabelled(
    path: pathlib.Path, wanted: Wanted, note: Callable[[str], None] = lambda text: None
) -> Iterator[Record]:
    """Yields the records of a file in its order, each checked by `check_record`.

    .txt: a text a line, an empty line too (of pairs, a tab between them). .jsonl and .ndjson: an object a line; empty
    lines are none. .json: an array of objects, or objects one after the other. .csv and .tsv: the names of columns
    first. .parquet: columns. .conll and its like: a word a line, an empty line after each sentence, other columns than
    that of the words are not read. Fields are found by what was asked for, the run's own names, "text" and "pair", and
    the usual names of the data sources. `note` is told which were taken where that was not "text".

    Raises:
      UserError: `path:line:` for what is no such record, and as `form_of`.
    """
    form = form_of(path)
    if form == "txt":
        records = _lines(path, wanted)
    elif form == "conll":
        records = _sentences(path, wanted, note)
    elif form in ("jsonl", "json"):
        objects = _objects_by_line(path) if form == "jsonl" else _objects(path)
        records = _of_objects(objects, wanted, note)
    else:
        records = _of_table(form, path, wanted, note)
    for record in records:
        yield check_record(record, wanted)


def check_record(record: Record, wanted: Wanted) -> Record:
    """Returns a record that a model can read.

    Raises UserError naming its origin: a text that is not text or holds what is no character, a pair where single texts
    are judged or the other way round, words where text is read.
    """
    origin = record["origin"]
    words = record.get("tokens")
    if words is not None:
        if not wanted.words:
            if record.get("text") is None:
                raise UserError(f'{origin}: this model reads text, not words: give it as "text".')
            record = {name: value for name, value in record.items() if name != "tokens"}
        elif not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{origin}: the tokens are {_shown(words)}, but must be a list of words.")
        else:
            for word in words:
                if not _checked(word, "word", origin).strip():
                    raise UserError(f"{origin}: the word {word!r} is empty: leave it out.")
    if "text" in record or words is None:
        _checked(record.get("text"), "text", origin)
    if record.get("pair") is None:
        record = {name: value for name, value in record.items() if name != "pair"}
    if ("pair" in record) != wanted.pairs:
        rule = "judges single texts: leave the second one out"
        if wanted.pairs:
            rule = 'judges pairs of texts: give the second text too (--pair="TEXT", a tab between them, or "pair")'
        raise UserError(f"{origin}: this model {rule}.")
    if "pair" in record:
        _checked(record["pair"], "second text", origin)
    if ID in record:
        record = {**record, ID: _identity(record[ID], origin)}
    return record


def split_pair(line: str, origin: str) -> Record:
    """Returns the record of a pair of texts with a tab between them. Raises UserError naming `origin` without one."""
    texts = line.split("\t")
    if len(texts) != 2 and line.strip():
        raise UserError(
            f"{origin}: has {len(texts) - 1} tabs; this model judges pairs of texts, one tab between them. (Or give "
            'the second text as --pair="TEXT", and in files as a column.)'
        )
    return {"text": texts[0], "pair": texts[1] if len(texts) == 2 else "", "origin": origin}


def _checked(value: Any, what: str, origin: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{origin}: the {what} is {_shown(value)}, but must be text.")
    if "\0" in value:
        raise UserError(f"{origin}: a NUL byte in the {what}: this is a binary file, or text in UTF-16; text is UTF-8.")
    if not value.isascii() and (half := re.search("[\ud800-\udfff]", value)):
        raise UserError(
            f"{origin}: character {half.start() + 1} of the {what} ({half[0]!a}) is half of a surrogate pair, which is "
            "no character. Mend the text."
        )
    return value


def _identity(value: Any, origin: str) -> Any:
    """The value of "id" as JSON can hold it."""
    if isinstance(value, str):
        return _checked(value, "id", origin)
    is_plain = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else str(value)


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value!r:.60} ({type(value).__name__})"


# --- text ---


def _lines(path: pathlib.Path, wanted: Wanted) -> Iterator[Record]:
    for number, line in numbered_lines(path):
        origin = f"{path}:{number}"
        yield split_pair(line, origin) if wanted.pairs else {"text": line, "origin": origin}


def _sentences(path: pathlib.Path, wanted: Wanted, note: Callable[[str], None]) -> Iterator[Record]:
    """The words of a file in columns, a sentence at a time."""
    if not wanted.words:
        raise UserError(
            f"--input={path}: holds words, a line each, but this model reads texts: give .txt, .jsonl or .csv."
        )
    asked = wanted.given.get("words_column") or wanted.trained.get("words_column")
    numbered = None if asked else numbered_layout(path)
    if numbered is not None:
        note(f"{path.name}: column 0 numbers the words, which are read from column 1")
    column = asked or ("0" if numbered is None else "1")
    if not re.fullmatch("-?[0-9]+", column):
        raise UserError(f"--config.data.words_column={column}: columns of {path.name} go by number, 0 the first.")
    words: list[str] = []
    first, count, tabs, empty = 0, 0, False, 0
    for number, line in itertools.chain(numbered_lines(path), [(0, "")]):
        if not line or line.isspace() or line.startswith(DOCSTART):
            if words:
                yield {"tokens": words, "origin": f"{path}:{first}"}
            words = []
            continue
        if not count and line[0] != "#":
            tabs = "\t" in line
            count = len(_split(line, tabs))
        cells = _split(line, tabs)
        if line[0] == "#" and not words and _is_comment(cells, count):
            continue
        if not -len(cells) <= int(column) < len(cells):
            raise UserError(f"{path}:{number}: has {len(cells)} columns, none of them {column}: {_shown(line)}.")
        if numbered is not None and numbered.left_out(cells[0]):
            continue
        word = cells[int(column)]
        empty += not word
        if word:
            first = first if words else number
            words.append(word)
    if empty:
        note(f"{path.name}: {empty} empty words left out")


def _split(line: str, tabs: bool) -> list[str]:
    return [cell.strip(" ") for cell in line.split("\t")] if tabs else re.findall("[^ \t]+", line)


def _is_comment(cells: Sequence[str], count: int) -> bool:
    """Whether a line between sentences that starts with # is a comment: it has not the columns of a word and tag."""
    if cells[0] != "#":
        return len(cells) != count
    return len(cells) != count or count < 2 or not tagging.TAG.fullmatch(cells[-1])


# --- JSON ---


def _objects_by_line(path: pathlib.Path) -> Iterator[tuple[str, Record]]:
    for number, line in numbered_lines(path):
        if line and not line.isspace():
            yield f"{path}:{number}", parse_object(line, f"{path}:{number}")


def _objects(path: pathlib.Path) -> Iterator[tuple[str, Record]]:
    """The objects of an array, or one after the other; one of them is in memory at a time."""
    stream = _Json(path)
    is_array = stream.skip("[")
    while not stream.at_end():
        if is_array and stream.skip("]"):
            break
        origin = f"{path}:{stream.line}"
        found = stream.value()
        if not isinstance(found, dict):
            raise UserError(
                f"{origin}: {_shown(found)}, but the file must be an array of objects, or objects one after the other."
            )
        yield origin, found
        if is_array and not stream.skip(","):
            if not stream.skip("]"):
                raise stream.error("a comma or ] after an object is missing")
            break
        if is_array and stream.next_is("]"):
            raise stream.error("an object after the comma is missing")
    else:
        if is_array:
            raise stream.error("the array does not end: ] is missing")
    if not stream.at_end():
        raise stream.error("something follows the array")


class _Json:
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
        """Adds at least that many characters, if there are any."""
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
        """Goes on to the next character that is no white space; whether there is none."""
        while True:
            rest = re.compile(r"[ \t\r\n]*").match(self._text, self._at)
            assert rest is not None
            self.line += rest[0].count("\n")
            self._at = rest.end()
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
                found, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # What goes on in text not yet read fails where that text begins, or a few characters before (\\u1234).
                cut = error.pos >= len(self._text.rstrip()) - 12 or error.msg.startswith("Unterminated string")
                size = len(self._text) - self._at
                if cut and size > LINE_BYTES:
                    raise self.error(f"the object is longer than {LINE_BYTES >> 20} MiB") from None
                line = self.line + self._text.count("\n", self._at, error.pos)
                if cut and self._more(size):
                    continue
                raise UserError(f"{self._path}:{line}: not JSON: {error.msg}.") from None
            except (RecursionError, ValueError) as error:
                raise self.error(f"{error}") from None
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return found


def _of_objects(objects: Iterable[tuple[str, Record]], wanted: Wanted, note: Callable[[str], None]) -> Iterator[Record]:
    chosen: dict[tuple[str, ...], dict[str, str]] = {}
    for origin, found in objects:
        fields = tuple(found)
        if fields not in chosen:
            if len(chosen) > 1000:  # objects of any keys must not fill the memory
                chosen.clear()
            chosen[fields] = _choose(fields, wanted, origin, note if not chosen else None)
        yield {**{name: found[field] for name, field in chosen[fields].items()}, "origin": origin}


# --- tables ---


def _of_table(form: str, path: pathlib.Path, wanted: Wanted, note: Callable[[str], None]) -> Iterator[Record]:
    # As for training: columns by number belong to files without a header. One number may name a column too, unless it
    # was asked for here, where no label makes it two.
    names = [name for name in {**wanted.trained, **wanted.given}.values() if name]
    by_number = len(names) > (not any(wanted.given.values())) and all(re.fullmatch("[0-9]+", name) for name in names)
    table = open_table(form, [path], header=form == "parquet" or not by_number)
    chosen = _choose(table.fields, wanted, str(path), note)
    for origin, values in table.records(tuple(chosen.values())):
        yield {**dict(zip(chosen, values, strict=True)), "origin": origin}


def _choose(
    fields: Sequence[str], wanted: Wanted, place: str, note: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Returns which field of a record is its "text", "pair", "tokens" and "id"."""
    choose = functools.partial(_choose_one, fields, wanted, place)
    chosen: dict[str, str] = {}
    words = choose("words", WORDS_FIELDS) if wanted.words else ""
    if wanted.pairs:
        chosen["text"], chosen["pair"] = _choose_pair(fields, wanted, place)
    elif text := choose("text", ("text",)):
        chosen["text"] = text
        if text == "text" and "pair" in fields:
            chosen["pair"] = "pair"  # which `check_record` refuses where it is not empty
    elif not words:
        if not wanted.words and set(WORDS_FIELDS) & set(fields) and not set(TEXT_FIELDS) & set(fields):
            raise UserError(f'{place}: this model reads text, not words: give it as "text" (there: {_named(fields)}).')
        chosen["text"] = choose_field(fields, "", TEXT_FIELDS, "text", place, option="--config.data.text_column")
    if words:
        chosen["tokens"] = words
    if ID in fields and ID not in chosen.values():
        chosen[ID] = ID
    unusual = [f"{name} is {field!r}" for name, field in chosen.items() if name != field]
    if unusual and note is not None:
        note(f"{place}: {', '.join(unusual)}")
    return chosen


def _choose_one(fields: Sequence[str], wanted: Wanted, place: str, what: str, usual: Sequence[str]) -> str:
    """The field asked for, that of the run, or the first usual one; "" where none of them is there."""
    key = f"{what}_column"
    if given := wanted.given.get(key):
        return choose_field(fields, given, (), what, place, option=f"--config.data.{key}")
    trained = wanted.trained.get(key)
    return next((name for name in (trained, *usual) if name and name in fields), "")


def _choose_pair(fields: Sequence[str], wanted: Wanted, place: str) -> tuple[str, str]:
    options = "--config.data.text_column and --config.data.pair_column"
    text, pair = (_choose_one(fields, wanted, place, what, (what,)) for what in ("text", "pair"))
    if text and pair:
        return text, pair
    fitting = [both for both in PAIR_FIELDS if set(both) <= set(fields)]
    if len(fitting) == 1 and not wanted.given:
        return fitting[0]
    if len(fitting) > 1:
        several = " and ".join("+".join(both) for both in fitting)
        raise UserError(f"{place}: {several} could both be the pair of texts: set {options}.")
    missing = "pair of texts" if not text and not pair else "second text" if text else "first text"
    raise UserError(
        f"{place}: this model judges pairs of texts, but no field for the {missing} was found (there: "
        f"{_named(fields)}): set {options}."
    )


def _named(fields: Sequence[str]) -> str:
    return ", ".join(map(repr, fields)) or "nothing"
