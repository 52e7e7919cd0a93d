"""The tagged sentences of a split as a source has them, and the columns that they are read from."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jaxfm.data.records.spans import CharSpan, MarkedText, check_spans, flat_spans, mark_words
from jaxfm.data.records.table import choose_column
from jaxfm.data.text import tagging
from jaxfm.data.text.words import words_of
from jaxfm.errors import UserError

WORDS_COLUMNS = ("tokens", "words")
TAGS_COLUMNS = ("ner_tags", "ner", "tags", "labels")
DOCUMENT_COLUMNS = ("document", "document_id", "doc_id")

# As in the names of Wikipedias: en, zh-min-nan, simple.
_LANGUAGE = re.compile(r"[a-z]{2,6}(?:-[a-z]+)*:")

# Counted of each split: what a flat tagging cannot say.
OVERLAPPING = "entities that overlap a longer one left out"
Documents = Literal["marked", "stream", "none"]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns hold what (the `data.*_column` keys of a configuration); empty finds the usual ones.

    Attributes:
        words_column: name of the field (usual: tokens, words); for `conll:` a number, empty is 0; -1 is the last.
        tags_column: name of the field (usual: ner_tags, ner, tags, labels); for `conll:` a number, empty is -1.
        document_column: name of the field (usual: document, document_id, doc_id) that is equal in neighbouring
            sentences of one document; `conll:` has no such column but `-DOCSTART-` lines.
    """

    words_column: str = ""
    tags_column: str = ""
    document_column: str = ""


USUAL_COLUMNS = Columns()


class RawSentence(NamedTuple):
    """One sentence as read: tags are as the source writes them.

    `marked` is the text that the words were split from, where the source has entities in characters. `overlapping` are
    the entities that the tags leave out as they overlap a longer one, in characters if `marked` is given, else words.
    """

    words: list[str]
    tags: list[str]
    document: int
    origin: str
    marked: MarkedText | None = None
    overlapping: tuple[tagging.Span, ...] = ()


@dataclasses.dataclass(frozen=True)
class RawSplit:
    """One split as read.

    Attributes:
        source: where it was read, for the log.
        documents: "marked": the source says where documents start; "stream": in order, but without marks, so the whole
            split counts as one; "none": each sentence stands alone.
        dropped: sentences without a word, left out.
        tags: where each different tag was first seen.
        notes: what the log says of how it was read, `counts` included.
        counts: what was changed or left out, with its number and the first place.
        hint: what to set if these are not tags.
    """

    sentences: list[RawSentence]
    source: str
    documents: Documents
    dropped: int = 0
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hint: str = ""
    counts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Splits:
    """The splits that a source has, each with what reads it; `found` says what the source holds, for messages."""

    readers: dict[str, Callable[[], RawSplit]]
    found: str = ""


def choose_document_column(columns: Sequence[str], asked: str, source: str) -> str:
    """Returns the column with the document's name, or "" when none was asked for and none has a usual name."""
    if not asked and not set(DOCUMENT_COLUMNS) & set(columns):
        return ""
    return choose_column(columns, asked, DOCUMENT_COLUMNS, "document", source)


def name_tags(values: Sequence[Any], names: Sequence[str] | None, origin: str) -> list[str]:
    """Returns tags as text: strings as they are, numbers by `names`. Raises UserError naming `origin` for any other."""
    tags = []
    for value in values:
        if not isinstance(value, str):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise UserError(f"{origin}: tag {value!r} is neither text nor a number.")
            if names is None:
                raise UserError(
                    f"{origin}: tag {value!r} is a number without a name: write tags as text, such as B-PER."
                )
            if not 0 <= int(value) < len(names):
                raise UserError(f"{origin}: tag number {value} is outside 0..{len(names) - 1}, the named tags.")
            value = names[int(value)]
        tags.append(value)
    return tags


class SplitBuilder:
    """Collects the sentences of one split, numbers their documents and counts what is left out."""

    def __init__(self, source: str, hint: str = ""):
        self._source = source
        self._hint = hint
        self._sentences: list[RawSentence] = []
        self._dropped = 0
        self._document: Any = None
        self._number = -1
        self._tags: dict[str, str] = {}
        self._notes: list[str] = []
        self._counts: dict[str, tuple[int, str]] = {}

    def see(self, tag: str, origin: str) -> None:
        """Remembers the origin of a tag, for messages; `add` does so by the origin of its sentence."""
        self._tags.setdefault(tag, origin)

    def note(self, text: str) -> None:
        """Adds to what the log says."""
        self._notes.append(text)

    def count(self, what: str, origin: str, number: int = 1) -> None:
        """Adds to the number of `what` ("empty words left out") that the log gives, with the origin of the first."""
        if number:
            before, first = self._counts.get(what, (0, origin))
            self._counts[what] = (before + number, first)

    def add_spans(self, words: list[str], spans: Iterable[tagging.Span], origin: str, document: Any = None) -> None:
        """Adds one sentence with its entities in words, of any number and order, none beyond the words.

        Raises UserError as `add`, and for overlapping entities of a sentence with empty words.
        """
        flat, overlapping = flat_spans(set(spans))
        self.count(OVERLAPPING, origin, len(overlapping))
        if overlapping and any(not word.strip() for word in words):
            raise UserError(f"{origin}: overlapping entities, and an empty word: leave the empty words out.")
        self.add(words, tagging.write_tags(flat, len(words)), origin, document, overlapping)

    def add(
        self,
        words: list[str],
        tags: list[str],
        origin: str,
        document: Any = None,
        overlapping: Sequence[tagging.Span] = (),
    ) -> None:
        """Adds one sentence; `document` is any value that neighbours of one document share.

        Words that are empty or white space are left out, with their tags, and counted.
        Raises UserError naming `origin` unless each word has one tag, and for a NUL character in a word.
        """
        if len(words) != len(tags):
            raise UserError(f"{origin}: {len(words)} words but {len(tags)} tags: each word needs one tag.")
        for tag in tags:
            if tag not in self._tags:
                self._tags[tag] = origin
        if "" in words or any(map(str.isspace, words)):
            filled = [at for at, word in enumerate(words) if word and not word.isspace()]
            self.count("empty words left out", origin, len(words) - len(filled))
            words, tags = [words[at] for at in filled], [tags[at] for at in filled]
        if "\0" in "".join(words):
            word = next(word for word in words if "\0" in word)
            raise UserError(f"{origin}: a NUL character in the word {word!r}: no text has one, remove it.")
        self._append(words, tags, origin, document, overlapping=overlapping)

    def add_text(self, text: str, spans: Iterable[CharSpan], origin: str, document: Any = None) -> None:
        """Adds one text with its entities in characters, of any number and order.

        The words are those of `words_of`; a task that splits texts otherwise finds text and entities in `marked`, and
        says which entities start or end inside a word.

        Raises UserError naming `origin` as `check_spans` does, and for a NUL character.
        """
        if "\0" in text:
            raise UserError(f"{origin}: a NUL character at {text.index(chr(0))} of the text: remove it.")
        given = list(spans)
        checked = check_spans(text, given, origin)
        flat, overlapping = flat_spans(checked)
        self.count("entities with white space at an end, which is left out of them", origin, len({*given} - {*checked}))
        self.count(OVERLAPPING, origin, len(overlapping))
        offsets = words_of(text)
        marks = mark_words(offsets, flat)
        for tag in set(marks.tags) - self._tags.keys():
            self._tags[tag] = origin
        words = [sys.intern(text[start:end]) for start, end in offsets]
        tags = [sys.intern(tag) for tag in marks.tags]
        self._append(words, tags, origin, document, MarkedText(text, tuple(flat), tuple(offsets)), overlapping)

    def _append(
        self,
        words: list[str],
        tags: list[str],
        origin: str,
        document: Any,
        marked: MarkedText | None = None,
        overlapping: Sequence[tagging.Span] = (),
    ) -> None:
        if not words:
            self._dropped += 1
            return
        if self._number < 0 or document != self._document:
            self._number += 1
            self._document = document
        self._sentences.append(RawSentence(words, tags, self._number, origin, marked, tuple(overlapping)))

    def finish(self, documents: Documents) -> RawSplit:
        """Returns the split, without a language prefix that all its words have. Raises UserError if it is empty."""
        if self._sentences:
            self._take_off_prefix()
        if not self._sentences:
            raise UserError(f"{self._source}: the split is empty: it has no sentence with a word.")
        sentences = self._sentences
        if documents == "none":
            sentences = [sentence._replace(document=i) for i, sentence in enumerate(sentences)]
        counts = tuple(f"{number} {what} (first: {first})" for what, (number, first) in self._counts.items())
        notes = (*self._notes, *counts)
        return RawSplit(sentences, self._source, documents, self._dropped, self._tags, notes, self._hint, counts)

    def _take_off_prefix(self) -> None:
        """Takes "en:" off every word where each of at least three has it, as PAN-X (WikiANN) writes them."""
        match = _LANGUAGE.match(self._sentences[0].words[0])
        if not match or any(sentence.marked for sentence in self._sentences):
            return
        prefix = match[0]
        if not all(word.startswith(prefix) for sentence in self._sentences for word in sentence.words):
            return
        if sum(len(sentence.words) for sentence in self._sentences) < 3:
            return
        self.note(f"the prefix {prefix!r} of every word taken off")
        before, self._sentences, self._number, self._document = self._sentences, [], -1, None
        for words, tags, document, origin, _, overlapping in before:
            bare = [sys.intern(word.removeprefix(prefix)) for word in words]
            self.add(bare, tags, origin, document, overlapping)
