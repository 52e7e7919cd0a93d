"""Dialogues between users and those who answer them, one at a time: what a user asks, and what was answered."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.data.records.dialogues import TURN_COLUMNS, Turn, turns_of
from jaxfm.data.records.registry import open_file, open_tables
from jaxfm.data.records.source_files import nearest_folder
from jaxfm.data.records.splits import require_split
from jaxfm.data.records.table import Table, listed, shown
from jaxfm.errors import UserError, did_you_mean
from jaxfm.files import user_path

RESPONDERS = ("system", "assistant", "agent", "bot", "gpt", "operator")
"""Speakers who answer, in any case of letters, where none is named."""
_SCHEME, _SUFFIX = "dialogue", ".jsonl"
_IDS = ("id", "dialogue_id")


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A dialogue.

    Attributes:
      origin: where it was read.
      turns: in order, none of them blank.
      id: of its record; None where that has none.
    """

    origin: str
    turns: tuple[Turn, ...]
    id: Any = None


class Request(NamedTuple):
    """A user's turn that an answer follows.

    Attributes:
      dialogue: number of its dialogue, from 0.
      origin: where it was read, with the number of the turn, from 1.
      texts: all turns so far, the user's last.
      user: the user's turn.
      response: the turn that follows it.
    """

    dialogue: int
    origin: str
    texts: tuple[str, ...]
    user: Turn
    response: Turn


def conversation_of(value: Any, origin: str) -> Conversation:
    """Returns the dialogue of a list of turns, or of a record that has one under one of `TURN_COLUMNS`.

    A turn is a text, or an object with a text and perhaps a speaker. Raises UserError naming `origin` for what is none.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Mapping | Iterable):
        raise UserError(f"{origin}: {shown(value)} is not a dialogue: a list of turns, the user's last.")
    record = value if isinstance(value, Mapping) else {TURN_COLUMNS[0]: list(value)}
    turns = tuple(turn for turn in turns_of(record, origin) if turn.text.strip())
    return Conversation(origin, turns, next((record[name] for name in _IDS if record.get(name) is not None), None))


def is_response(turn: Turn, responder: str = "") -> bool:
    """Whether a turn is of `responder`; of one of `RESPONDERS` where that is empty."""
    return turn.speaker == responder if responder else turn.speaker.lower() in RESPONDERS


def last_request(conversation: Conversation, responder: str = "") -> tuple[str, ...]:
    """Returns the turns up to the user's last one. Raises UserError where no turn is a user's."""
    users = [number for number, turn in enumerate(conversation.turns) if not is_response(turn, responder)]
    if not users:
        speakers = dict.fromkeys(turn.speaker for turn in conversation.turns)
        said = f"all are of {listed(speakers)}" if speakers else "it has no turn that is not blank"
        raise UserError(f"{conversation.origin}: has no turn of a user, to answer ({said}).")
    return tuple(turn.text for turn in conversation.turns[: users[-1] + 1])


def read_conversations(source: str, split: str, option: str) -> Iterator[Conversation]:
    """Yields the dialogues of a .jsonl file (also with .gz), or of a split of `dialogue:DIR`.

    Raises UserError naming `option`: no such file or split, a record that is not a dialogue (file and line).
    """
    for origin, record in _table(source, split, option).read(None):
        yield conversation_of(record, origin)


def read_requests(conversations: Iterable[Conversation], responder: str, source: str) -> list[Request]:
    """Returns each user's turn that a turn of the responder follows.

    Raises UserError, which names `source`, where there is none.
    """
    requests: list[Request] = []
    speakers: dict[str, None] = {}
    for dialogue, conversation in enumerate(conversations):
        turns: Sequence[Turn] = conversation.turns
        speakers |= dict.fromkeys(turn.speaker for turn in turns)
        for number in range(1, len(turns)):
            if is_response(turns[number], responder) and not is_response(turns[number - 1], responder):
                texts = tuple(turn.text for turn in turns[:number])
                origin = f"{conversation.origin} turn {number}"
                requests.append(Request(dialogue, origin, texts, turns[number - 1], turns[number]))
    if not requests:
        named = [name for name in speakers if name]
        who = f"its speakers are {listed(named)}" if named else "its turns do not say who speaks"
        rule = f"{responder!r} answers no user in it" if responder else "no turn is of one who answers a user"
        hint = did_you_mean(responder or "assistant", named) if named else "Each turn needs a speaker."
        raise UserError(f"{source}: {rule} ({who}). Name the one who answers by --responder=NAME. {hint}")
    return requests


def _table(source: str, split: str, option: str) -> Table:
    scheme, colon, rest = source.partition(":")
    if colon and scheme == _SCHEME:
        tables, split = open_tables("jsonl", rest), require_split(split)
        if split not in tables.splits:
            hint = did_you_mean(split, tables.splits)
            raise UserError(f"{option}={source}: has no split {split!r} ({tables.found}). {hint}")
        return tables.splits[split]()
    path: pathlib.Path = user_path(source, option)
    if not path.name.lower().removesuffix(".gz").endswith(_SUFFIX):
        raise UserError(f"{option}={source}: must be a file {_SUFFIX} (or {_SUFFIX}.gz), or {_SCHEME}:DIR.")
    if not path.is_file():
        raise UserError(f"{option}={source}: no such file; {nearest_folder(path.parent)}.")
    return open_file(path)
