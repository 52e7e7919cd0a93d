"""The report of a finished run: report.md and report.html for people, report.json for programs."""

import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError
from jaxfm.files import check_values, read_object, relative_path, write_json, write_text
from jaxfm.observe.examples import WrongExample
from jaxfm.observe.html_report import to_html
from jaxfm.observe.progress import format_seconds
from jaxfm.observe.summary import data_lines, result_of
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json

JSON_FILE, MARKDOWN_FILE, HTML_FILE = "report.json", "report.md", "report.html"


def write_report(
    workdir: str | os.PathLike[str],
    report: Mapping[str, Any],
    tables: Mapping[str, Sequence[Table]],
    plots: Sequence[pathlib.Path],
    *,
    metric: str = "",
    wrong: Mapping[str, Sequence[WrongExample]] | None = None,
    settings: Sequence[tuple[str, str, str, str]] = (),
    commands: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes `report` as WORKDIR/report.json and, with all the rest, report.md and report.html; each atomically.

    Args:
      workdir: the run directory.
      report: at least {"task", "splits": {split: {metric: fraction, ...}}, "training": {"steps", "seconds", "unit" and,
        by its name, "useful_tokens_per_second" and "useful_token_share", "goodput": {what: seconds}, "mfu" if known},
        "model": {"parameters", "trainable_parameters", "optimizer_bytes", "init"},
        "device", "versions": {package: version}}. Other keys are kept; NaN and infinity become "nan" and "inf".
      tables: heading (usually a split) -> tables under it.
      plots: images inside WORKDIR: report.md names them by relative path, report.html holds them.
      metric: that chose the checkpoint: the one number of the run.
      wrong: split -> what the model has most wrong.
      settings: (key, value, default, what it is) of every key of the config.
      commands: (what it does, command line), see `how_to_use`.

    Raises TypeError or ValueError for a value that JSON cannot hold, OSError when the disk is full.
    """
    folder = pathlib.Path(workdir)
    values = to_json(report)
    write_text(folder / MARKDOWN_FILE, to_report_text(folder, values, tables, plots, metric, commands))
    page = to_html(
        folder,
        values,
        metric,
        tables=tables,
        cost=(training_table(values["training"]), goodput_table(values["training"])),
        plots=plots,
        wrong=wrong or {},
        settings=settings,
        commands=commands,
    )
    write_text(folder / HTML_FILE, page)
    # Written last: where report.json exists, the report is complete.
    write_json(folder / JSON_FILE, values)


def read_report_file(path: pathlib.Path) -> dict[str, Any]:
    """Returns what `write_report` wrote to report.json.

    Raises:
      UserError: it is absent, cut, or the parts that programs read of it are of another kind.
    """
    report = read_object(path)
    check_values(report, {"splits": dict, "training": dict}, str(path))
    training = report["training"]
    kinds: dict[str, type] = {"steps": int} | ({"seconds": float} if "seconds" in training else {})
    check_values(training, kinds, f"{path}: training")
    check_values(report | {"directions": report.get("directions", {})}, {"directions": dict}, str(path))
    for split, scores in report["splits"].items():
        where = f"{path}: splits.{split}"
        check_values(scores, {}, where)
        if "intervals" in scores:
            _check_intervals(scores["intervals"], f"{where}.intervals")
            if "groups" in scores["intervals"]:
                _check_intervals(scores["intervals"]["groups"], f"{where}.intervals.groups")
    kept = report.get("checkpoint")  # absent in reports of older versions
    if kept is not None:
        check_values(kept, {"step": int, "averaged": bool, "weights_only": bool}, f"{path}: checkpoint")
    return report


def _check_intervals(values: Any, where: str) -> None:
    check_values(values, {"count": int, "unit": str, "confidence": float, "metrics": dict}, where)
    for metric, ends in values["metrics"].items():
        if not isinstance(ends, list):
            raise UserError(f"{where}: {metric!r:.80} is {ends!r:.80}, but must be a list of the two ends.")


def to_report_text(
    workdir: pathlib.Path,
    report: Mapping[str, Any],
    tables: Mapping[str, Sequence[Table]],
    plots: Sequence[pathlib.Path],
    metric: str = "",
    commands: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns the text of report.md; `report` has JSON types, the other arguments are those of `write_report`."""
    parts = [f"# {report['task']}: {workdir.name or workdir}"]
    result = result_of(report["splits"], metric)
    parts += [*([f"**{result}**"] if result else []), _summary(report)]
    parts += [f"**WARNING:** {warning}" for warning in data_lines(report, "warnings")]
    parts += ["## Scores", to_markdown(scores_table(report["splits"]))]
    if told := data_lines(report, "splits"):
        parts += ["## Splits", "\n".join(f"- {line}" for line in told)]
    for heading, group in tables.items():
        parts += [f"## {heading}"]
        for table in group:
            parts += [f"### {table.title}", to_markdown(table)]
    if plots:
        parts += ["## Pictures"]
        parts += [f"![{plot.stem.replace('_', ' ')}](<{relative_path(plot, workdir)}>)" for plot in plots]
    parts += [
        "## Cost",
        to_markdown(training_table(report["training"])),
        to_markdown(goodput_table(report["training"])),
    ]
    if commands:
        parts += ["## Use it", "\n".join(["```sh", *(command for _, command in commands), "```"])]
    parts += ["## Made with", _made_with(report)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def how_to_use(
    workdir: str | os.PathLike[str],
    splits: Sequence[str],
    *,
    record: str = '"TEXT"',
    several: str = "--input=FILE",
    export: bool = True,
) -> list[tuple[str, str]]:
    """Returns (what it does, command line) of what can be done with a finished run; FILE, TEXT and DIR are the user's.

    Args:
      workdir: the run directory.
      splits: those that were scored: only they can be scored again without other data.
      record: what to write of one record, as the shell reads it.
      several: the flag that names many.
      export: whether it can be written for other libraries.
    """
    run = shlex.quote(str(workdir))
    commands = [
        ("Predict one", f"python -m jaxfm.predict --workdir={run} {record}"),
        ("Predict many", f"python -m jaxfm.predict --workdir={run} {several} --output=OUT.jsonl"),
    ]
    if splits:
        split = shlex.quote("test" if "test" in splits else splits[-1])
        commands.append(("Score a split again", f"python -m jaxfm.evaluate --workdir={run} --split={split}"))
    if export:
        command = f"python -m jaxfm.export --workdir={run} --format=hf --output=DIR"
        commands.append(("Write it for transformers", command))
    return commands


def scores_table(splits: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a table with a row for each split and its plain numbers; nested scores are in the task's own tables."""
    numbers = {split: _numbers(scores) for split, scores in splits.items()}
    names = list(dict.fromkeys(name for scores in numbers.values() for name in scores))
    rows = [(split, *(scores[name] if name in scores else None for name in names)) for split, scores in numbers.items()]
    return Table("Scores", ("split", *(_words(name) for name in names)), rows)


def training_table(training: Mapping[str, Any]) -> Table:
    """Returns a table of the plain numbers of the training."""
    unit = training.get("unit", "tokens")
    texts = {
        "seconds": lambda value: f"{value:,.1f} ({format_seconds(value)})",
        f"{unit}_per_second": lambda value: f"{value:,.0f}",
        f"useful_{unit}_per_second": lambda value: f"{value:,.0f}",
        "mfu": lambda value: f"{value:.1%}",
        "peak_process_mib": lambda value: f"{value:,.0f} (all of the process' physical memory)",
    }
    rows: list[tuple[Cell, ...]] = []
    for name, value in training.items():
        if _is_number(value):
            other = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            if name.endswith("_share"):
                other = f"{value:.1%}"
            rows.append((_words(name), texts[name](value) if name in texts else other))
        elif isinstance(value, str):
            rows.append((_words(name), value))
    return Table("Training", ("training", "value"), rows)


def goodput_table(training: Mapping[str, Any]) -> Table:
    """Returns a table of the wall time by activity; time missing from `goodput` is the row "other"."""
    spent = dict(training["goodput"])
    counted = sum(spent.values())
    total = max(training["seconds"], counted)
    if total > counted:
        spent["other"] = total - counted
    rows = [(_words(what), seconds, seconds / total if total else 0.0) for what, seconds in spent.items()]
    rows.append(("wall time", total, 1.0))
    formats = {"seconds": ",.1f", "share": ".1%"}
    return Table("Wall time", ("where the time went", "seconds", "share"), rows, footer=1, formats=formats)


def _summary(report: Mapping[str, Any]) -> str:
    training, model = report["training"], report["model"]
    unit = training.get("unit", "tokens")
    (share,) = (value for name, value in training.items() if name.startswith("useful_") and name.endswith("_share"))
    mfu = f", {training['mfu']:.1%} of what the devices can do (MFU)" if "mfu" in training else ""
    text = (
        f"A model of {model['parameters']:,} parameters, {model['trainable_parameters']:,} of them "
        f"({model['trainable_parameters'] / model['parameters']:.2%}) trainable (optimizer state: "
        f"{model['optimizer_bytes'] / 2**20:,.2f} MiB), started from `{model['init']}`, trained for "
        f"{training['steps']:,} steps in {format_seconds(training['seconds'])} on {report['device']}, "
        f"at {training[f'useful_{unit}_per_second']:,.0f} useful {unit} a second{mfu} "
        f"({share:.1%} of the {unit} computed were useful)."
    )
    for split, scores in report["splits"].items():
        numbers = [
            f"{_words(name)} {value:.4f}" for name, value in _numbers(scores).items() if isinstance(value, float)
        ]
        if numbers:
            text += f" On {split}: {', '.join(numbers)}."
    return text


def _made_with(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in report["versions"].items()) + "."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(scores: Mapping[str, Any]) -> dict[str, int | float]:
    """Returns the plain numbers among scores, with "nan" and "inf" as floats."""
    found = {name: float(value) if value in ("nan", "inf", "-inf") else value for name, value in scores.items()}
    return {name: value for name, value in found.items() if _is_number(value)}


def _words(name: str) -> str:
    return name.replace("_", " ")
