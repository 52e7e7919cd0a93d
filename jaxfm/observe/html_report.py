"""report.html: a run on one page that needs nothing else, neither scripts nor other files nor a network."""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxfm.observe.examples import Mark, View, WrongExample
from jaxfm.observe.summary import data_lines, result_of, summary_table
from jaxfm.observe.tables import Table, right_aligned, texts

if TYPE_CHECKING:
    import jinja2

_MOST_OPEN = 5  # errors of a split that are shown before a click
_TEMPLATE = "report.html.jinja"


class Picture(NamedTuple):
    """A plot inside the page."""

    title: str
    data: str  # base64 of a PNG file


def to_html(
    workdir: pathlib.Path,
    report: Mapping[str, Any],
    metric: str,
    *,
    tables: Mapping[str, Sequence[Table]],
    cost: Sequence[Table],
    plots: Sequence[pathlib.Path],
    wrong: Mapping[str, Sequence[WrongExample]],
    settings: Sequence[tuple[str, str, str, str]],
    commands: Sequence[tuple[str, str]],
) -> str:
    """Returns the page. Everything that is shown is escaped by the template.

    Args:
      workdir: the run directory, as the user named it.
      report: the content of report.json.
      metric: that chose the checkpoint.
      tables: split -> its tables.
      cost: tables of time, speed and memory.
      plots: PNG files, named SPLIT_WHAT.png where they are of a split.
      wrong: split -> what the model has most wrong.
      settings: (key, value, default, what it is) of every key.
      commands: (what it does, command line).
    """
    splits = report["splits"]
    pictures = {path.stem: _picture(path) for path in plots}
    shown = [
        {
            "name": split,
            # Their first table repeats, where there are intervals, what stands under "Scores".
            "tables": tables.get(split, ())["intervals" in splits[split] :],
            "pictures": [found for stem, found in pictures.items() if stem.startswith(f"{split}_")],
            "wrong": wrong.get(split, ()),
            "warnings": splits[split].get("warnings", ()),
        }
        for split in reversed(list(splits))  # test before valid: it is what counts
    ]
    of_splits = {stem for stem in pictures for split in splits if stem.startswith(f"{split}_")}
    return find_template(_TEMPLATE).render(
        name=workdir.name or str(workdir),
        report=report,
        result=result_of(splits, metric),
        scores=summary_table(splits, metric, most=None) if splits else None,
        pictures=[found for stem, found in pictures.items() if stem not in of_splits],
        splits=shown,
        cost=cost,
        changed=[setting for setting in settings if setting[1] != setting[2]],
        settings=settings,
        commands=commands,
        data_warnings=data_lines(report, "warnings"),
        data_splits=data_lines(report, "splits"),
        most_open=_MOST_OPEN,
    )


def find_template(name: str) -> "jinja2.Template":
    """Returns a template of this folder, which escapes every value."""
    import jinja2  # not at the start of every program

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(texts=texts, right_aligned=right_aligned, pieces=pieces, is_number=_is_number)
    return environment.get_template(name)


def pieces(view: View) -> list[tuple[str, Mark | None]]:
    """Returns a text cut where its marks start and end: (part, its mark or None), which together are the text."""
    found: list[tuple[str, Mark | None]] = []
    end = 0
    for mark in view.marks:
        found += [(view.text[end : mark.start], None), (view.text[mark.start : mark.end], mark)]
        end = mark.end
    return [(text, mark) for text, mark in [*found, (view.text[end:], None)] if text or mark]


def _picture(path: pathlib.Path) -> Picture:
    return Picture(path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode("ascii"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
