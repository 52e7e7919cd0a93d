"""The search as a program: real trials that stop and go on, its files, and what it refuses."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.programs import search as program
from jaxfm.programs.repeat import train_with_changes
from jaxfm.programs.search import search
from jaxfm.programs.train import train
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.tuning.pruning import Pruner
from jaxfm.tuning.report import config_file
from jaxfm.tuning.space import with_params
from jaxfm.tuning.trials import Trial
from jaxfm.tuning.worker import Search
from tests import tiny

SPACE = {
    "optim.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True},
    "optim.no_decay": {"choices": [["*bias"], ["*bias", "*scale"]]},
    "train.batch_size": {"choices": [4, 8]},
}
needs_optuna = pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="needs optuna")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(
        tmp_path_factory.mktemp("search"),
        train__steps=4,
        eval__every_steps=1,
        eval__metric="loss",
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def halved(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
    """A search by successive halving, and what it gave."""
    pytest.importorskip("optuna")
    folder = tmp_path_factory.mktemp("searched") / "runs"
    yield folder, search(config, SPACE, folder, trials=3, pruner="halving", rungs=[0.25, 0.5])


def validations(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "valid"]


def hashes(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    """Of every array of a checkpoint: weights, moments, key."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    found = checkpoints.meta(step)["hashes"]
    checkpoints.close()
    return found


@needs_optuna
def test_a_promoted_trial_equals_the_best_config_in_one_go(
    halved: tuple[pathlib.Path, dict[str, Any]], tmp_path: pathlib.Path
) -> None:
    folder, found = halved
    states = [each["state"] for each in found["trials"]]
    assert sorted(states) == ["finished", "waiting", "waiting"]
    best = found["trials"][found["best"]]
    workdir = folder / best["workdir"]
    assert len(best["rung_scores"]) == 2 and best["steps"] == best["total_steps"] == 4
    assert (folder / "trials" / f"{best['number']:04}.log").read_text().count("resuming after step") == 2
    report = train(folder / "best.py", tmp_path / "again")
    assert hashes(workdir, 4) == hashes(tmp_path / "again", 4)
    assert validations(workdir) == validations(tmp_path / "again")
    before = json.loads((workdir / "report.json").read_text())
    assert before["splits"] == json.loads((tmp_path / "again" / "report.json").read_text())["splits"]
    assert best["values"] == [report["splits"]["valid"]["loss"]]


@needs_optuna
def test_trials_that_were_not_promoted_keep_their_checkpoint(halved: tuple[pathlib.Path, dict[str, Any]]) -> None:
    folder, found = halved
    for trial in found["trials"]:
        if trial["state"] != "finished":
            assert (folder / trial["workdir"] / "checkpoints" / "1").is_dir() and trial["steps"] == 1
            assert trial["total_steps"] == 4 and not (folder / trial["workdir"] / "report.json").exists()


@needs_optuna
def test_what_a_search_leaves(config: Config, halved: tuple[pathlib.Path, dict[str, Any]]) -> None:
    folder, found = halved
    assert json.loads((folder / "search.json").read_text()) == found
    assert {path.name for path in (folder / "plots").iterdir()} == {"scores.png", "slices.png", "parallel.png"}
    text = (folder / "search.md").read_text()
    assert f"trial {found['best']}, valid loss" in text and "stands at a rung" in text
    # The same command again trains nothing.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")}
    assert search(config, SPACE, folder, trials=3, pruner="halving", rungs=[0.25, 0.5]) == found
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.jsonl")} == before


@needs_optuna
def test_a_folder_of_another_search_is_refused(
    config: Config, halved: tuple[pathlib.Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = halved
    monkeypatch.setattr(program, "train", lambda *_, **__: pytest.fail("something was trained"))
    same: dict[str, Any] = {"trials": 3, "pruner": "halving", "rungs": [0.25, 0.5]}
    with pytest.raises(UserError, match=r"holds another search \(config.train.steps: 4 -> 5\)"):
        search(tiny.replaced(config, train__steps=5), SPACE, folder, **same)
    wider = SPACE | {"train.batch_size": {"choices": [4, 8, 16]}}
    with pytest.raises(UserError, match=r"holds another search \(space.train.batch_size.choices"):
        search(config, wider, folder, **same)
    with pytest.raises(UserError, match="holds another search .*sampler: 'tpe' -> 'random'"):
        search(config, SPACE, folder, **same, sampler="random")
    with pytest.raises(UserError, match="holds a run itself"):
        search(config, SPACE, folder / found["trials"][0]["workdir"])


@needs_optuna
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "--trials=0: must be at least 1"),
        ({"sampler": "tpes"}, "--sampler=tpes: Did you mean 'tpe'"),
        ({"pruner": "halve"}, "--pruner=halve: Did you mean 'halving'"),
        ({"pruner": "halving", "rungs": [2.0]}, "--rungs=2: must be ascending shares"),
        ({"objectives": ["macro_f2"]}, "there is no metric 'macro_f2'. Did you mean 'macro_f1'"),
        ({"objectives": ["f1", "f1"]}, "--objectives=f1,f1: names one twice"),
        ({"objectives": ["f1", "seconds"], "pruner": "median"}, "--pruner=median: stops trials by one score"),
        ({"objectives": ["f1", "seconds"], "sampler": "cmaes"}, "--sampler=cmaes: has one objective"),
        ({"sampler": "grid"}, "--sampler=grid: optim.learning_rate is a range without"),
        ({"storage": "postgresql://localhost:1/none"}, "--storage=postgresql://localhost:1/none: cannot be used"),
        ({"storage": "odd"}, "--storage=odd: cannot be used"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    config: Config, tmp_path: pathlib.Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        search(config, SPACE, tmp_path / "runs", **options)
    assert not (tmp_path / "runs" / "settings.json").exists()


@needs_optuna
def test_configs_that_cannot_be_searched(config: Config, tmp_path: pathlib.Path) -> None:
    for changed, message in (
        ({"eval__metric": "macro_f2"}, "config.eval.metric: 'macro_f2'. Did you mean 'macro_f1'"),
        ({"train__seeds": 2}, "a trial of a search is one run"),
        ({"checkpoint__mirror": "gs://x/y"}, "config.checkpoint.mirror: is the place of one run"),
    ):
        with pytest.raises(UserError, match=message):
            search(tiny.replaced(config, **changed), SPACE, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_without_optuna_the_extra_is_named(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        UserError, match=r"jaxfm.search needs the package optuna: pip install 'jaxfm-encoders\[search\]'"
    ):
        search(config, SPACE, tmp_path / "runs")


def test_the_best_config_is_a_file_with_what_differs(config: Config, tmp_path: pathlib.Path) -> None:
    made = Search(tmp_path, config, (), "tpe", 0, Pruner("none"), ("loss",), (False,), 1)
    text = config_file(made, Trial(0, "finished", values=(0.5,)))
    assert "config.train.steps = 4" in text and "loss 0.5000 on valid" in text and "max_positions" not in text
    from jaxfm.programs.given_config import resolve_config

    (tmp_path / "best.py").write_text(text)
    assert resolve_config(tmp_path / "best.py") == config


@pytest.mark.slow
def test_kill_9_five_times_has_the_same_trials(config: Config, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("optuna")
    made = Search(tmp_path, config, (), "tpe", 0, Pruner("none"), ("loss",), (False,), 1)
    (tmp_path / "config.py").write_text(config_file(made, Trial(0, "finished", values=(0.5,))))
    (tmp_path / "space.json").write_text(json.dumps(SPACE))

    def command(folder: pathlib.Path) -> list[str]:
        words = [f"--config={tmp_path / 'config.py'}", f"--space={tmp_path / 'space.json'}", f"--workdir={folder}"]
        return [sys.executable, "-m", "jaxfm.search", *words, "--trials=3", "--pruner=halving", "--rungs=0.5"]

    killed = tmp_path / "killed"
    for number, (path, how) in enumerate(
        [
            ("settings.json", signal.SIGKILL),
            ("trials/0000/checkpoints/1", signal.SIGKILL),
            ("trials/0001/metrics.jsonl", signal.SIGTERM),
            ("trials/0002/checkpoints/2", signal.SIGKILL),
            ("search.json", signal.SIGKILL),
        ]
    ):
        with open(tmp_path / f"output{number}", "w") as output:
            process = subprocess.Popen(command(killed), stdout=output, stderr=subprocess.STDOUT)
            deadline = time.monotonic() + 120
            while not (killed / path).exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            if process.poll() is None:
                os.kill(process.pid, how)
            assert process.wait(60) in (0, 75, -how)
    for folder in (killed, tmp_path / "whole"):
        subprocess.run(command(folder), check=True)
    found = [json.loads((folder / "search.json").read_text()) for folder in (killed, tmp_path / "whole")]
    for each in found:
        for trial in each["trials"]:
            del trial["seconds"]
    assert found[0] == found[1]
    best = found[0]["trials"][found[0]["best"]]["workdir"]
    assert hashes(killed / best, 4) == hashes(tmp_path / "whole" / best, 4)
    np.testing.assert_equal(validations(killed / best), validations(tmp_path / "whole" / best))


@pytest.mark.slow
def test_a_killed_workers_trial_is_taken_over_by_another(config: Config, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("optuna")
    made = Search(tmp_path, config, (), "random", 0, Pruner("none"), ("loss",), (False,), 1)
    (tmp_path / "config.py").write_text(config_file(made, Trial(0, "finished", values=(0.5,))))
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    folder = tmp_path / "runs"
    words = [f"--config={tmp_path / 'config.py'}", f"--space={tmp_path / 'space.json'}", f"--workdir={folder}"]
    command = [sys.executable, "-m", "jaxfm.search", *words, "--trials=4", "--sampler=random"]
    outputs = [tmp_path / f"worker{number}" for number in range(2)]
    workers = []
    for path in outputs:  # at the same moment: both make settings and storage
        with open(path, "w") as file:
            workers.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
    deadline = time.monotonic() + 180
    victim, number = None, 0
    while victim is None and time.monotonic() < deadline:
        for lock in folder.glob("trials/*.lock"):
            holder = files.holder_of(lock) or {}
            is_under_way = (lock.with_suffix("") / "checkpoints" / "1").is_dir()
            found = [each for each in workers if each.pid == holder.get("pid")]
            if found and is_under_way:
                victim, number = found[0], int(lock.stem)
        time.sleep(0.02)
    assert victim is not None
    victim.kill()
    victim.wait()
    other = next(each for each in workers if each is not victim)
    assert other.wait(300) == 0, [path.read_text()[-2000:] for path in outputs]
    found = json.loads((folder / "search.json").read_text())
    assert [each["state"] for each in found["trials"]] == ["finished"] * 4
    said = "".join(path.read_text() for path in outputs).splitlines()
    begun = [line for line in said if line.startswith("trial ") and " of 4: " in line]
    assert len(begun) == 5 and sum(line.startswith(f"trial {number} of 4") for line in begun) == 2
    assert "resuming after step" in (folder / "trials" / f"{number:04}.log").read_text()
    whole = search(config, SPACE, tmp_path / "alone", trials=4, sampler="random")
    assert [each["values"] for each in found["trials"]] == [each["values"] for each in whole["trials"]]


@needs_optuna
def test_the_winner_of_a_population_equals_its_values_in_one_go(config: Config, tmp_path: pathlib.Path) -> None:
    space = {"optim.learning_rate": {"low": 1e-3, "high": 3e-2, "log": True}, "model.dropout": {"choices": [0.0, 0.1]}}
    options: dict[str, Any] = {"sampler": "random", "pruner": "population", "rungs": [0.5]}
    found = search(config, space, tmp_path / "runs", trials=2, **options)
    (taken,) = (each for each in found["trials"] if each["taken_over"])
    assert taken["workdir"].endswith(".1") and taken["taken_over"][0]["step"] == 2
    parent = found["trials"][taken["taken_over"][0]["trial"]]
    again = train_with_changes(
        with_params(config, parent["params"]), [(2, taken["taken_over"][0]["params"])], tmp_path / "again"
    )
    workdir = tmp_path / "runs" / taken["workdir"]
    assert hashes(tmp_path / "again", 4) == hashes(workdir, 4)
    assert validations(tmp_path / "again") == validations(workdir)
    assert again["history"][0]["step"] == 2
    (turn,) = json.loads((workdir / "report.json").read_text())["history"]
    assert turn["why"] == f"trial {taken['number']} of a population took over trial {parent['number']}"
    with pytest.raises(UserError, match=r"holds another search \(trials: 2 -> 3\)"):
        search(config, space, tmp_path / "runs", trials=3, **options)
    with pytest.raises(UserError, match="--space: optim.no_decay: cannot change in the middle of a run"):
        search(config, SPACE, tmp_path / "other", trials=2, pruner="population")
