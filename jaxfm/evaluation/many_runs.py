"""Runs that differ in seed, rate or decay: every score, mean and standard deviation, and which setting is best."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.evaluation import BootstrapData, Units
from jaxfm.errors import UserError
from jaxfm.evaluation import bootstrap
from jaxfm.observe.shown import Report
from jaxfm.observe.summary import metrics_of, number
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json

JSON_FILE, MARKDOWN_FILE = "seeds.json", "seeds.md"
ENSEMBLE_FILE = "ensemble.json"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that has a report.

    Attributes:
      seed: of the run.
      folder: its run directory.
      report: the content of its report.json.
      setting: name of its rate and decay; "" where all runs have the same.
      values: of that setting: key -> number.
    """

    seed: int
    folder: pathlib.Path
    report: Mapping[str, Any]
    setting: str = ""
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)


class RunsReport(Report):
    """The content of seeds.json, a dict, that shows its table."""

    def _title(self) -> tuple[str, str]:
        return headline(self), f"{self['task']}: {len(self['runs'])} runs"

    def _table(self) -> Table:
        found = tables(self)
        return found[-1] if found else Table("Scores", ("seed",), [(str(seed),) for seed in self["seeds"]])

    def _where(self) -> str:
        return f"All of it: {self.workdir / MARKDOWN_FILE}. A dict: report['splits']['valid'] and so on."


def gather(task: str, metric: str, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Returns seeds.json: the metrics of all splits that every run was scored on.

    Of several settings it is that of the best one by the mean of `metric` on valid (the first without such a split);
    "settings" then has all of them, and "comparisons" the paired tests of the others against the best over the seeds.

    Args:
      task: its name.
      metric: that chose each run's checkpoint.
      runs: in the order of the table, those of a setting one after the other, each setting with the same seeds.

    Returns:
      "task", "metric", "seeds", "runs" (seed -> run directory), "splits" (split -> metric -> "values" in the order of
      the seeds, "mean" and "sd" over n - 1, None where a value is missing).
    """
    start = {"task": task, "metric": metric}
    by_setting: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_setting.setdefault(run.setting, []).append(run)
    settings = {name: {**dict(of[0].values), **_described(of)} for name, of in by_setting.items()}
    if len(settings) == 1:
        ((_, only),) = settings.items()
        return start | only
    more_is_better = bool(runs[0].report.get("directions", {}).get(metric, True))
    best = _best(settings, metric, more_is_better=more_is_better)
    return (
        start
        | settings[best]
        | {"setting": best, "settings": settings, "comparisons": _comparisons(settings, best, metric, more_is_better)}
    )


def write(workdir: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Writes seeds.md and seeds.json."""
    files.write_text(workdir / MARKDOWN_FILE, to_text(workdir, found))
    files.write_json(workdir / JSON_FILE, to_json(found))


def read(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads seeds.json; UserError where it is damaged, or is of something else."""
    path = workdir / JSON_FILE
    found = files.read_json(path)
    files.check_values(found, {"task": str, "metric": str, "seeds": list, "runs": dict, "splits": dict}, str(path))
    if not found["runs"] or not all(isinstance(folder, str) for folder in found["runs"].values()):
        raise UserError(f"{path}: names no runs. Give the command of the runs again: it writes the file anew.")
    return found


def folders_of(workdir: pathlib.Path, found: Mapping[str, Any]) -> list[pathlib.Path]:
    """Returns the run directories that seeds.json in `workdir` names, which may have been moved together."""
    return [workdir / pathlib.Path(folder).name for folder in found["runs"].values()]


def statistics_of(values: Sequence[float]) -> dict[str, Any]:
    """Returns the values, NaN as None, with their mean and standard deviation, None where one of them is missing."""
    defined = [value for value in values if value == value]
    whole = len(defined) == len(values)
    return {
        "values": [value if value == value else None for value in values],
        "mean": statistics.fmean(values) if whole else None,
        "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
    }


def headline(found: Mapping[str, Any]) -> str:
    """Returns the mean of the metric that chose, with its standard deviation."""
    splits, metric, count = found["splits"], found["metric"], len(found["seeds"])
    split = "test" if "test" in splits else next(iter(splits), "")
    scores = splits.get(split, {}).get(metric)
    if scores is None or scores["mean"] is None:
        return f"{count} runs; {metric} is not defined for all of them"
    spread = "" if scores["sd"] is None else f" (standard deviation {scores['sd']:.4f})"
    best = f"; best of {len(found['settings'])} settings by valid: {found['setting']}" if "settings" in found else ""
    return f"{split} {metric.replace('_', ' ')} {scores['mean']:.4f}, the mean of {count} seeds{spread}{best}"


def tables(found: Mapping[str, Any], most: int | None = None) -> list[Table]:
    """Returns a table for each split: a row a seed, then mean and standard deviation; `most` metrics at the most.

    Before them, of several settings, one with the mean of each.
    """
    made = _setting_tables(found, most) if "settings" in found else []
    for split, scores in found["splits"].items():
        names = _names(scores, found["metric"], most)
        rows: list[tuple[Cell, ...]] = [
            (str(seed), *(scores[name]["values"][index] for name in names)) for index, seed in enumerate(found["seeds"])
        ]
        rows += [(what, *(scores[name][what] for name in names)) for what in ("mean", "sd")]
        title = f"{split}, {found['setting']}" if "settings" in found else split
        made.append(Table(title, ("seed", *(name.replace("_", " ") for name in names)), rows, footer=2))
    return made


def to_text(workdir: pathlib.Path, found: Mapping[str, Any]) -> str:
    """Returns seeds.md; with what ensemble.json beside it says, where there is one."""
    parts = [f"# {found['task']}: {workdir.name}", f"**{headline(found)}**"]
    for table in tables(found):
        parts += [f"## {table.title}", to_markdown(table).strip()]
    if (workdir / ENSEMBLE_FILE).is_file():
        scored = files.read_json(workdir / ENSEMBLE_FILE)
        for split, scores in scored.get("splits", {}).items():
            parts += [f"## Ensemble, {split}", to_markdown(ensemble_table(split, scores)).strip()]
    settings = found.get("settings", {"": found})
    lines = [
        f"- {f'{name}, ' if name else ''}seed {seed}: [{folder}]({pathlib.Path(folder).name}/report.md)"
        for name, each in settings.items()
        for seed, folder in each["runs"].items()
    ]
    return "\n\n".join([*parts, "## Runs", "\n".join(lines)]) + "\n"


def ensemble_table(split: str, scores: Mapping[str, Any]) -> Table:
    """Returns what ensemble.json has of a split: a row a metric, of the ensemble and of its members."""
    rows: list[tuple[Cell, ...]] = [
        (name.replace("_", " "), value["ensemble"], value["mean"], value["sd"])
        for name, value in scores["metrics"].items()
    ]
    rows += [(name.replace("_", " "), value, None, None) for name, value in scores["disagreement"].items()]
    return Table(split, ("metric", "ensemble", "mean of the members", "sd of the members"), rows)


def _described(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    reports = [run.report for run in runs]
    splits: dict[str, dict[str, Any]] = {}
    for split in (name for name in reports[0]["splits"] if all(name in report["splits"] for report in reports)):
        scores = [report["splits"][split] for report in reports]
        names = dict.fromkeys(name for each in scores for name in metrics_of(each))
        splits[split] = {name: statistics_of([number(each.get(name)) for each in scores]) for name in names}
    return {
        "seeds": [run.seed for run in runs],
        "runs": {str(run.seed): str(run.folder) for run in runs},
        "splits": splits,
    }


def _best(settings: Mapping[str, Mapping[str, Any]], metric: str, *, more_is_better: bool) -> str:
    def rank(name: str) -> float:
        mean = settings[name]["splits"].get("valid", {}).get(metric, {}).get("mean")
        return math.inf if mean is None else -mean if more_is_better else mean

    return min(settings, key=rank)  # of equal ones the first


def _comparisons(
    settings: Mapping[str, Mapping[str, Any]], best: str, metric: str, more_is_better: bool
) -> dict[str, Any]:
    """Returns setting -> split -> the paired test of the seeds: the best setting (A) against that one (B)."""
    found: dict[str, Any] = {}
    for name, other in settings.items():
        if name == best or other["seeds"] != settings[best]["seeds"]:
            continue
        for split in other["splits"]:
            both = [each["splits"].get(split, {}).get(metric) for each in (settings[best], other)]
            if any(scores is None or scores["mean"] is None for scores in both):
                continue
            a, b = (_of_seeds(metric, scores["values"], other["seeds"], more_is_better) for scores in both)
            found.setdefault(name, {})[split] = bootstrap.compare(a, b, (best, name)).to_dict()
    return found


def _of_seeds(metric: str, values: Sequence[float], seeds: Sequence[int], more_is_better: bool) -> BootstrapData:
    """Returns scores of runs as units of which seeds are the identity: each is drawn or exchanged as a whole."""

    def computed(units: Units, weight_RM: np.ndarray) -> dict[str, np.ndarray]:
        return {metric: weight_RM @ units["score"] / weight_RM.sum(axis=-1)}

    less = () if more_is_better else (metric,)
    return BootstrapData("seeds", {"score": np.asarray(values, np.float64)}, computed, list(seeds), less_is_better=less)


def _setting_tables(found: Mapping[str, Any], most: int | None) -> list[Table]:
    made, best, metric = [], found["setting"], found["metric"]
    splits = [name for name in found["splits"] if all(name in each["splits"] for each in found["settings"].values())]
    for split in splits:
        names = _names(found["splits"][split], metric, most)
        rows: list[tuple[Cell, ...]] = []
        for name, each in found["settings"].items():
            scores = each["splits"][split]
            test = found["comparisons"].get(name, {}).get(split, {}).get("metrics", {}).get(metric)
            p = (None, None) if test is None else (test["p"], test["least_p"])
            sd = scores.get(metric, {}).get("sd")
            rows.append((name, *(scores.get(one, {}).get("mean") for one in names), sd, *p))
        columns = ("setting", *(name.replace("_", " ") for name in names), f"sd of {metric}", "p", "least p")
        made.append(Table(f"{split}: means over the seeds; p against {best}, over the same seeds", columns, rows))
    return made


def _names(scores: Mapping[str, Any], metric: str, most: int | None) -> list[str]:
    return sorted(scores, key=lambda name: name != metric)[:most]  # stable: the others as they were
