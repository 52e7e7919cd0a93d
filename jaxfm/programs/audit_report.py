"""What `jaxfm.audit` found, for people and as JSON: tables, a page with the suspicious examples."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType

from jaxfm import files
from jaxfm.core.data_check import DataCheck, Lengths
from jaxfm.core.labels import IMAGE, PAIR, TEXT, TOKENS, LabelledRecord
from jaxfm.data.text.tagging import Span
from jaxfm.evaluation.label_errors import LabelError, SplitErrors
from jaxfm.observe.examples import Mark, View, WrongExample
from jaxfm.observe.pages import Section, to_page
from jaxfm.observe.tables import Cell, Table, to_html, to_markdown, to_rich
from jaxfm.observe.writers import to_json
from jaxfm.programs.audit_copies import (
    CONFLICT,
    EXACT,
    LEAK,
    NEAR,
    FoundCopies,
    copies_table,
    repeated_table,
    text_of,
)
from jaxfm.programs.audit_records import Records

VERSION = 1
JSON_FILE, MARKDOWN_FILE, HTML_FILE = "audit.json", "audit.md", "audit.html"
_TOLD, _LISTED, _PAGED = 10, 30, 200  # suspects in the terminal, in audit.md, of a split in audit.html
_CONFUSIONS = 10
_CUT = 120  # characters of a text in a table
_REPLACED = ("duplicates", "leaks", "contradictions")  # checks that the audit makes itself, in full


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class AuditReport:
    """What is wrong with a labelled data set; a notebook shows its tables.

    Attributes:
      source: URI of the data.
      task: that they are for.
      records: split -> records as they were read.
      class_names: of all classes; of words their tags.
      check: sizes, labels, lengths, and what `jaxfm.check` says.
      copies: records that repeat others.
      folds: number of folds; 0: no label was judged.
      method: how wrong labels were chosen, "" without folds.
      score: how they are ranked, "" without folds.
      errors: split -> labels that are probably wrong.
      probabilities: split -> [W, C] of each record, by models that have not seen it.
      notes: lines for a person.
      removed: numbers of the records of train that --clean left out; None where nothing was written.
    """

    source: str
    task: str
    records: Records
    class_names: tuple[str, ...]
    check: DataCheck
    copies: FoundCopies
    folds: int
    method: str = ""
    score: str = ""
    errors: Mapping[str, SplitErrors] = dataclasses.field(default_factory=dict)
    probabilities: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    removed: tuple[int, ...] | None = None

    @property
    def suspects(self) -> tuple[LabelError, ...]:
        """Wrong labels of all splits, the worst first."""
        return tuple(sorted((each for own in self.errors.values() for each in own.errors), key=lambda one: one.quality))

    @property
    def summary(self) -> tuple[str, ...]:
        """Sentences for a person who reads nothing else."""
        said = [f"{self.source}: " + ", ".join(f"{split} {len(own):,}" for split, own in self.records.items()) + "."]
        for split, own in self.errors.items():
            said.append(
                f"{split}: {len(own.errors):,} {_what(own, self.records[split])} probably have a wrong label; about "
                f"{own.noise:.1%} of {own.labels:,} labels are estimated to be wrong."
            )
        for kind, text in ((LEAK, "are in train as well"), (CONFLICT, "have another label elsewhere")):
            counts = {split: self.copies.count(kind, split) for split in self.records}
            if any(counts.values()):
                said.append(f"Records that {text}: {', '.join(f'{split} {n:,}' for split, n in counts.items() if n)}.")
        for each in self.check.findings:
            if each.level == "ok" and each.check == "unknown tokens":
                said.append(f"{each.message[:1].upper()}{each.message[1:]}.")
            if each.level != "ok" and each.check not in _REPLACED:
                said.append(f"{each.level}: {each.check}: {each.message} -> {each.fix}.")
        return tuple(said)

    @property
    def tables(self) -> tuple[Table, ...]:
        """For people."""
        found = [*self.check.tables]
        if self.check.lengths:
            found.append(lengths_table(self.check.lengths))
        found.append(copies_table(self.copies, self.records))
        if self.errors:
            found += [self._errors_table(), *self._confusion_tables()]
        if self.suspects:
            found.append(self._suspects_table(_TOLD))
        return tuple(found)

    def _errors_table(self) -> Table:
        rows = [
            (split, own.labels, own.suspect, own.suspect / own.labels, own.noise, len(own.errors))
            for split, own in self.errors.items()
        ]
        first = next(iter(self.errors))
        what = _what(self.errors[first], self.records[first])
        columns = ("split", "labels", "suspect", "share", "estimated wrong", what)
        return Table("Label errors", columns, rows, formats={"share": ".2%", "estimated wrong": ".2%"})

    def _confusion_tables(self) -> list[Table]:
        return [
            Table(
                f"{split}: given and true label, estimated", ("given", "true", "labels"), own.confusions[:_CONFUSIONS]
            )
            for split, own in self.errors.items()
            if own.confusions
        ]

    def _suspects_table(self, most: int) -> Table:
        suspects = self.suspects
        rows: list[tuple[Cell, ...]] = [
            (
                short_place(each.origin),
                each.kind,
                _cut(each.given),
                _cut(each.suggested),
                each.quality,
                _cut(_shown(self.records[each.split][each.record])),
            )
            for each in suspects[:most]
        ]
        more = f" (the first {most} of {len(suspects):,})" if len(suspects) > most else ""
        columns = ("place", "what", "given", "suggested", "quality", "reads")
        return Table(f"Suspicious labels, the worst first{more}", columns, rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the records as JSON values."""
        found: dict[str, Any] = {"version": VERSION, "source": self.source, "task": self.task}
        found |= {"records": {split: len(own) for split, own in self.records.items()}, "summary": list(self.summary)}
        found |= {"check": self.check.to_dict()}
        found["lengths"] = {split: _length_values(own) for split, own in self.check.lengths.items()}
        found["copies"] = {
            "repeated": [dataclasses.asdict(each) for each in self.copies.repeated],
            "thirteen_words_in_train": dict(self.copies.overlaps),
        }
        found["folds"] = self.folds
        if self.errors:
            found |= {"method": self.method, "score": self.score, "classes": list(self.class_names)}
            found["label_errors"] = {
                split: {
                    "labels": own.labels,
                    "suspect": own.suspect,
                    "estimated_wrong": own.noise,
                    "confusions": [list(each) for each in own.confusions],
                    "errors": [
                        dataclasses.asdict(each) | {"text": _shown(self.records[split][each.record])}
                        for each in own.errors
                    ],
                }
                for split, own in self.errors.items()
            }
        if self.removed is not None:
            found["removed"] = list(self.removed)
        return found | ({"notes": list(self.notes)} if self.notes else {})

    def __repr__(self) -> str:
        return f"AuditReport({' '.join(self.summary[: 1 + len(self.errors)])})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.tables))

    def _sections(self, most: int) -> list[Section]:
        """Returns the parts of audit.md and audit.html; `most`: suspects of a split."""
        data = (*self.check.tables, *([lengths_table(self.check.lengths)] if self.check.lengths else ()))
        repeated = [
            repeated_table(kind, self.copies, self.records, _LISTED, _CUT) for kind in (LEAK, CONFLICT, EXACT, NEAR)
        ]
        found = [
            Section("Data", tuple(_check_lines(self.check)), data),
            Section(
                "Copies",
                (HOW_TO_READ_COPIES,),
                (copies_table(self.copies, self.records), *(table for table in repeated if table.rows)),
            ),
        ]
        if self.errors:
            tables = (self._errors_table(), *self._confusion_tables())
            found.append(Section("Label errors", (HOW_TO_READ_ERRORS,), tables))
        for split, own in self.errors.items():
            shown = own.errors[:most]
            count = f" (the first {most} of {len(own.errors):,})" if len(own.errors) > most else ""
            examples = tuple(suspect_example(self.records[split][each.record], each) for each in shown)
            found.append(Section(f"Suspicious labels: {split}{count}", examples=examples))
        return found

    def html(self) -> str:
        """Returns audit.html."""
        return to_page(f"Audit of {self.source}", (*self.summary, *self.notes), self._sections(_PAGED))

    def markdown(self) -> str:
        """Returns audit.md."""
        parts = [f"# Audit of {self.source}", "\n".join(f"- {line}" for line in (*self.summary, *self.notes))]
        for section in self._sections(0):
            if section.tables:
                parts += [f"## {section.title}", *section.notes]
            for table in section.tables:
                parts += [f"### {table.title}", to_markdown(table).strip("\n")]
        if self.suspects:
            table = self._suspects_table(_LISTED)
            parts += [f"## {table.title}", to_markdown(table).strip("\n")]
        return "\n\n".join(filter(None, parts)) + "\n"


HOW_TO_READ_COPIES = (
    "copies: equal to an earlier record of their split but for case and white space. near copies: four fifths of the "
    "pairs of neighbouring words are the same, in the record itself or in records between them. other label: copies, "
    "in any split, whose label is another one. in train: records of other splits that train has as well. 13 words: "
    "records of other splits of which thirteen words in a row, or all where they are fewer, are a text of train."
)
HOW_TO_READ_ERRORS = (
    "Each label is judged by models that were not trained on it (confident learning, Northcutt et al. 2021). suspect: "
    "labels that are probably wrong. estimated wrong: the share of wrong labels, whichever they are. quality: 0 to 1, "
    "the lower the more the models are against the given label. A model can be wrong as well: look at a label before "
    "changing it."
)


def write_audit(folder: pathlib.Path, report: AuditReport) -> None:
    """Writes audit.json, audit.md and audit.html into a folder."""
    files.write_json(folder / JSON_FILE, to_json(report.to_dict()))
    files.write_text(folder / MARKDOWN_FILE, report.markdown())
    files.write_text(folder / HTML_FILE, report.html())


def suspect_example(record: LabelledRecord, error: LabelError) -> WrongExample:
    """Returns a suspicious label as an example for a page."""
    facts = (("what", error.kind), ("quality", error.quality))
    if TOKENS in record.row:
        words = record.row[TOKENS]
        given, suggested = error.given_spans, error.spans
        views = (
            _entities_view("given", words, given, "wrong"),
            _entities_view("suggested", words, suggested, "right"),
        )
        return WrongExample(error.origin, views, facts)
    facts = (("given", error.given), ("suggested", error.suggested), *facts)
    names = [name for name in (TEXT, PAIR) if name in record.row]
    return WrongExample(error.origin, tuple(View(name, record.row[name]) for name in names), facts)


def _entities_view(heading: str, words: Sequence[str], spans: Sequence[Span], status: Any) -> View:
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    marks = tuple(
        Mark(int(starts[first]), int(starts[end - 1]) + len(words[end - 1]), kind, status) for first, end, kind in spans
    )
    return View(heading, " ".join(words), marks)


def lengths_table(lengths: Mapping[str, Lengths]) -> Table:
    """Lays out how long examples are, and what of them is not read."""
    rows: list[tuple[Cell, ...]] = []
    for split, own in lengths.items():
        values = _length_values(own)
        rows.append((split, *values["quantiles"].values(), own.window, own.over, values["unread"]))
    columns = ("split", "5 %", "25 %", "50 %", "75 %", "95 %", "99 %", "longest", "read at once", "longer", "not read")
    return Table("Tokens of an example", columns, rows, formats={"not read": ".2%"})


def _length_values(lengths: Lengths) -> dict[str, Any]:
    shares = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    found = np.quantile(lengths.tokens, shares, method="higher")
    return {
        "quantiles": {f"{share:g}": int(value) for share, value in zip(shares, found, strict=True)},
        "window": lengths.window,
        "over": lengths.over,
        "windows": lengths.windows,
        "unread": lengths.unread,
    }


def _check_lines(check: DataCheck) -> list[str]:
    return [f"{each.check}: {each.message}" for each in check.findings if each.check not in _REPLACED]


def _what(errors: SplitErrors, records: Sequence[LabelledRecord]) -> str:
    """Returns what single errors are of, in the plural."""
    del errors
    row = records[0].row
    return "entities" if TOKENS in row else "images" if IMAGE in row else "texts"


def _shown(record: LabelledRecord) -> str:
    return record.origin if IMAGE in record.row else text_of(record)


def short_place(origin: str) -> str:
    """Returns the name of the file, and the line, of a place."""
    return origin.rsplit("/", 1)[-1]


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CUT else f"{line[: _CUT - 3]}..."
