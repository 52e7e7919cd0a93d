"""How the lines of a column file are cut into cells, and which column holds the words and which the tags."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from jaxfm.data.records.source_files import numbered_lines
from jaxfm.data.records.tag_forms import fitting_form
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.data.text import tagging
from jaxfm.errors import UserError

DOCSTART = "-DOCSTART-"
_LOOK = 2000  # lines that the layout is taken from
_MANY = 20  # lines from which on a column of numbers surely does not hold words
# Not str.split(): a no-break space belongs to its word.
_CELL = re.compile(r"[^ \t]+")
_PLACEHOLDERS = frozenset(("-X-", "_"))  # what labelling tools write for part of speech and chunk
_RANGE = re.compile(r"[0-9]+-[0-9]+")  # a multiword token of CoNLL-U; its words follow
_EMPTY = re.compile(r"[0-9]+\.[0-9]+")  # a word of CoNLL-U that the text does not have
_MISC_TAG = re.compile(r"(?:^|\|)(?:ner|ne|named_?entity)=([^|]*)", re.IGNORECASE)
_MISC_COLUMNS = 10  # of CoNLL-U
_HEADERS = frozenset("word words token tokens form text".split())  # first cell of a line of column names
_CHUNKS = frozenset("NP VP PP ADVP ADJP SBAR PRT CONJP INTJ LST UCP".split())  # types of CoNLL-2000's chunks

Row = tuple[int, list[str], bool]  # line, cells, whether it starts a sentence


class NoSentenceError(UserError):
    """A column file without any word."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of one file.

    Attributes:
        cut: what stands between cells: "tabs", "white space", or "spaces" with all after the third in the last cell.
        count: columns.
        word, tag: the column of each, from 0.
        line: the line that the layout was taken from.
        header: the line with the names of the columns, 0 where it is absent.
        numbers: whether column 0 numbers the words of a sentence.
        misc: whether the tag is in a cell of the form `SpaceAfter=No|ner=B-PER`.
        tags: those of the first lines, as they stand.
        notes: what differs from the usual, for the log.
    """

    cut: Literal["tabs", "white space", "spaces"]
    count: int
    word: int
    tag: int
    line: int
    header: int = 0
    numbers: bool = False
    misc: bool = False
    tags: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def cells(self, line: str) -> list[str]:
        """Returns the cells of a line."""
        if self.cut == "tabs":
            cells = line.split("\t")
            return [cell.strip(" ") for cell in cells] if " " in line else cells
        return line.split(" ", 3) if self.cut == "spaces" else _CELL.findall(line)

    def is_word(self, cells: list[str]) -> bool:
        """Returns whether a line that starts with # is a word and no comment.

        It is one where it has as many cells as the data and its tag is a tag, or where the first cell is "#topic": with
        tabs between cells such a line is not a comment.
        """
        if len(cells) != self.count or self.numbers:
            return False
        if self.cut == "tabs" and cells[0] != "#" and not cells[0].startswith("# "):
            return True
        tag = cells[self.tag]
        return tag in self.tags or tagging.TAG.fullmatch(tag) is not None

    def tag_in(self, cell: str) -> str:
        """Returns the tag of a cell of the tag column."""
        if not self.misc:
            return cell
        match = _MISC_TAG.search(cell)
        return match[1] if match else "O"

    def left_out(self, number: str) -> str:
        """Returns what a line of numbered words is if it is not a word, else ""."""
        if not self.numbers or number.isdigit():
            return ""
        if _RANGE.fullmatch(number):
            return "lines of multiword tokens (1-2) left out, whose words follow"
        return "empty nodes (1.1) left out" if _EMPTY.fullmatch(number) else ""

    @property
    def expected(self) -> str:
        """What a line should be, in words."""
        between = "white space" if self.cut == "spaces" else self.cut
        return f"{in_words(self.count)} with {between} between them are expected, as in line {self.line}"


def find_layout(path: pathlib.Path, columns: Columns) -> Layout:
    """Takes the layout from the first lines that must be data; if all start with #, from the first with a tab.

    The words are in column 0 and the tags in the last, unless column 0 numbers the words, or the last column holds no
    tags and just one other does, or holds an inner layer of the tags before it. `columns` goes before all that.
    Raises UserError: no data, one column, no such column, columns that cannot be told.
    """
    number, line = _first_line(path)
    cut: Literal["tabs", "white space", "spaces"] = "tabs" if "\t" in line else "white space"
    cells = line.split("\t") if cut == "tabs" else _CELL.findall(line)
    if cut != "tabs" and len(cells) >= 4 and set(cells[1:3]) <= _PLACEHOLDERS:
        cut, cells = "spaces", line.split(" ", 3)
    if len(cells) < 2:
        also = " For a file with commas between columns and their names in the first line write csv:."
        raise UserError(
            f"{path}:{number}: {in_words(len(cells))}, but a word and its tag need two: {line!r}.{also * (',' in line)}"
        )
    bare = Layout(cut, len(cells), 0, len(cells) - 1, number)
    rows = list(_rows(path, bare))
    header = number if rows and rows[0][0] == number and _is_header(rows[0][1]) else 0
    if header:
        del rows[0]
        rows[:1] = [(*rows[0][:2], True)] if rows else []
    origin = f"{path}:{number}"
    numbers = bare.count > 2 and _is_numbered(rows)
    if numbers:
        rows = [row for row in rows if row[1][0].isdigit()]
    tag, misc, notes = _find_tag(path, rows, bare, columns, numbers)
    if columns.words_column:
        word = _column_number("data.words_column", columns.words_column, bare.count, origin)
    elif numbers:
        word = 1
        notes.append("column 0 numbers the words, which are read from column 1")
    else:
        word = 1 if tag == 0 and not columns.tags_column else 0
        _refuse_numbers(rows, word, bare.count, origin)
    if word == tag:
        raise UserError(f"{origin}: the words and the tags are both read from column {word}: {line!r}.")
    tags = frozenset(cells[tag] for _, cells, _ in rows)
    return dataclasses.replace(
        bare, word=word, tag=tag, header=header, numbers=numbers, misc=misc, tags=tags, notes=tuple(notes)
    )


def numbered_layout(path: pathlib.Path) -> Layout | None:
    """Returns the layout of a file whose first column numbers the words, as in CoNLL-U; None for any other file.

    Unlike `find_layout` it needs no tags: predicting asks for words alone.
    """
    try:
        number, line = _first_line(path)
    except NoSentenceError:
        return None
    cut: Literal["tabs", "white space"] = "tabs" if "\t" in line else "white space"
    count = len(line.split("\t") if cut == "tabs" else _CELL.findall(line))
    layout = Layout(cut, count, word=1, tag=count - 1, line=number, numbers=True)
    return layout if count > 1 and _is_numbered(list(_rows(path, layout))) else None


def in_words(count: int) -> str:
    """Returns "1 column" or "3 columns"."""
    return f"{count} column{'' if count == 1 else 's'}"


def _first_line(path: pathlib.Path) -> tuple[int, str]:
    sample = None
    for number, line in numbered_lines(path):
        if not line or line.isspace() or line.startswith(DOCSTART):
            continue
        if line[0] != "#":
            return number, line
        if sample is None and "\t" in line:
            sample = (number, line)
    if sample is None:
        raise NoSentenceError(f"{path}: the split is empty: it has no sentence with a word.")
    return sample


def _rows(path: pathlib.Path, layout: Layout, limit: int | None = _LOOK) -> Iterator[Row]:
    """Yields the first lines with as many cells as the data has and no # in front."""
    starts = True
    for number, line in itertools.islice(numbered_lines(path), limit and 2 * limit):
        if not line or line.isspace() or line.startswith(DOCSTART):
            starts = True
        elif line[0] != "#" and len(cells := layout.cells(line)) == layout.count:
            yield number, cells, starts
            starts = False


def _is_numbered(rows: Sequence[Row]) -> bool:
    """Whether column 0 counts the words of each sentence, or all words, from 0 or 1 on; CoNLL-U's 1-2 and 1.1 too."""
    before = None
    for _, cells, starts in rows:
        first = cells[0]
        if _RANGE.fullmatch(first) or _EMPTY.fullmatch(first):
            continue
        if not (first.isascii() and first.isdigit()) or len(first) > 18:
            return False
        value = int(first)
        if value != (before if before is not None else value - 1) + 1 and not (starts and value in (0, 1)):
            return False
        if before is None and value not in (0, 1):
            return False
        before = value
    return before is not None


def _refuse_numbers(rows: Sequence[Row], word: int, count: int, origin: str) -> None:
    values = [cells[word] for _, cells, _ in rows]
    if count < 3 or len(values) < _MANY:
        return
    why = "nothing but numbers" if all(value.isdigit() for value in values) else ""
    why = why or (f"{values[0]!r} in every line" if len(set(values)) == 1 else "")
    if why:
        raise UserError(
            f"{origin}: column {word}, which should hold the words, has {why}: set data.words_column (0 is the first "
            f"column; {word} keeps this one)."
        )


def _find_tag(
    path: pathlib.Path, rows: Sequence[Row], layout: Layout, columns: Columns, numbers: bool
) -> tuple[int, bool, list[str]]:
    """Returns the column of the tags, whether they are inside MISC cells, and notes."""
    last, origin = layout.count - 1, f"{path}:{layout.line}"
    if columns.tags_column:
        tag = _column_number("data.tags_column", columns.tags_column, layout.count, origin)
        return tag, numbers and tag == last and _is_misc(rows, tag), []
    if numbers and layout.count == _MISC_COLUMNS and _is_misc(rows, last):
        return last, True, [f"tags from ner= in column {last}"]
    kinds = {column: _types(rows, column) for column in range(layout.count)}
    entities = [column for column in range(2 if numbers else 1, last) if kinds[column]]
    if layout.count == 2 and kinds[last] is None and kinds[0]:
        return 0, False, ["tags from column 0, words from column 1"]
    if kinds[last] is not None and entities:
        layers = numbers and len(entities) == last - 2  # nothing but tags after the word, as in GermEval 2014
        outer = entities[0] if layers else _outer_layer(path, layout, kinds, entities)
        if outer is None:
            return last, False, []
        note = f"tags from column {outer}; column {last} has tags too, as nested entities or predictions"
        return outer, False, [f"{note} have: data.tags_column={last} reads those"]
    if kinds[last] is None and len(entities) == 1:
        return entities[0], False, [f"tags from column {entities[0]}, as the last one holds none"]
    if kinds[last] is None and entities:
        several = " and ".join(map(str, entities))
        raise UserError(f"{origin}: the columns {several} hold tags, and the last one none: set data.tags_column.")
    return last, False, []


def _outer_layer(
    path: pathlib.Path, layout: Layout, kinds: Mapping[int, set[str] | None], entities: Sequence[int]
) -> int | None:
    """The first column of `entities` that has all types of the last one, None where no column has them."""
    last = layout.count - 1
    inner = kinds[last]
    if not inner:  # the first lines show no entity in it
        inner = _types(_rows(path, layout, None), last) or set()
    for column in entities:
        types = kinds[column] or set()
        if types >= inner and (inner or not types <= _CHUNKS):
            return column
    return None


def _is_header(cells: Sequence[str]) -> bool:
    return cells[0].lower() in _HEADERS and not any(map(tagging.TAG.fullmatch, cells))


def _types(rows: Iterable[Row], column: int) -> set[str] | None:
    """The types of the tags in a column, None where it holds no tags."""
    form = fitting_form(dict.fromkeys((cells[column] for _, cells, _ in rows), ""))
    return {name[2:] for name in form.names.values() if name != "O"} if form and form.names else None


def _is_misc(rows: Sequence[Row], column: int) -> bool:
    return any(_MISC_TAG.search(cells[column]) for _, cells, _ in rows)


def _column_number(option: str, value: str, count: int, origin: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", value):
        raise UserError(f"{option}={value!r}: the columns of conll: go by number, 0 the first and -1 the last.")
    if not -count <= int(value) < count:
        raise UserError(f"{origin}: {option}={value}, but the line has {in_words(count)}.")
    return int(value) % count
