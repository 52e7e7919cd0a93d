"""What functions return, as a person sees it: text at a prompt, tables on a terminal and in a notebook."""

import html
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from jaxfm.observe.progress import format_seconds
from jaxfm.observe.tables import Table, to_html, to_plain, to_rich


class Report(dict[str, Any]):
    """The content of report.json, a dict, that shows its scores in place of its hundreds of values.

    `dict(report)` and `json.dumps(report)` are all of it.

    Attributes:
      workdir: the run directory.
    """

    def __init__(self, values: Mapping[str, Any], workdir: pathlib.Path):
        """`values` are those of report.json; see `jaxfm.observe.report.write_report`."""
        super().__init__(values)
        self.workdir = workdir

    def __repr__(self) -> str:
        return f"{self._title()}\n\n{to_plain(self._table())}\n{self._where()}"

    def __rich__(self) -> RenderableType:
        return Group(Text(self._title()), to_rich(self._table()), Text(self._where()))

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._title())}</p>{to_html(self._table())}<p>{html.escape(self._where())}</p>"

    def _title(self) -> str:
        training = self["training"]
        return (
            f"{self['task']}: {training['steps']:,} updates in {format_seconds(training['seconds'])}; chosen is the "
            f"checkpoint of step {training['chosen_step']:,}"
        )

    def _where(self) -> str:
        return f"All of it: {self.workdir / 'report.md'}. A dict: report['splits']['valid'] and so on."

    def _table(self) -> Table:
        return scores_by_metric(self["splits"])


def scores_by_metric(splits: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table with a row for each metric, a column for each split and, where it has one, its 95 % interval."""
    columns = ["metric"]
    cells: dict[str, dict[str, Any]] = {}
    for split, scores in splits.items():
        columns += [split, f"{split}, 95 % interval"]
        intervals = scores.get("intervals", {}).get("metrics", {})
        for name, value in scores.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            row = cells.setdefault(name, {})
            row[columns[-2]] = value
            bounds = intervals.get(name)
            if isinstance(bounds, list | tuple) and all(isinstance(bound, int | float) for bound in bounds):
                row[columns[-1]] = " to ".join(f"{bound:.4f}" for bound in bounds)
    columns = [name for name in columns if name in ("metric", *splits) or any(name in row for row in cells.values())]
    return Table("Scores", columns, [(name, *(row.get(each) for each in columns[1:])) for name, row in cells.items()])
