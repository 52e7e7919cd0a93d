"""The one number of a run, and what is on the screen beside it."""

import io
import math
import pathlib
from typing import Any

from rich.console import Console

from jaxfm.observe.progress import Progress
from jaxfm.observe.summary import Result, headline, result_of, show_summary, summary_table

INTERVALS = {"confidence": 0.95, "unit": "sentences", "count": 1000, "resamples": 1000}
SPLITS: dict[str, Any] = {
    "valid": {"f1": 0.5, "loss": 0.7, "per_type": {}, "intervals": INTERVALS | {"metrics": {"f1": [0.4, 0.6]}}},
    "test": {"f1": 0.25, "loss": 0.9, "intervals": INTERVALS | {"metrics": {"f1": [0.2, 0.3], "loss": [0.8, 1.0]}}},
}
TRAINING = {
    "steps": 12_000,
    "chosen_step": 6_000,
    "seconds": 75.0,
    "unit": "tokens",
    "useful_tokens_per_second": 1234.5,
    "peak_process_mib": 999.0,
    "goodput": {"train": 60.0, "compile": 6.0, "evaluate": 3.0, "checkpoint": 4.0, "start": 1.7, "wait for data": 0.3},
}

PREDICT = 'jaxfm predict --workdir=runs/ner "TEXT"'


def test_test_counts_where_there_is_one_by_the_metric_that_chose() -> None:
    assert result_of(SPLITS, "f1") == Result("test", "f1", 0.25, (0.2, 0.3), 1000, "sentences", 0.95)
    only_valid = result_of({"valid": SPLITS["valid"]}, "f1")
    assert only_valid is not None and (only_valid.split, only_valid.value) == ("valid", 0.5)
    assert str(result_of(SPLITS, "f1")) == "test f1 0.2500 (95% interval 0.2000 to 0.3000 over 1,000 sentences)"


def test_the_loss_stands_in_for_a_metric_that_is_not_defined() -> None:
    for undefined in ({"loss": 0.9}, {"pearson": "nan", "loss": 0.9}, {"pearson": math.nan, "loss": 0.9}):
        found = result_of({"test": undefined}, "pearson")
        assert found == Result("test", "loss", 0.9)
        assert str(found) == "test loss 0.9000"
    assert result_of({"test": {"loss": "nan"}}, "pearson") is None
    assert result_of({}, "f1") is None


def test_an_interval_without_ends_is_none() -> None:
    scores = {"f1": 1.0, "intervals": INTERVALS | {"metrics": {"f1": ["nan", "nan"]}}}
    assert result_of({"test": scores}, "f1") == Result("test", "f1", 1.0)


def test_the_table_has_the_metric_that_chose_first() -> None:
    table = summary_table(SPLITS, "loss")
    assert list(table.columns) == ["metric", "valid", "95% interval", "test", "95% interval"]
    assert [row[0] for row in table.rows] == ["loss", "f1"]
    assert table.rows[1] == ("f1", 0.5, "0.4000 to 0.6000", 0.25, "0.2000 to 0.3000")
    alone = {"valid": {"f1": 0.5, "loss": 0.7}, "test": SPLITS["test"]}
    assert list(summary_table(alone, "f1").columns) == ["metric", "valid", "test", "95% interval"]
    many = {"test": {f"metric_{index}": 0.5 for index in range(30)} | {"f1": 0.5}}
    assert len(summary_table(many, "f1").rows) == 8
    assert len(summary_table(many, "f1", most=None).rows) == 31


def test_a_screen_holds_the_summary_and_begins_with_the_number() -> None:
    report = {"splits": SPLITS, "training": TRAINING}
    for width in (80, 120):
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, _environ={})
        show_summary(Progress(None, console=console), report, pathlib.Path("runs/ner"), "f1", PREDICT)
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().split("\n")
        assert lines[1] == "test f1 0.2500 (95% interval 0.2000 to 0.3000 over 1,000 sentences)"
        assert len(lines) <= 21 and max(map(len, lines)) <= width
        assert any("runs/ner/report.html" in line for line in lines)
        assert "goodput  80% of the time (else: compile 8%, checkpoint 5%, evaluate 4%)" in lines
        assert lines[-2].endswith('jaxfm predict --workdir=runs/ner "TEXT"')


def test_a_run_without_anything_held_out_says_so() -> None:
    console = Console(file=io.StringIO(), _environ={})
    report = {"splits": {}, "training": TRAINING}
    show_summary(Progress(None, console=console), report, pathlib.Path("runs/ner"), "f1", PREDICT)
    assert isinstance(console.file, io.StringIO)
    assert headline(report, "f1") in console.file.getvalue() and "no split was held out" in headline(report, "f1")
