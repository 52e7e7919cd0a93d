"""Texts to predict on, from a file of any form that sources have: one record at a time, in bounded memory."""

import dataclasses
import functools
import itertools
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from jaxfm.data.records.conll_layout import DOCSTART, numbered_layout
from jaxfm.data.records.examples import PAIR_COLUMNS, TEXT_COLUMNS
from jaxfm.data.records.registry import file_formats, open_file
from jaxfm.data.records.source_files import numbered_lines
from jaxfm.data.records.table import Table, choose_column, listed
from jaxfm.data.records.tagged_builder import WORDS_COLUMNS
from jaxfm.data.text import tagging
from jaxfm.errors import UserError

_CONLL = (".conll", ".conllu", ".bio", ".iob", ".iob2")
_LAYOUTS = 1000  # of ragged rows that are remembered: objects of any keys must not fill the memory
ID = "id"  # the column that is copied to the result

Record = dict[str, Any]
"""{"text": ..., "pair": ..., "tokens": [word, ...], "id": ..., "origin": "in.csv:3"}: those that the file has."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a model reads.

    Attributes:
        pairs: whether it judges pairs of texts.
        words: whether it also takes texts split into words, as "tokens".
        given: `text_column`, `pair_column`, `words_column` that the user asks for: they must be present.
        trained: the same of the run's config, and `label_column`: taken where they are present.
        fields: further fields of a record that are handed on as they are, where they are present.
    """

    pairs: bool = False
    words: bool = False
    given: Mapping[str, str] = dataclasses.field(default_factory=dict)
    trained: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fields: tuple[str, ...] = ()


def endings() -> tuple[str, ...]:
    """Returns the endings of files that can be read; ".gz" may follow all but those of a format that says otherwise."""
    return (".txt", *file_formats(), *_CONLL)


def form_of(path: pathlib.Path) -> Literal["txt", "conll", "table"]:
    """Returns how a file is read, by its ending: as lines of text, lines of words, or a table.

    Raises UserError for one that is absent or has any other ending.
    """
    if path.is_dir():
        raise UserError(f"--input={path}: is a directory; name a file.")
    name = path.name.lower()
    suffix = pathlib.PurePath(name.removesuffix(".gz")).suffix
    never_gzip = [ending for ending, form in file_formats().items() if not form.gzip]
    if suffix not in endings() or (suffix in never_gzip and name.endswith(".gz")):
        raise UserError(
            f"--input={path}: the ending of the name says how the file is read; it must be one of "
            f"{', '.join(endings())} (.gz may follow all but {', '.join(never_gzip)})."
        )
    if not path.exists():
        raise UserError(f"--input={path}: no such file.")
    return "txt" if suffix == ".txt" else "conll" if suffix in _CONLL else "table"


def read_unlabelled(
    path: pathlib.Path, wanted: Wanted, note: Callable[[str], None] = lambda text: None
) -> Iterator[Record]:
    """Yields the records of a file in its order, each checked by `check_record`.

    .txt: a text a line, an empty line too (of pairs, a tab between them). .conll and its like: a word a line, an empty
    line after each sentence; only the column of the words is read. All others are tables, see
    `jaxfm/data/records/formats/`. Columns are those asked for, then those of the run's config, then "text" and "pair",
    then the usual names of the data sources. `note` is told which were taken where that was not "text".

    Raises:
      UserError: `path:line:` for a damaged record, and as `form_of`.
    """
    form = form_of(path)
    if form == "txt":
        records = _lines(path, wanted)
    elif form == "conll":
        records = _sentences(path, wanted, note)
    else:
        records = _rows(open_file(path, by_number=_is_by_number(wanted)), wanted, note)
    for record in records:
        yield check_record(record, wanted)


def check_record(record: Record, wanted: Wanted) -> Record:
    """Returns a record that a model can read.

    Raises UserError naming its origin: a text that is not text or not valid Unicode, a pair where single texts
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
            f"{origin}: character {half.start() + 1} of the {what} ({half[0]!a}) is half of a surrogate pair: this is "
            "not valid text, repair it."
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


# --- tables ---


def _is_by_number(wanted: Wanted) -> bool:
    """Whether columns are named by number, which as for training belong to files without a header.

    A single number may be a column's name too, unless it was given here, where no label makes it two.
    """
    names = [name for name in {**wanted.trained, **wanted.given}.values() if name]
    return len(names) > (not any(wanted.given.values())) and all(re.fullmatch("[0-9]+", name) for name in names)


def _rows(table: Table, wanted: Wanted, note: Callable[[str], None]) -> Iterator[Record]:
    if table.declared is not None:
        chosen = _choose(table.declared, wanted, table.source, note)
        for origin, values in table.values(tuple(chosen.values())):
            yield {**dict(zip(chosen, values, strict=True)), "origin": origin}
        return
    by_columns: dict[tuple[str, ...], dict[str, str]] = {}
    for origin, row in table.read(None):
        columns = tuple(row)
        if columns not in by_columns:
            if len(by_columns) > _LAYOUTS:
                by_columns.clear()
            by_columns[columns] = _choose(columns, wanted, origin, None if by_columns else note)
        yield {**{name: row[column] for name, column in by_columns[columns].items()}, "origin": origin}


def _choose(
    columns: Sequence[str], wanted: Wanted, source: str, note: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Returns which column of a record is its "text", "pair", "tokens" and "id"."""
    choose = functools.partial(_choose_one, columns, wanted, source)
    chosen: dict[str, str] = {}
    words = choose("words", WORDS_COLUMNS) if wanted.words else ""
    if wanted.pairs:
        chosen["text"], chosen["pair"] = _choose_pair(columns, wanted, source)
    elif text := choose("text", ("text",)):
        chosen["text"] = text
        if text == "text" and "pair" in columns:
            chosen["pair"] = "pair"  # which `check_record` refuses where it is not empty
    elif not words:
        if not wanted.words and set(WORDS_COLUMNS) & set(columns) and not set(TEXT_COLUMNS) & set(columns):
            raise UserError(
                f'{source}: this model reads text, not words: give it as "text" (columns: {listed(columns)}).'
            )
        chosen["text"] = choose_column(columns, "", TEXT_COLUMNS, "text", source, option="--config.data.text_column")
    if words:
        chosen["tokens"] = words
    if ID in columns and ID not in chosen.values():
        chosen[ID] = ID
    chosen |= {name: name for name in wanted.fields if name in columns and name not in chosen}
    unusual = [f"{name} is {column!r}" for name, column in chosen.items() if name != column]
    if unusual and note is not None:
        note(f"{source}: {', '.join(unusual)}")
    return chosen


def _choose_one(columns: Sequence[str], wanted: Wanted, source: str, what: str, usual: Sequence[str]) -> str:
    """The column given, that of the run, or the first usual one; "" where all of them are absent."""
    key = f"{what}_column"
    if given := wanted.given.get(key):
        return choose_column(columns, given, (), what, source, option=f"--config.data.{key}")
    trained = wanted.trained.get(key)
    return next((name for name in (trained, *usual) if name and name in columns), "")


def _choose_pair(columns: Sequence[str], wanted: Wanted, source: str) -> tuple[str, str]:
    options = "--config.data.text_column and --config.data.pair_column"
    text, pair = (_choose_one(columns, wanted, source, what, (what,)) for what in ("text", "pair"))
    if text and pair:
        return text, pair
    fitting = [both for both in PAIR_COLUMNS if set(both) <= set(columns)]
    if len(fitting) == 1 and not wanted.given:
        return fitting[0]
    if len(fitting) > 1:
        several = " and ".join("+".join(both) for both in fitting)
        raise UserError(f"{source}: {several} could both be the pair of texts: set {options}.")
    missing = "pair of texts" if not text and not pair else "second text" if text else "first text"
    raise UserError(
        f"{source}: this model judges pairs of texts, but no column for the {missing} was found (columns: "
        f"{listed(columns)}): set {options}."
    )
