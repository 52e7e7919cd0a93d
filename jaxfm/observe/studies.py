"""What programs found out about a finished run, kept beside it: WORKDIR/studies/NAME.json, NAME.md and pictures.

The model card of an export has their sentences (`programs/model_card.py`). A study is of one checkpoint: a card leaves
out those of other steps.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table, to_html, to_markdown, to_rich
from jaxfm.observe.writers import to_json

FOLDER = "studies"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Study:
    """What was found.

    Attributes:
      name: of its files.
      title: its heading.
      summary: sentences for a person who reads nothing else; Markdown.
      tables: all that was found.
      values: the same as JSON values.
      step: of the checkpoint.
    """

    name: str
    title: str
    summary: tuple[str, ...]
    tables: Sequence[Table]
    values: Mapping[str, Any]
    step: int


@dataclasses.dataclass(frozen=True, repr=False)
class StudyReport:
    """What a program returns of a study; a notebook shows its tables.

    Attributes:
      study: sentences, tables and values.
    """

    study: Study

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' '.join(self.study.summary)})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.study.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.study.tables))


def show(study: Study, progress: Progress) -> None:
    """Shows tables and sentences."""
    for table in study.tables:
        progress.table(table)
    for line in study.summary:
        progress.say(line)


def write_study(folder: pathlib.Path, study: Study) -> None:
    """Writes NAME.json and NAME.md into a folder; OSError where that is not possible."""
    files.write_json(
        folder / f"{study.name}.json",
        to_json(
            {
                "version": VERSION,
                "title": study.title,
                "summary": list(study.summary),
                "step": study.step,
                **study.values,
            }
        ),
    )
    parts = [f"# {study.title}", "\n".join(f"- {line}" for line in study.summary)]
    for table in study.tables:
        parts += [f"## {table.title}", to_markdown(table).strip("\n")]
    files.write_text(folder / f"{study.name}.md", "\n\n".join(filter(None, parts)) + "\n")


def read_summaries(workdir: pathlib.Path, step: int) -> dict[str, tuple[str, ...]]:
    """Returns title -> sentences of the studies of this step, by the names of their files.

    Raises UserError for a file that is not a study, or of a newer jaxfm.
    """
    found = {}
    for path in sorted((workdir / FOLDER).glob("*.json")):
        values = files.read_versioned(path, VERSION)
        files.check_values(values, {"title": str, "summary": list, "step": int}, str(path))
        if not all(isinstance(line, str) for line in values["summary"]):
            raise UserError(f"{path}: summary must be a list of texts.")
        if values["step"] == step:
            found[values["title"]] = tuple(values["summary"])
    return found
