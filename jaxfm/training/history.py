"""The moments at which a run went on as another one (`jaxfm.training.continuation`): history.json of a run."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError

HISTORY_FILE = "history.json"
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Turn:
    """A moment at which a run went on as another one.

    Attributes:
      step: updates done before it.
      run: the run directory that the state is from, relative to the one that says so.
      changed: dotted key -> (value before, value after).
      why: in words.
    """

    step: int
    run: str
    changed: Mapping[str, tuple[Any, Any]]
    why: str


def read_history(workdir: pathlib.Path) -> tuple[Turn, ...]:
    """Returns the turns of a run, the earliest first; none where it had one config from its first update on.

    Raises UserError for a file that is damaged.
    """
    path = workdir / HISTORY_FILE
    if not path.is_file():
        return ()
    turns = files.read_versioned(path, _VERSION).get("turns")
    if not isinstance(turns, list):
        raise UserError(f'{path}: its "turns" are not a list.')
    found = []
    for each in turns:
        files.check_values(each, {"step": int, "run": str, "changed": dict, "why": str}, str(path))
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in each["changed"].values()):
            raise UserError(f'{path}: "changed" must have the value before and the one after of each key.')
        found.append(Turn(each["step"], each["run"], {k: (a, b) for k, (a, b) in each["changed"].items()}, each["why"]))
    return tuple(found)


def describe_changes(turn: Turn) -> str:
    """Returns what changed at a turn in words."""
    return ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in turn.changed.items()) or "nothing changed"


def write_history(workdir: pathlib.Path, turns: Sequence[Turn]) -> None:
    """Writes the turns of a run."""
    listed = [dataclasses.asdict(turn) for turn in turns]
    files.write_json(workdir / HISTORY_FILE, {"version": _VERSION, "turns": listed})
