"""What `jaxfm.stress` found, for people and as JSON: tables, a picture, the worst cases."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType

from jaxfm import files
from jaxfm.core.records import Record
from jaxfm.data.perturbations.kinds import KINDS
from jaxfm.evaluation.behaviour import TestResult, behaviour_tables
from jaxfm.evaluation.bootstrap import CONFIDENCE, Interval
from jaxfm.evaluation.out_of_domain import Detection, detection_table
from jaxfm.evaluation.robustness import Effect, Scored, Verdict, worst_units
from jaxfm.observe.stress_plots import Point, plot_stress
from jaxfm.observe.studies import Study
from jaxfm.observe.tables import Cell, Table, to_html, to_markdown, to_rich
from jaxfm.observe.writers import to_json
from jaxfm.programs.stress_run import described, shown_record

MARKDOWN_FILE, JSON_FILE, PLOT_FILE = "stress.md", "stress.json", "stress.png"
_WORST_TOLD, _WORST_KEPT = 10, 100
_CUT = 160  # characters of a text in a table


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """A record that the model had right, and has wrong once it is changed.

    Attributes:
      kind: of the change.
      severity: of the change.
      record: its number in the split.
      origin: where it was read.
      before: as it was.
      after: as it was changed.
      answer_before: what was predicted before.
      answer: what is predicted now.
    """

    kind: str
    severity: int
    record: int
    origin: str
    before: str
    after: str
    answer_before: str
    answer: str


@dataclasses.dataclass(frozen=True, repr=False)
class StressReport:
    """A run under changed inputs; a notebook shows its tables.

    Attributes:
      workdir: the run.
      source: URI of the data.
      split: that was scored.
      seed: of the changes.
      metric: that is compared.
      clean: the split as it is; None where only tests or out-of-domain data were asked for.
      effects: by kind and severity.
      worst: records that changes have turned wrong, the surest mistakes first.
      verdict: of `max_drop`; None where none was given.
      detections: out-of-domain detection, by score.
      tests: results of the tests of a file.
      notes: lines for a person.
    """

    workdir: str
    source: str
    split: str
    seed: int
    metric: str
    clean: Scored | None
    effects: tuple[Effect, ...]
    worst: tuple[WorstCase, ...] = ()
    verdict: Verdict | None = None
    detections: tuple[Detection, ...] = ()
    tests: tuple[TestResult, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether the gate passes; true without one."""
        return self.verdict is None or self.verdict.passes

    @property
    def tables(self) -> tuple[Table, ...]:
        """For people."""
        found: list[Table] = []
        if self.clean is not None:
            found.append(self._effects_table(self.clean))
        if self.detections:
            found.append(detection_table(self.detections))
        return (*found, *behaviour_tables(self.tests))

    def _effects_table(self, clean: Scored) -> Table:
        name = self.metric.replace("_", " ")
        columns = (
            "change",
            "severity",
            "changed",
            name,
            "drop",
            "drop from",
            "to",
            "ECE",
            "ECE rise",
            "flips",
            "broken",
        )
        rows: list[tuple[Cell, ...]] = [
            ("none", 0, 0.0, clean.value.value, None, None, None, _value(clean.ece), None, None, None)
        ]
        for each in self.effects:
            flips = each.flips
            rows.append(
                (
                    each.kind,
                    each.severity,
                    each.touched,
                    each.scored.value.value,
                    each.drop.value,
                    _end(each.drop.low),
                    _end(each.drop.high),
                    _value(each.scored.ece),
                    _value(each.ece_rise),
                    None if flips is None else flips.share.value,
                    None if flips is None else flips.broken,
                )
            )
        title = f"{self.split} of {self.source}: {clean.data.count:,} {clean.data.sampling_unit}, seed {self.seed}"
        formats = {
            "changed": ".0%",
            "drop": "+.4f",
            "drop from": "+.4f",
            "to": "+.4f",
            "ECE rise": "+.4f",
            "flips": ".1%",
        }
        return Table(title, columns, rows, formats=formats)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        found: dict[str, Any] = {"version": 1, "workdir": self.workdir, "source": self.source, "split": self.split}
        found |= {"seed": self.seed, "metric": self.metric, "confidence": CONFIDENCE}
        if self.clean is not None:
            ece = None if self.clean.ece is None else dataclasses.asdict(self.clean.ece)
            found["clean"] = {"score": dataclasses.asdict(self.clean.value), "ece": ece}
            found["clean"] |= {"count": self.clean.data.count, "unit": self.clean.data.sampling_unit}
            found["effects"] = [each.to_dict() for each in self.effects]
            found["worst"] = [dataclasses.asdict(each) for each in self.worst]
        if self.verdict is not None:
            found["gate"] = {
                "max_drop": self.verdict.max_drop,
                "strict": self.verdict.strict,
                "passes": self.verdict.passes,
                "failed": [[each.kind, each.severity] for each in self.verdict.failed],
                "unsure": [[each.kind, each.severity] for each in self.verdict.unsure],
            }
        if self.detections:
            found["out_of_domain"] = [each.to_dict() for each in self.detections]
        if self.tests:
            found["tests"] = [each.to_dict() for each in self.tests]
        return found | ({"notes": list(self.notes)} if self.notes else {})

    def __repr__(self) -> str:
        worst = max(self.effects, key=lambda each: each.drop.value, default=None)
        said = "" if worst is None else f": {self.metric} drops most by {worst.kind}, {worst.drop.value:.4f}"
        return f"StressReport({self.workdir}{said})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.tables))


def worst_cases(
    clean: Scored, effects: Sequence[Effect], records: Sequence[Record], index: Sequence[int], changed: Any
) -> tuple[WorstCase, ...]:
    """Returns the worst cases of each kind and severity in turn, `_WORST_KEPT` in all.

    `changed` is a function of (number of the record, kind, severity): the record as it was changed.
    """
    lists = [worst_units(clean, effect, _WORST_KEPT) for effect in effects]
    found: list[WorstCase] = []
    for place in range(max(map(len, lists), default=0)):
        for effect, units in zip(effects, lists, strict=True):
            if place >= len(units) or len(found) >= _WORST_KEPT:
                continue
            unit = units[place]
            before, after = clean.predictions[unit], effect.scored.predictions[unit]
            found.append(
                WorstCase(
                    effect.kind, effect.severity, index[unit], str(before.get("origin", "")),
                    shown_record(records[unit]), shown_record(changed(unit, effect.kind, effect.severity)),
                    described(before), described(after),
                )
            )  # fmt: skip
    return tuple(found)


def write_stress(folder: pathlib.Path, report: StressReport) -> None:
    """Writes stress.md, stress.json and, where inputs were changed, the picture."""
    if report.effects:
        assert report.clean is not None
        draw(report.clean, report.effects, folder / PLOT_FILE, report.metric)
    files.write_json(folder / JSON_FILE, to_json(report.to_dict()))
    files.write_text(folder / MARKDOWN_FILE, markdown(report))


def study_of(report: StressReport, step: int) -> Study:
    """Returns what a model card says of a report: the drop of each kind at its highest severity, the largest first."""
    name, summary = report.metric.replace("_", " "), list[str]()
    if report.clean is not None:
        summary.append(f"On {report.split} {name} is {report.clean.value.value:.3f} for inputs as they are.")
    severest = {each.kind: each for each in sorted(report.effects, key=lambda each: each.severity)}
    for each in sorted(severest.values(), key=lambda each: -each.drop.value):
        ends = (each.drop.low, each.drop.high)
        sure = "too few differ for an interval"
        if not any(map(math.isnan, ends)):
            sure = f"{CONFIDENCE:.0%} interval {ends[0]:.3f} to {ends[1]:.3f}"
        summary.append(f"{each.kind} at severity {each.severity}: {each.drop.value:.3f} worse ({sure}).")
    for found in report.detections:
        area = found.auroc
        summary.append(
            f"{found.score} tells records from elsewhere with an AUROC of {area.value:.3f} "
            f"({CONFIDENCE:.0%} interval {area.low:.3f} to {area.high:.3f})."
        )
    return Study("stress", "Inputs changed on purpose", tuple(summary), report.tables, {"split": report.split}, step)


def markdown(report: StressReport) -> str:
    """Returns the report for people."""
    parts = [f"# Stress test of {report.workdir}\n"]
    parts += [f"{note}\n" for note in report.notes]
    if report.verdict is not None:
        parts.append(
            "\n".join(line.strip() if line[0] != " " else f"- {line.strip()}" for line in report.verdict.lines()) + "\n"
        )
    for table in report.tables:
        parts.append(f"## {table.title}\n\n{to_markdown(table)}")
    if report.effects:
        parts.append(f"![{report.metric} by severity]({PLOT_FILE})\n")
        used = dict.fromkeys(each.kind for each in report.effects)
        parts.append("\n".join(f"- {name}: {KINDS[name].doc}" for name in used) + "\n")
        parts.append(HOW_TO_READ)
    if report.worst:
        cases = Table(
            "Right before, wrong now",
            ("change", "severity", "before", "after", "answer before", "answer now"),
            [
                (
                    each.kind,
                    each.severity,
                    _cut(each.before),
                    _cut(each.after),
                    _cut(each.answer_before),
                    _cut(each.answer),
                )
                for each in report.worst[:_WORST_TOLD]
            ],
        )
        parts.append(f"## {cases.title}\n\n{to_markdown(cases)}")
    return "\n".join(parts)


HOW_TO_READ = f"""\
drop: how much worse the score is than without a change, with the interval that would hold the true drop in
{CONFIDENCE:.0%} of such tests (paired bootstrap over the same examples); empty where too few examples differ for one.
ECE: expected calibration error. flips: share of the examples whose answer is another one. broken: examples that were
wholly right and no longer are. changed: share of the examples that differ from what they were.
"""


def draw(clean: Scored, effects: Sequence[Effect], path: pathlib.Path, metric: str) -> None:
    """Draws the score by severity, a panel a kind."""
    points: dict[str, list[Point]] = {}
    for each in effects:
        value = each.scored.value
        points.setdefault(each.kind, []).append((each.severity, value.value, value.low, value.high))
    plot_stress(points, clean.value.value, path, y_label=metric.replace("_", " "))


def _value(found: Interval | None) -> float | None:
    return None if found is None else found.value


def _end(value: float) -> float | None:
    return None if math.isnan(value) else value


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _CUT else text[: _CUT - 3] + "..."
