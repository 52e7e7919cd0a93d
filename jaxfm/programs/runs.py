"""A table over many runs: `python -m jaxfm.runs runs/* [--metric=f1] [--split=test] [--output=FILE.csv|FILE.png]`.

One row a run, the best one first: what was trained on what, the keys in which the runs differ, its score with interval,
and its time. Runs that are under way, stopped or damaged have their row too.
"""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import Progress, format_seconds
from jaxfm.observe.report import JSON_FILE, read_report_file
from jaxfm.observe.run_plots import Scored, plot_runs
from jaxfm.observe.summary import Result, metrics_of, result_of
from jaxfm.observe.tables import Cell, Table, fitted, to_markdown
from jaxfm.observe.writers import METRICS_FILE, read_metrics, to_json
from jaxfm.programs import program
from jaxfm.schema import flatten, is_under
from jaxfm.training import workdir as workdirs

USAGE = "usage: python -m jaxfm.runs DIR [DIR ...] [--metric=NAME] [--split=NAME] [--output=FILE.csv|.md|.json|.png]"
PICTURE = ".png"
ENDINGS = (".csv", ".md", ".json", PICTURE)
# Keys that have columns of their own, or that say nothing of a result.
_OWN_COLUMNS = {"task": "task.name", "data": "data.source", "model": "model.init"}
# What a narrow terminal leaves out, the first ones first; the keys in which runs differ follow the fourth.
_COLUMNS = ("why", "model", "data", "time", "steps", "task", "low", "high", "split")
_ALWAYS = ("run", "state", "metric", "score")
_IGNORED = ("task.name", "data.source", "model.init", "log", "profile", "checkpoint", "data.cache")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory as it is now.

    Attributes:
      workdir: the run directory.
      state: "finished", "under way", "stopped", "damaged" or "no run".
      why: what is damaged or missing; where an unfinished run is; "" for a finished one.
      config: dotted key -> value; empty where it cannot be read.
      result: score of the asked split and metric; None where there is none.
      steps: updates done; None where that is not known.
      seconds: wall time in all; None for unfinished runs.
      more_is_better: of the metric of `result`.
    """

    workdir: pathlib.Path
    state: str
    why: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    result: Result | None = None
    steps: int | None = None
    seconds: float | None = None
    more_is_better: bool = True


def runs(
    workdirs: Sequence[str | pathlib.Path], metric: str | None = None, split: str | None = None
) -> list[dict[str, Any]]:
    """Returns a record for each run, the best score first, then the runs without one.

    Args:
      workdirs: run directories, or folders of such (as `jaxfm.seeds` makes them).
      metric: to compare by; None: the one that chose each run's checkpoint.
      split: to compare on, or another usual name of it (dev); None: test, or valid where there is no test.

    Returns:
      Dicts of "run", "state", "why", "task", "data", "model", the keys in which the runs differ (dotted), "steps",
      "split", "metric", "score", "low", "high" and "seconds"; None where something is not known.

    Raises:
      UserError: no directory given, one that does not exist, or a metric or split that no finished run has.
    """
    split = None if split is None else require_split(split)
    found = [_read(folder, metric, split) for folder in _run_folders(workdirs)]
    _check_asked(found, metric, split)
    differing = _differing(found)
    return [_record(run, differing) for run in sorted(found, key=_rank)]


def _run_folders(workdirs_given: Sequence[str | pathlib.Path]) -> list[pathlib.Path]:
    """Returns the directories, those that merely hold runs replaced by the runs in them; each once."""
    if not workdirs_given:
        raise UserError(f"no run directory is given.\n{USAGE}")
    folders: list[pathlib.Path] = []
    for value in workdirs_given:
        folder = files.user_path(value, "a run directory")
        if not folder.exists():
            raise UserError(f"{folder}: is not there.")
        inside = sorted(path.parent for path in folder.glob(f"*/{workdirs.CONFIG_FILE}")) if folder.is_dir() else []
        folders += inside if inside and not (folder / workdirs.CONFIG_FILE).is_file() else [folder]
    return list(dict.fromkeys(folders))


def _read(folder: pathlib.Path, metric: str | None, split: str | None) -> Run:
    if not (folder / workdirs.CONFIG_FILE).is_file():
        return Run(folder, "no run", f"{workdirs.CONFIG_FILE} is not there")
    config: dict[str, Any] = {}
    try:
        config = flatten(workdirs.read_config_values(folder))
        if not (folder / JSON_FILE).is_file():
            return _unfinished(folder, config)
        report = read_report_file(folder / JSON_FILE)
        training, splits = report["training"], report["splits"]
        chosen = {name: scores for name, scores in splits.items() if split in (None, name)}
        result = result_of(chosen, metric or config["eval.metric"])
        if result is not None and metric is not None and result.metric != metric:
            result = None  # the loss does not stand in for a metric that was asked for
        name = "" if result is None else result.metric
        asked = " ".join(filter(None, (metric, f"on {split}" if split else "")))
        return Run(
            folder,
            "finished",
            "" if result is not None or not asked else f"has no {asked}",
            config,
            result,
            training["steps"],
            training["seconds"],
            report.get("directions", {}).get(name, "loss" not in name and name not in ("perplexity", "mse", "mae")),
        )
    except (UserError, KeyError, TypeError, AttributeError, OSError) as error:
        why = f"has no {error}" if isinstance(error, KeyError) else str(error)
        return Run(folder, "damaged", why, config)


def _unfinished(folder: pathlib.Path, config: Mapping[str, Any]) -> Run:
    lines = read_metrics(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    step = max((line["step"] for line in lines), default=0)
    holder = files.holder_of(folder / workdirs.LOCK_FILE)
    if holder is not None:
        return Run(folder, "under way", f"process {holder.get('pid')} on {holder.get('host')}", config, steps=step)
    return Run(folder, "stopped", "the command that began it goes on with it", config, steps=step)


def _check_asked(found: Sequence[Run], metric: str | None, split: str | None) -> None:
    """Raises UserError where no finished run has the metric or split that was asked for."""
    finished = [run for run in found if run.state == "finished"]
    if (metric is None and split is None) or not finished or any(run.result is not None for run in finished):
        return
    splits: dict[str, Any] = {}
    for run in finished:
        splits |= read_report_file(run.workdir / JSON_FILE)["splits"]
    if split is not None and split not in splits:
        raise UserError(f"--split={split}: no run was scored on it. {did_you_mean(split, splits)}")
    names = sorted({name for scores in splits.values() for name in metrics_of(scores)})
    raise UserError(f"--metric={metric}: no run has it. {did_you_mean(str(metric), names)}")


def _differing(found: Sequence[Run]) -> list[str]:
    """Returns the keys in which the configs that have them differ, in the order of the configs."""
    configs = [run.config for run in found if run.config]
    keys = dict.fromkeys(key for config in configs for key in config if not is_under(key, _IGNORED))
    return [key for key in keys if len({repr(config[key]) for config in configs if key in config}) > 1]


def _rank(run: Run) -> tuple[bool, str, float, str]:
    """Scores of one metric side by side, the best first; then the runs without a score."""
    if run.result is None:
        return True, run.state, 0.0, str(run.workdir)
    sign = -1.0 if run.more_is_better else 1.0
    return False, f"{run.result.split} {run.result.metric}", sign * run.result.value, str(run.workdir)


def _record(run: Run, differing: Sequence[str]) -> dict[str, Any]:
    result = run.result
    low, high = (None, None) if result is None or result.interval is None else result.interval
    return {
        "run": str(run.workdir),
        "state": run.state,
        "why": run.why,
        **{name: run.config.get(key) for name, key in _OWN_COLUMNS.items()},
        **{key: run.config.get(key) for key in differing},
        "steps": run.steps,
        "split": None if result is None else result.split,
        "metric": None if result is None else result.metric,
        "score": None if result is None or math.isnan(result.value) else result.value,
        "low": low,
        "high": high,
        "seconds": run.seconds,
    }


def to_table(records: Sequence[Mapping[str, Any]], *, whole: bool) -> tuple[Table, str]:
    """Returns a table of `runs`' records and, unless it is to be whole, what all of them share, as a line."""
    shared: list[str] = []
    columns: list[str] = []
    for name in records[0]:
        values = {repr(record[name]) for record in records}
        alike = len(values) == 1 and len(records) > 1 and name not in ("run", "score")
        if whole or not alike:
            columns.append(name)
        elif values != {"None"} and values != {"''"}:
            shared.append(f"{name} {records[0][name]}")
    rows = [tuple(_cell(name, record[name]) for name in columns) for record in records]
    # A score of 1 is read from JSON as a whole number.
    formats = {name: ".4f" for name in ("score", "low", "high") if name in columns}
    shown = tuple("time" if name == "seconds" else name for name in columns)
    return Table("Runs", shown, rows, formats=formats), "; ".join(shared)


def _cell(name: str, value: Any) -> Cell:
    if name == "seconds" and value is not None:
        return format_seconds(value)
    if value is None or isinstance(value, str | int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) and name not in ("score", "low", "high") else value
    return str(value)


def to_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns the records as CSV, names of the columns first; an empty cell is what is not known."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yields what must be said of runs beside the table."""
    for record in records:
        if record["state"] in ("damaged", "no run"):
            yield f"WARNING: {record['run']}: {record['state']}: {record['why']}"
        elif record["why"] and record["state"] == "finished":
            yield f"NOTE: {record['run']}: {record['why']}"


def _draw(records: Sequence[Mapping[str, Any]], path: pathlib.Path, progress: Progress) -> None:
    """Draws the runs of the first record's metric and split; UserError where no run has a score."""
    scored = [record for record in records if record["score"] is not None]
    if not scored:
        raise UserError(f"--output={path}: no run has a score to draw.")
    metric, split = scored[0]["metric"], scored[0]["split"]
    alike = [record for record in scored if (record["metric"], record["split"]) == (metric, split)]
    if others := len(scored) - len(alike):
        progress.say(f"NOTE: {others} runs have another metric or split than {metric} on {split}: not drawn")
    names = _short_names([record["run"] for record in alike])
    drawn = [
        Scored(
            names[record["run"]],
            record["score"],
            None if record["low"] is None else (record["low"], record["high"]),
            _curve(pathlib.Path(record["run"]), metric),
        )
        for record in alike
    ]
    plot_runs(drawn, path, metric=metric, split=split)


def _short_names(folders: Sequence[str]) -> dict[str, str]:
    """Returns the last parts of paths, as many as tell them from each other."""
    for parts in range(1, 1 + max(len(pathlib.Path(folder).parts) for folder in folders)):
        names = {folder: "/".join(pathlib.Path(folder).parts[-parts:]) for folder in folders}
        if len(set(names.values())) == len(folders):
            return names
    return {folder: folder for folder in folders}


def _curve(workdir: pathlib.Path, metric: str) -> list[tuple[int, float]]:
    """Returns (step, value) of a metric on the validation split."""
    path = workdir / METRICS_FILE
    lines = read_metrics(path) if path.is_file() else []
    found = {line["step"]: line[metric] for line in lines if line["split"] == "valid" and metric in line}
    return [(step, value) for step, value in sorted(found.items()) if math.isfinite(value)]


def main(arguments: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    output = None if values.output is None else files.output_file(values.output, "--output")
    if output is not None and output.suffix not in ENDINGS:
        raise UserError(f"--output={output}: ends in {output.suffix!r}. {did_you_mean(output.suffix, ENDINGS)}")
    records = runs(arguments, values.metric, values.split)
    progress = Progress(None)
    table, shared = to_table(records, whole=False)
    if progress.width is not None:
        keys = [name for name in reversed(table.columns) if name not in (*_COLUMNS, *_ALWAYS)]
        table, left_out = fitted(table, progress.width, [*_COLUMNS[:4], *keys, *_COLUMNS[4:]])
    else:
        left_out = []
    progress.table(table)
    if shared:
        progress.say(f"all: {shared}")
    if left_out:
        progress.say(f"NOTE: {len(left_out)} columns found no room: {', '.join(left_out)}. --output=FILE.csv has all.")
    for line in _lines(records):
        progress.say(line)
    if output is None:
        return
    if output.suffix == PICTURE:
        _draw(records, output, progress)
    elif output.suffix == ".json":
        files.write_json(output, to_json(records))
    else:
        text = to_csv(records) if output.suffix == ".csv" else to_markdown(to_table(records, whole=True)[0])
        files.write_text(output, text)
    progress.say(f"written: {output}")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_string("metric", None, "The metric to compare by; the one that chose each checkpoint if not given.")
    flags.DEFINE_string("split", None, "The split to compare on; test, or else valid, if not given.")
    flags.DEFINE_string(
        "output", None, "A file for the table: .csv, .md or .json; or .png, a picture of scores and curves."
    )
    program.run(main, USAGE, takes_arguments=True)
