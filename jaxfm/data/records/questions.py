"""Questions with a context and the answers in it: one URI, one shape of record. For extractive question answering."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.question_answers import Answer, answers_of
from jaxfm.data.records.registry import open_tables, parse_source
from jaxfm.data.records.source_keys import check_source, divide_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.records.table import Table, Tables, choose_column, memory_table, require_text, usual_column
from jaxfm.errors import UserError

QUESTION_COLUMNS = ("question", "query", "text")
CONTEXT_COLUMNS = ("context", "passage", "paragraph", "document", "pair")
ANSWER_COLUMNS = ("answers", "answer", "label")
_STARTS = ("answer_start", "start")  # of a flat answer, in a column of its own
_IMPOSSIBLE, _ID, _TITLES = "is_impossible", "id", ("title", "article")
_FEW_UNITS = 20  # articles below which contexts are held out, and so on: one of few would be too large a share


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
      question: not blank.
      context: the text that holds the answer, not blank.
      answers: those that count as right, the first of which is learned; empty: the context does not answer it.
      id: of the source; empty where it has none.
      title: of the article that the context is of; empty where the source does not say.
      origin: where it was read: "dir/train.json:1[12]".
    """

    question: str
    context: str
    answers: tuple[Answer, ...]
    id: str
    title: str
    origin: str


@dataclasses.dataclass(frozen=True)
class QuestionSplit:
    """One split: its questions in the order of the source, and one line for the log."""

    questions: tuple[Question, ...]
    note: str


@dataclasses.dataclass(frozen=True)
class QuestionColumns:
    """Which columns hold what (`data.{text,pair,label}_column`); empty finds the usual ones."""

    question: str = ""
    context: str = ""
    answers: str = ""


def read_questions(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: QuestionColumns = QuestionColumns(),
    holdout: float | None = 0.0,
    by: SplitKeys = NO_KEYS,
) -> dict[str, QuestionSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source.

    Sources: quickstart (made), and all of `jaxfm/data/records/formats/`; SQuAD's own files are `jsonl:`. Answers are
    {"text": [...], "answer_start": [...]}, a list of {"text", "answer_start"}, or a text with a column answer_start; no
    answer (an empty list, is_impossible) says that the context does not answer the question. Offsets count characters.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has.
      columns: which columns to read.
      holdout: this share of train becomes valid where the source has no valid, None: a share by size; articles stay
        whole, where there are few of them contexts.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source, split or column, an empty split, a damaged record, an answer that is not at its offset.
    """
    check_source(source, by, splits)
    tables = by.hide(_open(source), (*dataclasses.astuple(columns), _ID, *_TITLES))
    opened = {split: tables.splits[split]() for split in SPLIT_NAMES if split in tables.splits}
    if not opened:
        raise UserError(f"{source}: none of its splits is train, valid or test ({tables.found}).")
    chosen = _choose(next(iter(opened.values())), columns)
    opened = {split: table for split, table in opened.items() if chosen.answers in table.columns}
    wanted = list(opened) if splits is None else list(map(require_split, splits))
    held_out = holdout != 0 and "valid" not in opened and "train" in opened
    present = [name for name in SPLIT_NAMES if name in opened or (name == "valid" and held_out)]
    for name in wanted:
        if name not in present:
            raise UserError(f"{source} has no split {name!r} with answers; it has: {', '.join(present) or 'none'}.")
    if splits is None:
        wanted = present
    read: dict[str, list[Question]] = {}
    notes: dict[str, str] = {}
    for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted):
        read[name], notes[name] = _read(opened[name], chosen)
    if by:
        divided = divide_source(source, read, by, given=opened, holdout=holdout, origin=_place)
        read = divided.read
        notes = {name: notes.get(name, notes.get("train", "")) + said for name, said in divided.notes.items()}
    elif held_out and "train" in read:
        share = holdout_share(holdout, len(read["train"]))
        read["train"], read["valid"], unit = _held_out(source, read["train"], share)
        notes["valid"] = f"; {share:.1%} of train, {unit} chosen by a hash"
        notes["train"] += f"; without the {len(read['valid']):,} that are valid"
    return {name: QuestionSplit(tuple(read[name]), _note(name, read[name]) + notes[name]) for name in wanted}


def _open(source: str) -> Tables:
    scheme, rest = parse_source(source)
    if scheme != "quickstart":
        return open_tables(scheme, rest)
    from jaxfm.data.records.quickstart_questions import COLUMNS, build

    def opener(split: str) -> Callable[[], Table]:
        return lambda: memory_table(f"quickstart/{split} (synthetic)", COLUMNS, build(split))

    return Tables({split: opener(split) for split in SPLIT_NAMES})


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The columns of a source; empty: it has none such."""

    question: str
    context: str
    answers: str
    start: str
    impossible: str
    id: str
    title: str


def _choose(table: Table, asked: QuestionColumns) -> _Columns:
    names, source = table.columns, table.source

    def choose(own: str, usual: Sequence[str], what: str, key: str) -> str:
        found = [own] if own else [name for name in usual if name in names][:1]
        return choose_column(names, "".join(found), usual, what, source, f"data.{key}_column")

    question = choose(asked.question, QUESTION_COLUMNS, "question", "text")
    context = choose(asked.context, CONTEXT_COLUMNS, "context", "pair")
    answers = choose(asked.answers, ANSWER_COLUMNS, "answers", "label")
    if len({question, context, answers}) < 3:
        raise UserError(
            f"{source}: question, context and answers are three columns, but these are {question!r}, {context!r} and "
            f"{answers!r}: set data.text_column, data.pair_column, data.label_column."
        )
    return _Columns(
        question,
        context,
        answers,
        usual_column(names, _STARTS),
        usual_column(names, (_IMPOSSIBLE,)),
        usual_column(names, (_ID,)),
        usual_column(names, _TITLES),
    )


def _read(table: Table, columns: _Columns) -> tuple[list[Question], str]:
    """Reads a split; also what its note says of questions left out, and of answers found by their text."""
    names = [name for name in dataclasses.astuple(columns) if name and name in table.columns]
    questions: list[Question] = []
    counts: collections.Counter[str] = collections.Counter()
    for origin, values in table.values(names):
        row: Mapping[str, Any] = dict(zip(names, values, strict=True))
        own = row.get(columns.id)
        origin = f"{origin} (id {own})" if own else origin
        asked, context = (_text(row.get(name), name, origin) for name in (columns.question, columns.context))
        try:
            if _is_impossible(row.get(columns.impossible), columns.impossible, origin):
                answers: tuple[Answer, ...] = ()
            else:
                answers, by_text = answers_of(
                    row.get(columns.answers), row.get(columns.start), context, columns.answers, origin
                )
                counts["answers without an offset, found by their text"] += by_text
        except UserError:
            if not table.published:
                raise
            counts["questions left out, whose answer is not at its offset"] += 1
            continue
        title = require_text(str(row.get(columns.title) or ""), columns.title, origin)
        identity = "" if own is None else require_text(str(own), columns.id, origin)
        questions.append(Question(asked, context, answers, identity, title, origin))
    if not questions:
        raise UserError(f"{table.source}: the split is empty: it has no question.")
    return questions, f" from {table.source}" + "".join(f"; {n:,} {what}" for what, n in counts.items() if n)


def _text(value: Any, column: str, origin: str) -> str:
    text = require_text(value, column, origin)
    if not text.strip():
        raise UserError(f"{origin}: {column!r} is empty. Leave the question out, or correct it.")
    return text


def _place(question: Question) -> str:
    """Returns where the record of a question was read, without its id."""
    return question.origin.removesuffix(f" (id {question.id})")


def _is_impossible(value: Any, column: str, origin: str) -> bool:
    if value in (None, False, True, 0, 1):
        return bool(value)
    raise UserError(f"{origin}: {column!r} is {value!r:.40}, but must be true or false.")


def _held_out(source: str, questions: list[Question], share: float) -> tuple[list[Question], list[Question], str]:
    """Returns train, valid and what the units are: whole articles, contexts or questions, never parts of one."""
    units = {
        **({"whole articles": [each.title for each in questions]} if all(each.title for each in questions) else {}),
        "whole contexts": [each.context for each in questions],
        "questions of the one context": [each.question for each in questions],
    }
    unit, keys = next(
        (item for item in units.items() if len(set(item[1])) >= _FEW_UNITS),
        next((item for item in units.items() if len(set(item[1])) > 1), ("", [])),
    )
    sizes = collections.Counter(keys)
    if not sizes:
        raise UserError(
            f"{source}: it has no split 'valid', and one question only. Give more, or config.data.holdout=0 for no "
            "validation."
        )
    wanted, taken = max(share * len(questions), 1), set[str]()
    for key in sorted(sizes, key=uniform_hash):
        if not taken or sum(sizes[other] for other in taken) + sizes[key] <= wanted:
            taken.add(key)
        if sum(sizes[other] for other in taken) >= wanted:
            break
    sides: tuple[list[Question], list[Question]] = ([], [])
    for question, key in zip(questions, keys, strict=True):
        sides[key in taken].append(question)
    return *sides, unit


def _note(name: str, questions: Sequence[Question]) -> str:
    contexts = len({each.context for each in questions})
    none = sum(not each.answers for each in questions)
    without = f", {none:,} without an answer" if none else ""
    return f"{name}: {len(questions):,} questions over {contexts:,} contexts{without}"
