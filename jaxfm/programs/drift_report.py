"""What `jaxfm.drift` found, for people and as JSON: tables, a picture, a page, a line of the history."""

import dataclasses
import datetime
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from jaxfm import files
from jaxfm.evaluation.bootstrap import CONFIDENCE, Interval
from jaxfm.evaluation.drift_rules import NOTHING, Measure, Rule, Thresholds
from jaxfm.evaluation.drift_samples import Word
from jaxfm.evaluation.error_estimate import ErrorEstimate
from jaxfm.evaluation.label_shift import ClassShares
from jaxfm.observe.drift_plots import Line, plot_drift
from jaxfm.observe.pages import Section, to_page
from jaxfm.observe.tables import Cell, Table, to_html, to_markdown, to_rich
from jaxfm.observe.writers import to_json

JSON_FILE, MARKDOWN_FILE, PAGE_FILE, PLOT_FILE, HISTORY_FILE = (
    *("drift.json", "drift.md", "drift.html", "drift.png"),
    "history.jsonl",
)
VERSION = 1
_SHOWN_WORDS, _SHOWN_UNLIKE, _SHOWN_CLASSES, _SHOWN_HISTORY = 12, 8, 12, 10
_CUT = 110  # characters of a text in a table


@dataclasses.dataclass(frozen=True)
class Unlike:
    """A new record that lies where new records are many and those of the reference few.

    Attributes:
      text: of it.
      origin: where it was read.
      witness: how much nearer it is to new records than to the others.
    """

    text: str
    origin: str
    witness: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """The real score of labelled new data.

    Attributes:
      metric: its name.
      reference: of the reference.
      new: of the new data.
      drop: by how much that is worse.
    """

    metric: str
    reference: Interval
    new: Interval
    drop: Interval


@dataclasses.dataclass(frozen=True, repr=False)
class DriftReport:
    """New data beside those of a run; a notebook shows its tables.

    Attributes:
      workdir: the run.
      step: of its checkpoint.
      reference: name and number of records of the texts that words are compared with.
      held_out: the same of the records that what the model says is compared with; None: there are none.
      new: the same of the new data.
      measures: distances and their tests.
      words: that differ most.
      unlike: the most unlike records.
      estimate: of accuracy; None where the run gives no probabilities or there are no held-out records.
      unit: what is right or wrong of that, a noun in the plural.
      classes: names of the classes.
      shares: of the classes; None where a record has not one class.
      scores: real ones; None without labels.
      thresholds: of the rules.
      verdict: "train again", "look" or "nothing".
      rules: those that have fired.
      confidences: of the records of reference and new data; None without probabilities.
      seed: of all draws.
      rounds: of the tests.
      notes: lines for a person.
    """

    workdir: str
    step: int
    reference: tuple[str, int]
    held_out: tuple[str, int] | None
    new: tuple[str, int]
    measures: tuple[Measure, ...]
    words: tuple[Word, ...]
    unlike: tuple[Unlike, ...]
    estimate: ErrorEstimate | None
    unit: str
    classes: tuple[str, ...]
    shares: ClassShares | None
    scores: Scores | None
    thresholds: Thresholds
    verdict: str
    rules: tuple[Rule, ...]
    confidences: tuple[np.ndarray, np.ndarray] | None
    seed: int
    rounds: int
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """For people."""
        found = [self._measures()]
        if self.estimate is not None or self.scores is not None:
            found.append(self._scores())
        if self.shares is not None:
            found.append(self._shares(self.shares))
        if self.words:
            found.append(self._words(_SHOWN_WORDS))
        if self.unlike:
            found.append(self._unlike(_SHOWN_UNLIKE))
        return tuple(found)

    def lines(self) -> list[str]:
        """Returns the verdict in words, and why."""
        if self.verdict == NOTHING:
            return [f"verdict: {NOTHING}: no difference of consequence is shown"]
        return [f"verdict: {self.verdict.upper()}", *(f"  {each.name}: {each.why}" for each in self.rules)]

    def _measures(self) -> Table:
        rows: list[tuple[Cell, ...]] = [
            (
                each.name,
                each.unit,
                each.tested.distance,
                each.tested.chance,
                each.tested.quantile(1 - self.thresholds.alpha),
                each.beyond,
                each.tested.p,
                each.p,
                "yes" if each.differs else "no",
            )
            for each in self.measures
        ]
        top = f"{1 - self.thresholds.alpha:.0%} below"
        columns = ("what", "distance", "value", "by chance", top, "beyond chance", "p", "p (Holm)", "differs")
        formats = dict.fromkeys(columns[2:6], ".3f") | dict.fromkeys(columns[6:8], ".2g")
        of_model = (
            "" if self.held_out is None else f", what the run says with {self.held_out[1]:,} of {self.held_out[0]}"
        )
        title = f"{self.new[1]:,} of {self.new[0]}: texts beside {self.reference[1]:,} of {self.reference[0]}{of_model}"
        return Table(title, columns, rows, formats=formats)

    def _scores(self) -> Table:
        rows: list[tuple[Cell, ...]] = []

        def row(name: str, of: str, value: Interval, drop: Interval | None) -> None:
            ends = () if drop is None else (drop.value, _end(drop.low), _end(drop.high))
            rows.append((name, of, value.value, _end(value.low), _end(value.high), *(ends or (None,) * 3)))

        if self.estimate is not None:
            row(f"accuracy ({self.unit})", "reference, with labels", self.estimate.reference, None)
            for name, value in self.estimate.accuracy.items():
                row(f"accuracy ({self.unit})", f"new, {name}", value, self.estimate.drop[name])
        if self.scores is not None:
            name = self.scores.metric.replace("_", " ")
            row(name, "reference, with labels", self.scores.reference, None)
            row(name, "new, with labels", self.scores.new, self.scores.drop)
        columns = ("score", "of", "value", "from", "to", "drop", "drop from", "to ")
        title = f"Scores with {CONFIDENCE:.0%} intervals" + ("" if self.scores else "; those of new data are estimates")
        return Table(title, columns, rows, formats=dict.fromkeys(("drop", "drop from", "to "), "+.4f"))

    def _shares(self, shares: ClassShares) -> Table:
        order = np.argsort(-np.abs(shares.predicted - shares.predicted_reference), kind="stable")[:_SHOWN_CLASSES]
        rows: list[tuple[Cell, ...]] = []
        for number in order.tolist():
            estimate = shares.estimated[number] if shares.estimated else None
            rows.append(
                (
                    self.classes[number],
                    float(shares.reference[number]),
                    float(shares.predicted_reference[number]),
                    float(shares.predicted[number]),
                    *((None,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)),
                )
            )
        columns = ("class", "reference", "predicted there", "predicted of new", "new, corrected", "from", "to")
        why = f" (not corrected: {shares.problem})" if shares.problem else ""
        return Table(f"Shares of classes{why}", columns, rows, formats=dict.fromkeys(columns[1:], ".1%"))

    def _words(self, most: int) -> Table:
        rows = [(each.word, each.new, each.reference, each.share) for each in self.words[:most]]
        columns = ("word", "new, of 1,000", "reference, of 1,000", "share of the difference")
        formats = dict.fromkeys(columns[1:3], ".2f") | {columns[3]: ".1%"}
        return Table("Words that differ most", columns, rows, formats=formats)

    def _unlike(self, most: int) -> Table:
        rows = [(each.origin, each.witness, _cut(each.text)) for each in self.unlike[:most]]
        return Table("New records that are most unlike the reference", ("where", "witness", "text"), rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        found: dict[str, Any] = {"version": VERSION, "workdir": self.workdir, "step": self.step}
        sides = {"reference": self.reference, "held_out": self.held_out, "new": self.new}
        found |= {name: None if each is None else {"name": each[0], "records": each[1]} for name, each in sides.items()}
        found |= {"verdict": self.verdict, "rules": [dataclasses.asdict(each) for each in self.rules]}
        found |= {"thresholds": dataclasses.asdict(self.thresholds), "seed": self.seed, "rounds": self.rounds}
        found["measures"] = {
            each.name: {
                "distance": each.unit,
                "value": each.tested.distance,
                "by_chance": each.tested.chance,
                "quantile": each.tested.quantile(1 - self.thresholds.alpha),
                "beyond_chance": each.beyond,
                "p": each.tested.p,
                "p_holm": each.p,
                "differs": each.differs,
            }
            for each in self.measures
        }
        if self.estimate is not None:
            found["accuracy"] = {
                "unit": self.unit,
                "confidence": CONFIDENCE,
                "reference": dataclasses.asdict(self.estimate.reference),
                "new": {name: dataclasses.asdict(each) for name, each in self.estimate.accuracy.items()},
                "drop": {name: dataclasses.asdict(each) for name, each in self.estimate.drop.items()},
            }
        if self.scores is not None:
            found["scores"] = dataclasses.asdict(self.scores)
        if self.shares is not None:
            found["classes"] = self._share_values(self.shares)
        found["words"] = [dataclasses.asdict(each) for each in self.words]
        found["unlike"] = [dataclasses.asdict(each) for each in self.unlike]
        return found | ({"notes": list(self.notes)} if self.notes else {})

    def _share_values(self, shares: ClassShares) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: {
                "reference": float(shares.reference[number]),
                "predicted_reference": float(shares.predicted_reference[number]),
                "predicted": float(shares.predicted[number]),
            }
            | ({"estimated": dataclasses.asdict(shares.estimated[number])} if shares.estimated else {})
            for number, name in enumerate(self.classes)
        }
        return {"shares": found} | ({"problem": shares.problem} if shares.problem else {})

    def history_line(self) -> dict[str, Any]:
        """Returns what is kept of each call, with the time of now."""
        found: dict[str, Any] = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
        found |= {"data": self.new[0], "records": self.new[1], "step": self.step, "verdict": self.verdict}
        found["beyond_chance"] = {each.name: each.beyond for each in self.measures}
        if self.estimate is not None:
            found["accuracy"] = {name: each.value for name, each in self.estimate.accuracy.items()}
        if self.scores is not None:
            found["score"] = self.scores.new.value
        return found

    def __repr__(self) -> str:
        return f"DriftReport({self.workdir}, {self.new[0]}: {self.verdict})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.tables))


HOW_TO_READ = """\
value: 0 for equal distributions, 1 for such that have nothing in common (the area under ROC: 0.5 to 1). by chance: the
mean where all records are divided anew, at random. beyond chance: the distance less that. p: how often such a division
gives as much; Holm: corrected for the number of tests. differs: p (Holm) is below --alpha, and the distance is --least
or more beyond chance."""


def write_drift(folder: pathlib.Path, report: DriftReport) -> None:
    """Writes drift.json, drift.md, drift.html and drift.png, and adds a line to history.jsonl."""
    lines = [
        Line(each.name, each.tested.distance, each.tested.quantile(1 - report.thresholds.alpha), each.differs)
        for each in report.measures
    ]
    plot_drift(lines, folder / PLOT_FILE, title=f"Drift: {report.verdict}", confidences=report.confidences)
    files.write_text(folder / MARKDOWN_FILE, markdown(report))
    history = [*read_history(folder), to_json(report.history_line())]
    files.write_text(folder / PAGE_FILE, page(report, history))
    files.write_text(folder / HISTORY_FILE, "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in history))
    files.write_json(folder / JSON_FILE, to_json(report.to_dict()))


def read_history(folder: pathlib.Path) -> list[Mapping[str, Any]]:
    """Returns the lines of the calls so far; a line that is damaged is left out, as nothing depends on it."""
    path, found = folder / HISTORY_FILE, []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and {"time", "data", "verdict"} <= values.keys():
            found.append(values)
    return found


def history_table(history: list[Mapping[str, Any]]) -> Table:
    """Lays out the last calls, the newest first."""
    names = list(history[-1].get("beyond_chance", {}))
    rows: list[tuple[Cell, ...]] = []
    for each in history[: -_SHOWN_HISTORY - 1 : -1]:
        beyond = each.get("beyond_chance", {})
        values = [value if isinstance(value := beyond.get(name), float) else None for name in names]
        rows.append((str(each["time"]), str(each["data"]), str(each["verdict"]), *values))
    return Table(
        "So far: beyond chance", ("time", "data", "verdict", *names), rows, formats=dict.fromkeys(names, ".3f")
    )


def markdown(report: DriftReport) -> str:
    """Returns the report for people."""
    parts = [f"# Drift of {report.new[0]}\n", "\n".join(f"- {line.strip()}" for line in report.lines()) + "\n"]
    parts += [f"{note}\n" for note in report.notes]
    parts += [f"## {table.title}\n\n{to_markdown(table)}" for table in report.tables]
    return "\n".join([*parts, f"![distances]({PLOT_FILE})\n", HOW_TO_READ, ""])


def page(report: DriftReport, history: list[Mapping[str, Any]]) -> str:
    """Returns the report as a page that needs nothing else."""
    tables = list(report.tables)
    if report.words:
        tables[[each.title for each in tables].index("Words that differ most")] = report._words(len(report.words))
    if report.unlike:
        tables[-1] = report._unlike(len(report.unlike))
    sections = [Section("New data beside those of the run", (HOW_TO_READ,), tuple(tables))]
    sections.append(Section("History", (), (history_table(history),)))
    return to_page(f"Drift of {report.new[0]}", (*report.lines(), *report.notes), sections)


def _end(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CUT else f"{text[: _CUT - 1]}…"
