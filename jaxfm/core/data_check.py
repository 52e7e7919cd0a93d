"""What a look at the data before training finds: sizes, and findings with their fix and the places of examples."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from jaxfm.observe.tables import Table

Level = Literal["error", "warning", "ok"]
LISTED = 3  # examples of a finding


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
      level: "error": training is refused or its scores mean nothing; "warning": worth a look; "ok": nothing found.
      check: what was looked at, a few words.
      message: what was found, with numbers.
      fix: the nearest way to mend it; empty where nothing is to be done.
      examples: up to three places, "dir/train.conll:12: ...".
    """

    level: Level
    check: str
    message: str
    fix: str = ""
    examples: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """What the checks of a task found.

    Attributes:
      tables: sizes, for people.
      findings: in the order of the checks.
      sizes: the numbers of the tables as JSON values.
    """

    tables: tuple[Table, ...]
    findings: tuple[Finding, ...]
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)


def finding(
    level: Level, check: str, message: str, fix: str = "", examples: Sequence[str] = (), *, if_found: bool = True
) -> Finding:
    """Returns a finding with its first examples; where not `if_found`, that the check found nothing."""
    if not if_found:
        return Finding("ok", check, "none")
    return Finding(level, check, message, fix, tuple(examples[:LISTED]))
