"""What functions return, at a prompt, on a terminal and in a notebook."""

import io
import pathlib

from rich.console import Console

from jaxfm.core.evaluation import Evaluation
from jaxfm.observe.shown import Report
from jaxfm.observe.tables import Table

INTERVALS = {"metrics": {"f1": [0.9, 0.92]}, "confidence": 0.95, "count": 40, "unit": "sentences"}
REPORT = {
    "task": "ner",
    "result": {"split": "valid", "metric": "f1", "value": 0.91},
    "training": {"steps": 1200, "seconds": 75.0, "chosen_step": 900},
    "splits": {
        "valid": {"f1": 0.91, "loss": 0.2, "intervals": INTERVALS, "per_type": {"<b>": 1.0}},
    },
}


def text(thing: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(thing)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_report_is_its_dict_and_shows_its_scores() -> None:
    report = Report(REPORT, pathlib.Path("runs/a<b"))
    assert report == REPORT and dict(report) == REPORT and report["splits"]["valid"]["f1"] == 0.91
    shown = repr(report)
    first, second = shown.splitlines()[:2]
    assert first == "valid f1 0.9100 (95% interval 0.9000 to 0.9200 over 40 sentences)"
    assert second == "ner: 1,200 updates in 1m 15s; chosen is the checkpoint of step 900"
    assert "f1      0.9100  0.9000 to 0.9200" in shown and "per_type" not in shown
    assert "0.9000 to 0.9200" in text(report)
    html = report._repr_html_()
    assert "0.9000 to 0.9200</td>" in html and "runs/a&lt;b" in html and "a<b" not in html


def test_an_evaluation_shows_metrics_at_a_prompt_and_its_tables_elsewhere() -> None:
    table = Table("Entities <1>", ("type", "f1"), (("[PER]", 0.5), ("<i>", 1.0)))
    evaluation = Evaluation({"f1": 0.5, "loss": 1.25}, {}, (table,), [])
    assert repr(evaluation) == "Evaluation(f1=0.5000, loss=1.2500)"
    assert "[PER]" in text(evaluation) and "Entities <1>" in text(evaluation)
    html = evaluation._repr_html_()
    assert html == table._repr_html_()
    assert "Entities &lt;1&gt;" in html and "&lt;i&gt;" in html and '<td style="text-align: right">0.5000</td>' in html


def test_a_metric_without_interval_is_shown_where_it_chose() -> None:
    splits = {"valid": {**REPORT["splits"]["valid"], "cost": 3.0, "other": 1.0}}
    result = {"split": "valid", "metric": "cost", "value": 3.0}
    shown = repr(Report({**REPORT, "splits": splits, "result": result}, pathlib.Path("runs/a")))
    assert shown.startswith("valid cost 3.0000\n") and "\ncost    3.0000\n" in shown and "other" not in shown
