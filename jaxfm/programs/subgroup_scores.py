"""A run's scores by the values of a column of its labelled data."""

import dataclasses
import pathlib
from collections.abc import Iterator

from jaxfm import files
from jaxfm.data.records.registry import find_formats, open_tables, parse_source
from jaxfm.data.records.table import Table
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.subgroups import LEAST, Subgroups, by_group
from jaxfm.observe.progress import Progress
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.training.ensemble import open_members

_MOST_GROUPS = 50


@dataclasses.dataclass(frozen=True)
class SubgroupScores:
    """Scores of groups.

    Attributes:
      subgroups: what was found.
      source: URI of the data.
      step: of the run's checkpoint.
    """

    subgroups: Subgroups
    source: str
    step: int


def subgroup_scores(
    workdir: str | pathlib.Path, column: str, split: str, source: str | None, progress: Progress
) -> SubgroupScores:
    """Returns the metrics of a split by the values of a column.

    A record without a value (null or blank) is of the group "(none)".

    Raises:
      UserError: data without columns, no such column, too many values, groups that are too small, a task that is not
        scored record by record; further as `evaluate`.
    """
    run = open_members(files.user_path(workdir, "--workdir"))[0]
    source = source or run.config.data.source
    groups = _groups_by_origin(source, column)
    evaluation = evaluate(workdir, split, None if source == run.config.data.source else source, progress)
    data = evaluation.bootstrap_data
    origins = [str(record.get("origin", "")) for record in evaluation.predictions]
    if data is None or len(origins) != data.count or not set(origins) <= set(groups):
        raise UserError(
            f"--by={column}: the task {run.config.task.name} is not scored record by record of this source, so that a "
            "record's column says nothing of a score."
        )
    found = by_group(data, [groups[origin] for origin in origins], list(evaluation.metrics))
    if found is None:
        raise UserError(f"--by={column}: {split} has fewer than two groups of {LEAST} {data.sampling_unit} or more.")
    return SubgroupScores(found, source, Model(run.workdir).step)


def _groups_by_origin(source: str, column: str) -> dict[str, str]:
    """Returns where each record was read -> its value of the column."""
    found = dict[str, str]()
    for table in _tables(source, column):
        if column not in table.columns:
            raise UserError(f"--by={column}: is no column of {table.source}. {did_you_mean(column, table.columns)}")
        for origin, (value,) in table.values([column]):
            found[origin] = "(none)" if value is None or not str(value).strip() else str(value).strip()
    values = set(found.values())
    if len(values) > _MOST_GROUPS:
        raise UserError(
            f"--by={column}: has {len(values):,} different values; groups are compared of columns with at most "
            f"{_MOST_GROUPS} of them."
        )
    return found


def _tables(source: str, column: str) -> Iterator[Table]:
    scheme, rest = parse_source(source) if source.partition(":")[0] in ("quickstart", *find_formats()) else ("", "")
    if scheme not in find_formats():
        raise UserError(
            f"--by={column}: {source} has no columns; groups are compared in tables, such as csv: or jsonl:."
        )
    for opener in open_tables(scheme, rest).splits.values():
        yield opener()
