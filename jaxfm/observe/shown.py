"""What functions return, as a person sees it: text at a prompt, tables on a terminal and in a notebook."""

import html
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from jaxfm.observe.summary import headline, summary_table
from jaxfm.observe.tables import Table, to_html, to_plain, to_rich


class Report(dict[str, Any]):
    """The content of report.json, a dict, that shows its scores in place of its hundreds of values.

    `dict(report)` and `json.dumps(report)` are all of it.

    Attributes:
      workdir: the run directory.
      metric: that chose the checkpoint; it is shown first.
    """

    def __init__(self, values: Mapping[str, Any], workdir: pathlib.Path, metric: str):
        """`values` are those of report.json; see `jaxfm.observe.report.write_report`."""
        super().__init__(values)
        self.workdir, self.metric = workdir, metric

    def __repr__(self) -> str:
        return f"{self._title()}\n\n{to_plain(self._table())}\n{self._where()}"

    def __rich__(self) -> RenderableType:
        return Group(Text(self._title()), to_rich(self._table()), Text(self._where()))

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._title())}</p>{to_html(self._table())}<p>{html.escape(self._where())}</p>"

    def _title(self) -> str:
        return f"{self['task']}: {headline(self, self.metric)}"

    def _where(self) -> str:
        return f'All of it: {self.workdir / "report.html"}. This is a dict: report["splits"]["valid"] and so on.'

    def _table(self) -> Table:
        return summary_table(self["splits"], self.metric)
