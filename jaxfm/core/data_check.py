"""What a look at the data before training finds: sizes, and findings with their fix and the places of examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxfm.observe.tables import Table

Level = Literal["error", "warning", "ok"]
LISTED = 3  # examples of a finding


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
      level: "error": training is refused or its scores mean nothing; "warning": worth a look; "ok": nothing to do.
      check: what was looked at, a few words.
      message: what was found, with numbers.
      fix: the nearest way to mend it; empty where nothing is to be done.
      examples: up to `LISTED` places, "dir/train.conll:12: ...".
    """

    level: Level
    check: str
    message: str
    fix: str = ""
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.fix or self.level == "ok", f"{self.check}: nobody is told of a fault without what to do"
        object.__setattr__(self, "examples", tuple(self.examples[:LISTED]))


@dataclasses.dataclass(frozen=True, eq=False)
class Lengths:
    """How long the examples of a split are.

    Attributes:
      tokens: int [E] of each example, special ones included.
      window: tokens that are read at once.
      windows: whether a longer example is read in several windows; else its end is not read.
    """

    tokens: np.ndarray
    window: int
    windows: bool

    @property
    def over(self) -> int:
        """Examples that are longer than the window."""
        return int((self.tokens > self.window).sum())

    @property
    def unread(self) -> float:
        """Share of all tokens that are not read."""
        lost = 0 if self.windows else np.maximum(self.tokens - self.window, 0).sum()
        return float(lost / max(self.tokens.sum(), 1))


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """What the checks of a task found.

    Attributes:
      tables: sizes, for people.
      findings: in the order of the checks.
      lengths: of each split; empty of what has no tokens.
    """

    tables: tuple[Table, ...]
    findings: tuple[Finding, ...]
    lengths: Mapping[str, Lengths] = dataclasses.field(default_factory=dict)

    def count(self, level: Level) -> int:
        """Returns the number of findings of a level."""
        return sum(found.level == level for found in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON values: number of errors and warnings, findings, and the tables as rows with names."""
        return {
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [dataclasses.asdict(found) for found in self.findings],
            "tables": {table.title: [_row(table.columns, row) for row in table.rows] for table in self.tables},
        }


def _row(columns: Sequence[str], row: Sequence[Any]) -> Mapping[str, Any]:
    return dict(zip(columns, row, strict=True))
