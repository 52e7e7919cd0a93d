"""A table over runs: the best first, every run in it whatever its state, and files that other programs read."""

import csv
import json
import os
import pathlib
import socket
from typing import Any

import pytest
from absl import flags
from absl.testing import flagsaver

from jaxfm.errors import UserError
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.writers import METRICS_FILE
from jaxfm.programs import runs as program
from jaxfm.programs.runs import runs, to_table
from jaxfm.training import workdir as workdirs
from tests import tiny

INTERVALS = {"confidence": 0.95, "unit": "sentences", "count": 18, "resamples": 1000}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of runs: three finished ones, one under way, one stopped, two damaged ones, and something else."""
    base = tmp_path_factory.mktemp("runs")
    config, folder = tiny.config(base / "data", eval__metric="f1"), base / "runs"

    def begin(name: str, **keys: Any) -> pathlib.Path:
        workdirs.write_config(folder / name, tiny.replaced(config, **keys))
        return folder / name

    for name, f1, loss, rate in (("a", 0.5, 0.3, 1e-3), ("b", 0.75, 0.4, 1e-4), ("c", 0.25, 0.2, 1e-5)):
        workdir = begin(name, optim__learning_rate=rate, log__every_steps=9)
        scores = {"f1": f1, "loss": loss, "intervals": INTERVALS | {"metrics": {"f1": [f1 - 0.1, f1 + 0.1]}}}
        splits = {"valid": {"f1": 1 - f1, "loss": loss}} | ({"test": scores} if name != "c" else {})
        training = {"steps": 8, "seconds": 75.0}
        report = {"splits": splits, "training": training, "directions": {"f1": True, "loss": False}}
        (workdir / JSON_FILE).write_text(json.dumps(report))
    workdir = begin("under_way")
    (workdir / METRICS_FILE).write_text('{"step": 2, "split": "train"}\n{"step": 6, "split": "train"}\n')
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": "now"}
    (workdir / workdirs.LOCK_FILE).write_text(json.dumps(holder))
    begin("stopped", seed=3)
    (begin("cut") / JSON_FILE).write_text('{"splits": ')
    (begin("empty") / JSON_FILE).write_text('{"splits": []}')
    (folder / "notes").mkdir()
    return folder


def of(records: list[dict[str, Any]], column: str) -> dict[str, Any]:
    return {pathlib.Path(record["run"]).name: record[column] for record in records}


def test_the_best_run_is_first_and_every_run_is_there(made: pathlib.Path) -> None:
    records = runs(sorted(made.iterdir()))
    assert list(of(records, "score")) == ["b", "a", "c", "cut", "empty", "notes", "stopped", "under_way"]
    states = of(records, "state")
    assert [states[name] for name in ("a", "stopped", "under_way", "cut", "empty", "notes")] == [
        *("finished", "stopped", "under way", "damaged", "damaged", "no run")
    ]
    assert of(records, "score")["b"] == 0.75 and of(records, "split")["c"] == "valid"  # it has no test
    assert (records[0]["low"], records[0]["high"]) == (0.65, 0.85)
    assert of(records, "steps")["under_way"] == 6 and of(records, "steps")["a"] == 8
    assert f"process {os.getpid()}" in of(records, "why")["under_way"]
    assert "report.json" in of(records, "why")["cut"] and "splits" in of(records, "why")["empty"]
    # Keys in which the runs differ have a column; those that say nothing of a result have none.
    assert of(records, "optim.learning_rate")["b"] == 1e-4 and of(records, "seed")["stopped"] == 3
    assert not {"log.every_steps", "train.steps"} & set(records[0])


def test_another_metric_and_split(made: pathlib.Path) -> None:
    named = [made / name for name in "abc"]
    assert list(of(runs(named, "loss", "test"), "score").values()) == [0.3, 0.4, None]  # less is better
    assert of(runs(named, "loss", "test"), "why")["c"] == "has no loss on test"
    assert list(of(runs(named, split="dev"), "score")) == ["c", "a", "b"]
    with pytest.raises(UserError, match=r"--metric=f2: no run has it\. .*f1"):
        runs(named, "f2")
    with pytest.raises(UserError, match="--split=train: no run was scored on it"):
        runs(named, split="train")
    with pytest.raises(UserError, match="unknown split 'tset'"):
        runs(named, split="tset")


def test_a_folder_of_runs_stands_for_them(made: pathlib.Path) -> None:
    assert len(runs([made, made / "a"])) == 7  # each once; what is no run in it is not named
    with pytest.raises(UserError, match="no run directory is given"):
        runs([])
    with pytest.raises(UserError, match="nothing: is not there"):
        runs([made / "nothing"])


def test_what_all_runs_share_is_said_once(made: pathlib.Path) -> None:
    table, shared = to_table(runs([made / "a", made / "b"]), whole=False)
    assert "state finished" in shared and "task ner" in shared and "state" not in table.columns
    assert [row[table.columns.index("score")] for row in table.rows] == [0.75, 0.5]
    whole, _ = to_table(runs([made / "a", made / "b"]), whole=True)
    assert {"state", "task", "data", "model"} <= set(whole.columns)


def call(made: pathlib.Path, *arguments: str, **values: str) -> None:
    own = [name for name in ("metric", "split", "output") if name not in flags.FLAGS]
    for name in own:
        flags.DEFINE_string(name, None, "of the test")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    try:
        with flagsaver.flagsaver(**({"metric": None, "split": None, "output": None} | values)):
            program.main(list(arguments))
    finally:  # other tests define flags of these names
        for name in own:
            delattr(flags.FLAGS, name)


@pytest.mark.parametrize("ending", [".csv", ".json", ".md"])
def test_the_table_as_a_file(
    made: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    output = tmp_path / f"table{ending}"
    call(made, str(made), str(made / "notes"), output=str(output))
    said = capsys.readouterr().out
    assert f"WARNING: {made / 'notes'}: no run" in said and f"WARNING: {made / 'cut'}: damaged" in said
    assert said.endswith(f"written: {output}\n") and "\x1b" not in said
    text = output.read_text()
    if ending == ".json":
        assert json.loads(text)[0]["score"] == 0.75
    elif ending == ".csv":
        first = next(iter(csv.DictReader(text.splitlines())))
        assert float(first["score"]) == 0.75 and first["seconds"] == "75.0"
    else:
        assert text.splitlines()[0].startswith("| run") and len(text.splitlines()) == 2 + 8


def test_another_ending_is_refused(made: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"--output=.*table\.xlsx: ends in '\.xlsx'"):
        call(made, str(made), output=str(tmp_path / "table.xlsx"))
    assert not list(tmp_path.iterdir())


def test_a_picture_of_runs(
    made: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[tuple[Any, dict[str, str]]] = []
    real = program.plot_runs
    monkeypatch.setattr(
        program, "plot_runs", lambda runs, path, **more: (drawn.append((runs, more)), real(runs, path, **more))
    )
    lines = [{"step": step, "split": "valid", "f1": step / 10} for step in (2, 1)]
    (made / "b" / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    call(made, str(made), output=str(tmp_path / "runs.png"))
    (shown, more), said = drawn[0], capsys.readouterr().out
    assert [(run.name, run.score, run.interval) for run in shown] == [("b", 0.75, (0.65, 0.85)), ("a", 0.5, (0.4, 0.6))]
    assert [run.curve for run in shown] == [[(1, 0.1), (2, 0.2)], []]
    assert more == {"metric": "f1", "split": "test"} and "1 runs have another metric or split" in said
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no run has a score to draw"):
        call(made, str(made / "stopped"), output=str(tmp_path / "none.png"))
    assert not (tmp_path / "none.png").exists()
