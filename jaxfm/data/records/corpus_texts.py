"""The texts of a corpus to search in: one record at a time, from a file of any form, each with an id of its own."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.records.registry import open_file
from jaxfm.data.records.source_unlabelled import ID, Wanted, check_record, form_of, read_unlabelled
from jaxfm.data.records.table import listed, require_text
from jaxfm.errors import UserError

TITLE, ANSWER, QUESTION, FIELDS = "title", "answer", "question", "fields"
OWN_COLUMNS = ("text", ID, TITLE, ANSWER, QUESTION, "pair", "tokens", "origin")
"""What a text is made of: none of `fields` may be one of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class CorpusText:
    """A text that can be found.

    Attributes:
      id: of the record; where there is no such column its number in the file, from 1.
      text: what is searched, without the title.
      title: "" where there is none.
      answer: what is given for it in answer mode; None where there is no such column.
      origin: where it was read.
      fields: further columns that were asked for, JSON values; an absent one is left out.
    """

    id: Any
    text: str
    title: str = ""
    answer: str | None = None
    origin: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def searched(self) -> str:
        """Title and text with a space between them, as a model or BM25 reads them."""
        return f"{self.title} {self.text}" if self.title else self.text

    def to_dict(self) -> dict[str, Any]:
        """Returns what a result shows."""
        values = {"id": self.id, "text": self.text}
        values |= {TITLE: self.title} if self.title else {}
        values |= {FIELDS: dict(self.fields)} if self.fields else {}
        return values if self.answer is None else values | {ANSWER: self.answer}


def from_dict(values: Mapping[str, Any]) -> CorpusText:
    """Returns the text that `to_dict` gave."""
    return CorpusText(
        values["id"], values["text"], values.get(TITLE, ""), values.get(ANSWER), "", values.get(FIELDS, {})
    )


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A corpus, read anew from its start at each iteration.

    Attributes:
      name: of its file, or "texts in memory".
      read: yields its records, unchecked.
      answers: whether each has to have an answer.
    """

    name: str
    read: Callable[[], Iterator[CorpusText]]
    answers: bool = False

    def __iter__(self) -> Iterator[CorpusText]:
        """Yields the texts but those that are blank. Raises UserError for one without an answer where it needs one."""
        return filter(self._is_kept, self.read())

    def check(self) -> "Facts":
        """Reads the whole corpus once. Raises UserError: it has no text, an id twice, a record that cannot be read."""
        digest, count, blank, seen = hashlib.sha256(), 0, 0, set()
        for each in self.read():
            if not self._is_kept(each):
                blank += 1
                continue
            short = hash(_name(each.id))
            if short in seen:  # 64 bits of an id, which take less memory; what they are of is looked up
                self._refuse_twice(each)
            seen.add(short)
            further = (dict(each.fields),) if each.fields else ()  # without any: the hash that older indexes have
            digest.update(repr((_name(each.id), each.title, each.text, each.answer, *further)).encode("utf-8"))
            count += 1
        if not count:
            raise UserError(f"--corpus={self.name}: has no text: there is nothing to find.")
        return Facts(count, digest.hexdigest(), blank)

    def _is_kept(self, each: CorpusText) -> bool:
        if self.answers and not (each.answer or "").strip():
            raise UserError(f"{each.origin}: has no answer, which --answer needs of every record.")
        return bool(each.searched.strip())

    def _refuse_twice(self, second: CorpusText) -> None:
        for each in self:
            if each.origin == second.origin:
                return
            if _name(each.id) == _name(second.id):
                raise UserError(
                    f"{second.origin}: the id {second.id} is that of {each.origin} too: ids say what was found, so "
                    "each is given once. Repair it, or leave the column out: records then go by number."
                )


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a corpus holds.

    Attributes:
      count: number of texts.
      sha256: hash over all that is read of them.
      blank: records without text, which are left out.
    """

    count: int
    sha256: str
    blank: int = 0


def corpus_file(
    path: pathlib.Path,
    *,
    answers: bool = False,
    columns: Mapping[str, str] | None = None,
    fields: Sequence[str] = (),
    note: Callable[[str], None] = lambda text: None,
) -> Corpus:
    """Returns the corpus of a file: .txt (a text a line), .jsonl, .csv, .tsv, .parquet, with .gz or without.

    Of a table are read "id", "title" and "answer" where they are present, and the text as for prediction ("text", else
    the usual names); with `answers` the question, where it has one, is the text.

    Args:
      path: of the file.
      answers: every record needs an answer.
      columns: `text_column`: the text's, where it is not the usual one.
      fields: further columns that are kept with a text, where it has them; none of `OWN_COLUMNS`.
      note: is told which columns were taken where that was not "text".

    Raises:
      UserError: no such file, an ending that no format has, no column for the text or the answer.
    """
    form, given = _form(path), dict(columns or {})
    if form == "conll":
        raise UserError(f"--corpus={path}: holds words, a line each; give .txt, .jsonl, .csv, .tsv or .parquet.")
    if answers:
        found = open_file(path).columns if form == "table" else ()
        if ANSWER not in found:
            has = f"columns: {listed(found)}" if form == "table" else "it is plain text"
            raise UserError(f"--corpus={path}: --answer needs a column {ANSWER!r} ({has}).")
        if QUESTION in found and not given:
            given, note = {"text_column": QUESTION}, lambda text: None  # as it should be
    assert not set(fields) & set(OWN_COLUMNS)
    wanted = Wanted(given=given, fields=(TITLE, ANSWER, *fields))
    noted: list[str] = []

    def say_once(text: str) -> None:
        if text not in noted:
            noted.append(text)
            note(text)

    def read() -> Iterator[CorpusText]:
        return _numbered(read_unlabelled(path, wanted, say_once), fields)

    return Corpus(str(path), read, answers)


def corpus_in_memory(texts: Iterable[Any], *, answers: bool = False, fields: Sequence[str] = ()) -> Corpus:
    """Returns the corpus of texts, or of records {"text": ..., "id": ..., "title": ..., "answer": ...}.

    `fields` are further keys that are kept, as of `corpus_file`.
    """
    assert not set(fields) & set(OWN_COLUMNS)
    kept = list(texts)

    def record(number: int, value: Any) -> dict[str, Any]:
        origin = f"text {number} of the corpus"
        values = dict(value) if isinstance(value, Mapping) else {"text": value}
        if QUESTION in values and (answers or "text" not in values):
            values["text"] = values[QUESTION]
        return check_record(
            {name: values[name] for name in ("text", ID, TITLE, ANSWER, *fields) if name in values}
            | {"origin": origin},
            Wanted(fields=(TITLE, ANSWER, *fields)),
        )

    def read() -> Iterator[CorpusText]:
        return _numbered((record(number, value) for number, value in enumerate(kept, start=1)), fields)

    return Corpus("texts in memory", read, answers)


def _form(path: pathlib.Path) -> str:
    try:
        return form_of(path)
    except UserError as error:
        raise UserError(str(error).replace("--input=", "--corpus=", 1)) from None


def _numbered(records: Iterable[Mapping[str, Any]], fields: Sequence[str] = ()) -> Iterator[CorpusText]:
    has_ids: bool | None = None
    for number, record in enumerate(records, start=1):
        origin = record["origin"]
        own = record.get(ID)
        if has_ids is None:
            has_ids = own is not None
        if has_ids != (own is not None):
            others = "the records before it have none" if own is not None else "those before it have one"
            raise UserError(f"{origin}: has {'an' if own is not None else 'no'} id, but {others}: give all or none.")
        title, answer = (_text_of(record, name, origin) for name in (TITLE, ANSWER))
        further = {name: _json(record[name], name, origin) for name in fields if record.get(name) is not None}
        yield CorpusText(own if own is not None else number, record["text"], title or "", answer, origin, further)


def _json(value: Any, name: str, origin: str) -> Any:
    """Returns the value of a column as JSON gives it back."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{origin}: {name!r} is {value!r:.60}, which JSON cannot hold ({error}).") from None


def _text_of(record: Mapping[str, Any], name: str, origin: str) -> str | None:
    return None if record.get(name) is None else require_text(record[name], name, origin)


def _name(identity: Any) -> str:
    """Returns an id as people compare them: 7 and "7" are one."""
    return str(identity)


def portions(texts: Iterable[CorpusText], size: int) -> Iterator[list[CorpusText]]:
    """Yields the texts, so many at a time."""
    waiting = iter(texts)
    while portion := list(itertools.islice(waiting, size)):
        yield portion
