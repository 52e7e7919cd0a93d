"""What functions return, as a person sees it: text at a prompt, tables on a terminal and in a notebook."""

import html
import pathlib
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from jaxfm.observe.progress import format_seconds
from jaxfm.observe.summary import headline, summary_table
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
        return "\n".join([*self._title(), "", to_plain(self._table()), self._where()])

    def __rich__(self) -> RenderableType:
        return Group(*map(Text, self._title()), to_rich(self._table()), Text(self._where()))

    def _repr_html_(self) -> str:
        title = "<br>".join(map(html.escape, self._title()))
        return f"<p>{title}</p>{to_html(self._table())}<p>{html.escape(self._where())}</p>"

    def _title(self) -> tuple[str, str]:
        """Returns the one number of the run, and what was done for it."""
        training = self["training"]
        did = (
            f"{self['task']}: {training['steps']:,} updates in {format_seconds(training['seconds'])}; chosen is the "
            f"checkpoint of step {training['chosen_step']:,}"
        )
        return headline(self, self._metric()), did

    def _where(self) -> str:
        return f"All of it: {self.workdir / 'report.html'}. A dict: report['splits']['valid'] and so on."

    def _table(self) -> Table:
        return summary_table(self["splits"], self._metric(), most=None)

    def _metric(self) -> str:
        return (self.get("result") or {}).get("metric", "loss")  # reports of older versions have no result
