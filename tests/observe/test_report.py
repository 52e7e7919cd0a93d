"""The report says what was measured, in both forms, whole or not at all."""

import json
import math
import shlex

import numpy as np
import pytest

from jaxfm.observe.report import goodput_table, how_to_use, write_report
from jaxfm.observe.tables import Table

REPORT = {
    "task": "ner",
    "splits": {
        "valid": {"f1": 0.5, "precision": 0.25, "recall": math.nan, "per_type": {"PER": {"f1": 0.5, "support": 3}}},
        "test": {"f1": 0.4321, "precision": np.float32(0.5), "recall": 0.375, "support": 1079, "per_type": {}},
    },
    "training": {
        "steps": 636,
        "seconds": 100.0,
        "tokens_per_second": 2096.8,
        "useful_tokens_per_second": 2040.4,
        "mfu": 0.4136,
        "useful_token_share": 0.9731,
        "precision": "float32",
        "goodput": {"compile": 10.0, "train": 80.0, "evaluate": 6.0, "checkpoint": 1.0, "wait for data": 0.5},
    },
    "model": {
        "parameters": 22_713_216,
        "trainable_parameters": 113_566,
        "optimizer_bytes": 3 * 2**19,
        "init": "package:x/model",
    },
    "device": "4 x cpu",
    "versions": {"jaxfm": "0.1.0", "jax": "0.10.2"},
}
TABLES = {"test": [Table("By type", ("type", "f1"), (("PER", 0.5), ("A|B", 0.25)))]}


def test_both_forms(tmp_path):
    run = tmp_path / "my runs" / "ner"
    curves = run / "plots" / "curves.png"
    curves.parent.mkdir(parents=True)
    curves.write_bytes(b"a picture")
    commands = how_to_use(run, ["valid", "test"])
    write_report(run, REPORT, TABLES, [curves], metric="f1", commands=commands)
    report = json.loads((run / "report.json").read_text())
    assert report["splits"]["test"]["f1"] == 0.4321
    assert report["splits"]["valid"]["recall"] == "nan"
    assert report["splits"]["valid"]["per_type"]["PER"]["support"] == 3
    assert report["training"]["goodput"]["train"] == 80.0
    text = (run / "report.md").read_text()
    assert text.startswith("# ner: ner\n")
    for part in (
        "22,713,216 parameters, 113,566 of them (0.50%) trainable (optimizer state: 1.50 MiB), started from",
        "On test: f1 0.4321, precision 0.5000, recall 0.3750.",
        "recall nan",
        "| valid | 0.5000 |    0.2500 |    nan |         |",
        "| test  | 0.4321 |    0.5000 | 0.3750 |   1,079 |",
        r"| A\|B | 0.2500 |",
        "![curves](<plots/curves.png>)",
        "at 2,040 useful tokens a second, 41.4% of what the devices can do (MFU) (97.3% of",
        "100.0 (1m 40s)",
        "97.3%",
        f"python -m jaxfm.evaluate --workdir='{run}' --split=test",
        "python -m jaxfm.export --workdir=",
        "jaxfm 0.1.0, jax 0.10.2.",
    ):
        assert part in text, part
    assert text.splitlines()[2] == "**test f1 0.4321**"
    assert sorted(path.name for path in run.iterdir()) == ["plots", "report.html", "report.json", "report.md"]


def test_only_what_can_be_done_is_recommended():
    def words(*arguments, **more):
        return " ".join(command for _, command in how_to_use(*arguments, **more))

    assert "--split=test" in words("run", ["valid", "test"]) and "--split=valid" in words("run", ["valid"])
    assert "evaluate" not in words("run", [])
    assert "export" in words("run", []) and "export" not in words("run", ["test"], export=False)
    assert '"TEXT"' in words("run", []) and "--input=FILE" in words("run", [])
    assert words("run", [], record="IMAGE", several="--input=FOLDER").count("TEXT") == 0
    for _, command in how_to_use("it's here/$HOME", ["test"]):
        assert "--workdir=it's here/$HOME" in shlex.split(command)


def test_the_time_adds_up():
    table = goodput_table(REPORT["training"])
    spent = {row[0]: row[1:] for row in table.rows}
    assert spent["other"] == (pytest.approx(2.5), pytest.approx(0.025))
    assert spent["wall time"] == (100.0, 1.0)
    assert sum(row[2] for row in table.rows[: -table.footer]) == pytest.approx(1.0)


def test_what_json_cannot_hold_leaves_the_old_report(tmp_path):
    write_report(tmp_path, REPORT, TABLES, [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="not a number"):
        write_report(tmp_path, REPORT | {"extra": object()}, TABLES, [])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
