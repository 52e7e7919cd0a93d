"""What an audit says: sentences, tables, a page with both readings of entities, JSON."""

import json
import pathlib

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding, Lengths
from jaxfm.core.labels import LabelledRecord
from jaxfm.evaluation.label_errors import LabelError, SplitErrors
from jaxfm.observe.tables import Table
from jaxfm.programs.audit_copies import audit_copies
from jaxfm.programs.audit_report import AuditReport, lengths_table, short_place, suspect_example, write_audit

LENGTHS = Lengths(np.asarray([4, 8, 20]), 10, False)
CHECK = DataCheck(
    (Table("Splits", ("split", "examples"), [("train", 3)]),),
    (
        Finding("warning", "length", "some are long", "take longer rows"),
        Finding("error", "leaks", "said by the audit itself", "mend it"),
        Finding("ok", "balance", "even"),
    ),
    {"train": LENGTHS},
)


def report_of(row: dict[str, object], error: LabelError) -> AuditReport:
    records = {"train": [LabelledRecord(row, "a/b.conll:3", np.zeros(1, np.int64))]}
    errors = {"train": SplitErrors(9, 1, 0.125, (error,), (("B-PER", "O", 1),))}
    copies = audit_copies(records, words=False)
    return AuditReport("conll:a", "ner", records, ("O",), CHECK, copies, 5, "both", "normalised_margin", errors)


TAGGED = report_of(
    {"tokens": ["Ada", "<b>", "said"], "ner_tags": ["B-PER", "I-PER", "O"]},
    LabelError(
        "train",
        0,
        "a/b.conll:3",
        "other boundaries",
        "PER Ada <b>",
        "PER Ada",
        0.25,
        (),
        ((0, 2, "PER"),),
        ((0, 1, "PER"),),
    ),
)


def test_sentences_and_tables() -> None:
    said = " ".join(TAGGED.summary)
    assert "1 entities probably have a wrong label; about 12.5% of 9 labels" in said
    assert "length: some are long -> take longer rows" in said and "leaks" not in said and "balance" not in said
    titles = [table.title for table in TAGGED.tables]
    assert titles[:4] == ["Splits", "Tokens of an example", "Copies", "Label errors"] and "Suspicious" in titles[-1]
    row = lengths_table(CHECK.lengths).rows[0]
    assert row[-4:] == (20, 10, 1, 10 / 32) and row[3] == 8
    assert Lengths(np.asarray([30]), 10, True).unread == 0.0
    assert short_place("x/y.csv:7") == "y.csv:7" == short_place("y.csv:7")


def test_entities_are_shown_side_by_side() -> None:
    given, suggested = suspect_example(TAGGED.records["train"][0], TAGGED.suspects[0]).views
    assert given.text == suggested.text == "Ada <b> said"
    assert [(mark.start, mark.end, mark.label, mark.status) for mark in given.marks] == [(0, 7, "PER", "wrong")]
    assert [(mark.start, mark.end) for mark in suggested.marks] == [(0, 3)]
    error = LabelError("train", 0, "f:1", "other class", "a", "b", 0.5, ("b",))
    record = LabelledRecord({"text": "who", "pair": "him", "label": "a"}, "f:1", np.zeros(1, np.int64))
    example = suspect_example(record, error)
    assert [view.text for view in example.views] == ["who", "him"] and ("suggested", "b") in example.facts


def test_files(tmp_path: pathlib.Path) -> None:
    write_audit(tmp_path, TAGGED)
    written = json.loads((tmp_path / "audit.json").read_text())
    (error,) = written["label_errors"]["train"]["errors"]
    assert error["origin"] == "a/b.conll:3" and error["spans"] == [[0, 1, "PER"]] and error["text"] == "Ada <b> said"
    assert written["lengths"]["train"]["quantiles"]["0.5"] == 8 and written["check"]["errors"] == 1
    assert "removed" not in written and written["method"] == "both"
    page = (tmp_path / "audit.html").read_text()
    assert "&lt;b&gt;" in page and "<b> said" not in page
    text = (tmp_path / "audit.md").read_text()
    assert text.startswith("# Audit of conll:a") and "b.conll:3" in text and "Given and true" not in text
