"""What a run comes to on one screen: its one number, a table of scores, and where the rest lies."""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from jaxfm.observe.progress import Progress, format_seconds
from jaxfm.observe.tables import Cell, Table
from jaxfm.observe.wall_clock import goodput

MOST_METRICS = 8
"""Metrics of the table on the screen; reports have all of them."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The one number of a run.

    Attributes:
      split: that it is of: test, or valid where nothing else was held out.
      metric: the one that chose the checkpoint; the loss where that is not defined.
      value: of the metric.
      interval: low and high end; None where there is none.
      count: of the units that the interval was drawn over; 0 without one.
      unit: what they are, in the plural; "" without an interval.
      confidence: of the interval.
    """

    split: str
    metric: str
    value: float
    interval: tuple[float, float] | None = None
    count: int = 0
    unit: str = ""
    confidence: float = 0.95

    def __str__(self) -> str:
        """Returns e.g. "test f1 0.9312 (95 % interval 0.9210 to 0.9413 over 100 sentences)"."""
        text = f"{self.split} {self.metric.replace('_', ' ')} {self.value:.4f}"
        if self.interval is None:
            return text
        ends = f"{self.interval[0]:.4f} to {self.interval[1]:.4f}"
        return f"{text} ({self.confidence:.0%} interval {ends} over {self.count:,} {self.unit})"


def result_of(splits: Mapping[str, Mapping[str, Any]], metric: str) -> Result | None:
    """Returns the one number of a report's splits: that of the last one, which is test where there is one.

    Args:
      splits: split -> scores, as report.json has them ("nan" and "inf" may be text).
      metric: that chose the checkpoint. Where it is not defined, the loss stands in.

    Returns None without a split, or where neither is a number.
    """
    for split in [name for name in ("test", "valid") if name in splits] or list(splits)[-1:]:
        for name in (metric, "loss"):
            value = number(splits[split].get(name))
            if not math.isnan(value):
                return _with_interval(split, name, value, splits[split].get("intervals"))
    return None


def _with_interval(split: str, metric: str, value: float, intervals: Mapping[str, Any] | None) -> Result:
    if intervals is not None and metric in intervals.get("groups", {}).get("metrics", {}):
        intervals = intervals["groups"]
    ends = tuple(map(number, (intervals or {}).get("metrics", {}).get(metric, ())))
    if intervals is None or len(ends) != 2 or any(map(math.isnan, ends)):
        return Result(split, metric, value)
    return Result(split, metric, value, ends, intervals["count"], intervals["unit"], intervals["confidence"])


def summary_table(splits: Mapping[str, Mapping[str, Any]], first: str, most: int | None = MOST_METRICS) -> Table:
    """Returns a row for each metric, `first` on top, and for each split its value and interval.

    `most`: rows of the table; None: all metrics.
    """
    names = list(dict.fromkeys(name for scores in splits.values() for name in metrics_of(scores)))
    # A registered metric has no interval, and is shown where it chose.
    known = first in names or any(first in scores for scores in splits.values())
    names = ([first] if known else []) + [name for name in names if name != first]
    confidence = next((scores["intervals"]["confidence"] for scores in splits.values() if "intervals" in scores), 0.95)
    columns, rows = ["metric"], []
    # A split of too few units has no intervals at all, and then no column for them.
    found = {
        (split, name): _with_interval(split, name, number(scores.get(name)), scores.get("intervals"))
        for split, scores in splits.items()
        for name in names[:most]
    }
    sure = [split for split in splits if any(found[split, name].interval for name in names[:most])]
    for split in splits:
        columns += [split, *([f"{confidence:.0%} interval"] if split in sure else [])]
    for name in names[:most]:
        row: list[Cell] = [name.replace("_", " ")]
        for split, scores in splits.items():
            result = found[split, name]
            ends = "" if result.interval is None else f"{result.interval[0]:.4f} to {result.interval[1]:.4f}"
            row += [result.value if name in scores else None, *([ends] if split in sure else [])]
        rows.append(tuple(row))
    return Table("Scores", columns, rows)


def show_summary(
    progress: Progress,
    report: Mapping[str, Any],
    workdir: pathlib.Path,
    metric: str,
    predict: str,
) -> None:
    """Prints a finished run: the one number first, then at most some twenty lines.

    Args:
      progress: where to.
      report: the content of report.json.
      workdir: the run directory, as the user named it.
      metric: that chose the checkpoint.
      predict: the command that predicts, as this user calls it: 'jaxfm predict --workdir=runs/ner "TEXT"'.
    """
    splits, training = report["splits"], report["training"]
    progress.headline(f"\n{headline(report, metric)}")
    if splits:
        progress.table(summary_table(splits, metric))
    for split, scores in splits.items():
        for warning in scores.get("warnings", ()):
            progress.say(f"WARNING: {split}: {warning}")
    for warning in data_lines(report, "warnings"):
        progress.say(f"WARNING: {warning}")
    unit = training["unit"]
    if averaged := training.get("averaged_steps"):
        weights = f"the mean of steps {averaged}"
    else:
        weights = f"of step {training['chosen_step']:,} of {training['steps']:,}"
    speed = f"{training[f'useful_{unit}_per_second']:,.0f} useful {unit}/s"
    memory = f"{training['peak_process_mib']:,.0f} MiB of memory"
    progress.say(
        f"weights  {weights}\n"
        f"cost     {format_seconds(training['seconds'])}, {speed}, {memory}\n"
        f"{_goodput_line(training.get('goodput', {}))}"
        f"report   {workdir / 'report.html'} (for a browser), report.md\n"
        f"try it   {predict}"
    )


def _goodput_line(seconds: Mapping[str, float]) -> str:
    """Returns the share of the time that was training, and the three activities that took most of the rest."""
    total = sum(seconds.values())
    if not total:
        return ""
    others = sorted((spent, name) for name, spent in seconds.items() if name != "train" and spent >= 0.005 * total)
    most = ", ".join(f"{name} {spent / total:.0%}" for spent, name in others[:-4:-1])
    return f"goodput  {goodput(seconds):.0%} of the time{f' (else: {most})' if most else ''}\n"


def headline(report: Mapping[str, Any], metric: str) -> str:
    """Returns the one number of a report in words."""
    result = result_of(report["splits"], metric)
    if result is not None:
        return str(result)
    return f"trained for {report['training']['steps']:,} steps; no split was held out, so nothing was scored"


def metrics_of(scores: Mapping[str, Any]) -> list[str]:
    """Returns the names of a split's metrics: those with intervals, or else all numbers."""
    if "intervals" in scores:
        intervals = scores["intervals"]
        return [*intervals["metrics"], *intervals.get("groups", {}).get("metrics", {})]
    return [name for name, value in scores.items() if isinstance(value, int | float) and not isinstance(value, bool)]


def data_lines(report: Mapping[str, Any], name: str) -> list[str]:
    """Returns what a report says of its data: "splits", how they are kept apart, or "warnings"; [] where nothing."""
    data = report.get("data")
    found = data.get(name) if isinstance(data, Mapping) else None
    return list(map(str, found)) if isinstance(found, list) else []


def number(value: Any) -> float:
    """Returns a number as report.json has it, "nan" and "inf" as floats; NaN for what is no number."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return math.nan if isinstance(value, int) and abs(value) > sys.float_info.max else float(value)
