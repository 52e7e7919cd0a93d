"""Dialogues as pairs: what was said last, and the turn that follows it. For the selection of responses."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.data.records.registry import open_tables
from jaxfm.data.records.table import Row, Table, Tables, listed, require_text, shown
from jaxfm.errors import UserError, did_you_mean

DIALOGUE_COLUMNS = ("context", "response", "dialogue")
"""Of the tables made here; `dialogue` is the text of the whole, by which a holdout keeps it on one side."""
TURN_COLUMNS = ("turns", "dialogue", "dialog", "messages", "conversations", "conversation", "utterances")
_TEXTS = ("text", "content", "utterance", "value")
_SPEAKERS = ("speaker", "role", "from")


class Turn(NamedTuple):
    """What one speaker says at a time.

    Attributes:
        speaker: "" where the record does not say.
        text: as it is.
        values: all that the record says of the turn; empty where it is a text alone.
    """

    speaker: str
    text: str
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DialogueOptions:
    """How a dialogue becomes pairs.

    Attributes:
        turns: the context is the last so many turns before the response, fewer at the start; at least 1.
        separator: between the turns of a context: what the tokenizer writes between texts, such as " [SEP] ".
        responder: the speaker whose turns are responses ("SYSTEM", "assistant"); empty: of all.
    """

    turns: int = 3
    separator: str = " [SEP] "
    responder: str = ""


def dialogue_tables(rest: str, options: DialogueOptions) -> Tables:
    """Returns the splits of a folder of JSON dialogues as tables of DIALOGUE_COLUMNS, a row for each response.

    A record is one dialogue: a list under one of TURN_COLUMNS, of texts or of objects with a text (text, content,
    utterance, value) and a speaker (speaker, role, from). Blank turns are left out.

    Args:
      rest: what follows the colon: a folder or a file, as of jsonl:.
      options: see there.

    Raises:
      UserError: no such files, `turns` below 1. Reading raises it for a record that is not a dialogue, and for a
        `responder` who says nothing.
    """
    if options.turns < 1:
        raise UserError(f"task.context_turns={options.turns}: a context has at least 1 turn.")
    tables = open_tables("jsonl", rest)

    def opened(opener: Callable[[], Table]) -> Table:
        table = opener()
        read = functools.partial(_read, table, options)
        return dataclasses.replace(table, declared=DIALOGUE_COLUMNS, read=read)

    return Tables({split: functools.partial(opened, opener) for split, opener in tables.splits.items()}, tables.found)


def context_of(turns: Sequence[str], options: DialogueOptions) -> str:
    """Returns the context of the turn that follows these: the last of them, joined."""
    return options.separator.join(turns[-options.turns :])


def _read(table: Table, options: DialogueOptions, asked: Sequence[str] | None) -> Iterator[Row]:
    speakers: dict[str, None] = {}
    found = 0
    for origin, record in table.read(None):
        turns = [turn for turn in turns_of(record, origin) if turn.text.strip()]
        texts = [turn.text for turn in turns]
        speakers |= dict.fromkeys(turn.speaker for turn in turns)
        whole = json.dumps(texts)
        for number in range(1, len(turns)):
            if options.responder and turns[number].speaker != options.responder:
                continue
            found += 1
            parts = (context_of(texts[:number], options), texts[number], whole)
            values: dict[str, str] = {name: part for name, part in zip(DIALOGUE_COLUMNS, parts, strict=True)}
            yield Row(f"{origin}[{number}]", values if asked is None else {name: values[name] for name in asked})
    if options.responder and not found and speakers:
        hint = did_you_mean(options.responder, filter(None, speakers))
        raise UserError(f"{table.source}: task.responder={options.responder!r} answers nothing in it. {hint}")


def turns_of(record: Mapping[str, Any], origin: str) -> Iterator[Turn]:
    """Yields the turns of a dialogue, blank ones too. Raises UserError naming `origin` for what is not a dialogue."""
    column = next((name for name in TURN_COLUMNS if isinstance(record.get(name), list)), None)
    if column is None:
        raise UserError(
            f"{origin}: no list of turns (looked for {', '.join(TURN_COLUMNS)}; the record has {listed(record)})."
        )
    for turn in record[column]:
        if isinstance(turn, str):
            yield Turn("", require_text(turn, column, origin), {})
            continue
        text = next((name for name in _TEXTS if isinstance(turn, dict) and name in turn), None)
        if text is None:
            raise UserError(
                f"{origin}: {shown(turn)} in {column!r} is not a turn: a text, or an object with one of "
                f"{', '.join(_TEXTS)}."
            )
        speaker = next((turn[name] for name in _SPEAKERS if name in turn), "")
        yield Turn(str(speaker), require_text(turn[text], text, origin), turn)
