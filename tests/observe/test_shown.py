"""What functions return, at a prompt, on a terminal and in a notebook."""

import io
import pathlib

import numpy as np
from rich.console import Console

from jaxfm.core.evaluation import Evaluation
from jaxfm.observe.shown import Report, scores_by_metric
from jaxfm.observe.tables import Table

REPORT = {
    "task": "ner",
    "training": {"steps": 1200, "seconds": 75.0, "chosen_step": 900},
    "splits": {
        "valid": {"f1": 0.91, "loss": 0.2, "intervals": {"metrics": {"f1": [0.9, 0.92], "loss": None}}, "flag": True},
        "test": {"f1": 0.9, "support": 12, "per_type": {"<b>": 1.0}},
    },
}


def text(thing: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_is_its_dict_and_shows_its_scores() -> None:
    report = Report(REPORT, pathlib.Path("runs/a<b"))
    assert report == REPORT and dict(report) == REPORT and report["splits"]["test"]["f1"] == 0.9
    shown = repr(report)
    assert shown.startswith("ner: 1,200 updates in 1m 15s; chosen is the checkpoint of step 900\n")
    assert "0.9000 to 0.9200" in shown and "per_type" not in shown and "flag" not in shown
    assert "0.9000 to 0.9200" in text(report)
    html = report._repr_html_()
    assert "0.9000 to 0.9200" in html and "runs/a&lt;b" in html and "a<b" not in html


def test_scores_have_a_column_for_each_split_and_only_intervals_that_there_are() -> None:
    table = scores_by_metric(REPORT["splits"])
    assert list(table.columns) == ["metric", "valid", "valid, 95 % interval", "test"]
    assert list(table.rows) == [
        ("f1", 0.91, "0.9000 to 0.9200", 0.9),
        ("loss", 0.2, None, None),
        ("support", None, None, 12),
    ]


def test_an_evaluation_shows_metrics_at_a_prompt_and_its_tables_elsewhere() -> None:
    table = Table("Entities <1>", ("type", "f1"), (("[PER]", 0.5), ("<i>", 1.0)))
    evaluation = Evaluation({"f1": 0.5, "loss": 1.25}, {}, (table,), [])
    assert repr(evaluation) == "Evaluation(f1=0.5000, loss=1.2500)"
    assert "[PER]" in text(evaluation) and "Entities <1>" in text(evaluation)
    html = evaluation._repr_html_()
    assert html == table._repr_html_()
    assert "Entities &lt;1&gt;" in html and "&lt;i&gt;" in html and '<td style="text-align: right">0.5000</td>' in html


def test_numpy_numbers_are_shown_too() -> None:
    assert list(scores_by_metric({"test": {"f1": float(np.float64(0.25))}}).rows) == [("f1", 0.25)]
