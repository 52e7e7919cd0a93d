"""The report of drift: its tables with and without what may be missing, and the history."""

import json
import pathlib
from typing import Any

import numpy as np

from jaxfm.evaluation.bootstrap import Interval
from jaxfm.evaluation.drift_rules import LOOK, NOTHING, SHIFT, Rule, Thresholds, measures
from jaxfm.evaluation.drift_samples import Word
from jaxfm.evaluation.error_estimate import ATC, ErrorEstimate
from jaxfm.evaluation.label_shift import ClassShares
from jaxfm.evaluation.two_samples import PermutationTest
from jaxfm.observe.tables import to_plain
from jaxfm.programs.drift_report import DriftReport, Scores, Unlike, read_history, write_drift

SOME = Interval(0.9, 0.8, 0.95)


def report(**changed: Any) -> DriftReport:
    tests = [("words", "Jensen-Shannon distance", PermutationTest(0.5, np.linspace(0, 0.1, 999)))]
    values: dict[str, Any] = {
        "workdir": "runs/a",
        "step": 3,
        "reference": ("train of x", 100),
        "held_out": None,
        "new": ("test of y", 50),
        "measures": measures(tests, Thresholds()),
        "words": (),
        "unlike": (),
        "estimate": None,
        "unit": "",
        "classes": (),
        "shares": None,
        "scores": None,
        "thresholds": Thresholds(),
        "verdict": NOTHING,
        "rules": (),
        "confidences": None,
        "seed": 0,
        "rounds": 999,
    }
    return DriftReport(**{**values, **changed})


def full() -> DriftReport:
    shares = ClassShares(np.asarray([0.5, 0.5]), np.asarray([0.9, 0.1]), np.asarray([0.5, 0.5]), (SOME, SOME))
    return report(
        held_out=("valid of x", 40),
        words=(Word("<b>", 1.0, 0.0, 0.5),),
        unlike=(Unlike("<script>", "y:1", 0.3),),
        estimate=ErrorEstimate(SOME, {ATC: SOME}, {ATC: Interval(0.0, -0.1, 0.1)}),
        unit="texts",
        classes=("a", "b"),
        shares=shares,
        scores=Scores("f1", SOME, SOME, Interval(0.2, 0.1, 0.3)),
        verdict=LOOK,
        rules=(Rule(SHIFT, LOOK, "words: because"),),
        confidences=(np.ones(3), np.ones(2)),
        notes=("NOTE: one",),
    )


def test_what_is_missing_is_left_out() -> None:
    found = report()
    assert [table.title for table in found.tables] == ["50 of test of y: texts beside 100 of train of x"]
    assert found.lines() == ["verdict: nothing: no difference of consequence is shown"]
    assert found.to_dict()["held_out"] is None and "accuracy" not in found.to_dict()
    assert [len(table.rows) for table in full().tables] == [1, 4, 2, 1, 1]
    assert full().lines() == ["verdict: LOOK", "  shift: words: because"]
    shares = ClassShares(np.ones(1), np.ones(1), np.ones(1), problem="none")
    text = to_plain(report(classes=("a",), shares=shares).tables[1])
    assert "not corrected: none" in text and "100.0%" in text


def test_files_and_history(tmp_path: pathlib.Path) -> None:
    write_drift(tmp_path, full())
    (tmp_path / "history.jsonl").write_text((tmp_path / "history.jsonl").read_text() + "damaged\n[]\n")
    write_drift(tmp_path, report())
    assert [line["verdict"] for line in read_history(tmp_path)] == [LOOK, NOTHING]
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["score"] == 0.9 and len(lines) == 2
    write_drift(tmp_path, full())
    page = (tmp_path / "drift.html").read_text()
    assert "&lt;script&gt;" in page and "&lt;b&gt;" in page and "<b>" not in page
    assert "verdict: LOOK" in page and "So far: beyond chance" in page
    values = json.loads((tmp_path / "drift.json").read_text())
    assert values["classes"]["shares"]["a"]["estimated"]["value"] == 0.9 and values["scores"]["drop"]["low"] == 0.1
    assert values["notes"] == ["NOTE: one"] and values["rules"][0]["name"] == SHIFT
    assert "| <b> |" not in (tmp_path / "drift.md").read_text()
