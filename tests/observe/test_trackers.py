"""Trackers of experiments: what they are sent, how a run goes on there, and that none of them stops training."""

import importlib.util
import json
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.observe import trackers
from jaxfm.observe.trackers import TRACKER_FILE, Tracker, check_tracker
from jaxfm.observe.writers import MetricsWriter, read_metrics


class Fake:
    """A tracker that remembers what it was told; `fault` makes it fail."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, str, str]] = []
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.ended: list[bool] = []
        self.fault = ""

    def open(self, project: str, workdir: pathlib.Path, config: dict[str, Any], known: str) -> tuple[Any, str]:
        if self.fault == "open":
            raise ConnectionError("no network")
        self.opened.append((project, workdir.name, known))
        return self, known or f"id{len(self.opened)}"

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        if self.fault == "send":
            raise ConnectionError("no network")
        self.sent.append((step, dict(numbers)))

    def end(self, failed: bool) -> None:
        self.ended.append(failed)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(trackers, "_OPEN", {"fake": fake.open})
    return fake


def opener(workdir: pathlib.Path, resume_step: int | None = None, project: str = "p") -> Callable[[], Tracker]:
    return lambda: Tracker("fake", project, workdir, {"seed": 1}, resume_step=resume_step)


def test_it_gets_finite_numbers_by_split(fake: Fake, tmp_path: pathlib.Path) -> None:
    with MetricsWriter(tmp_path, resume_step=None, tensorboard=False, tracker=opener(tmp_path)) as writer:
        writer.write(1, "train", {"loss": 0.5, "grad_norm": math.nan})
        writer.write(1, "valid", {"f1": 0.25})
    assert fake.sent == [(1, {"train/loss": 0.5}), (1, {"valid/f1": 0.25})] and fake.ended == [False]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert json.loads((tmp_path / TRACKER_FILE).read_text()) == {"kind": "fake", "project": "p", "id": "id1", "step": 1}


def test_a_run_that_goes_on_is_the_same_there_and_sends_nothing_twice(fake: Fake, tmp_path: pathlib.Path) -> None:
    first = opener(tmp_path)()
    for step in (1, 2, 3):
        first.write(step, "train", {"loss": step})
    first.flush()  # then it is killed, and goes on from step 2
    second = opener(tmp_path, resume_step=2)()
    for step in (3, 4):
        second.write(step, "train", {"loss": step})
    second.close()
    assert fake.opened == [("p", tmp_path.name, ""), ("p", tmp_path.name, "id1")]
    assert [step for step, _ in fake.sent] == [1, 2, 3, 4]
    # A new run in the same directory, and one of another project, are other runs.
    opener(tmp_path)()
    opener(tmp_path, resume_step=4, project="q")()
    assert [known for _, _, known in fake.opened[2:]] == ["", ""]


@pytest.mark.parametrize("fault", ["open", "send"])
def test_its_faults_are_said_once_and_stop_nothing(
    fake: Fake, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    fake.fault = fault
    with (
        caplog.at_level(logging.WARNING),
        MetricsWriter(tmp_path, resume_step=None, tensorboard=False, tracker=opener(tmp_path)) as writer,
    ):
        for step in range(5):
            writer.write(step, "train", {"loss": 1.0})
    (said,) = [record.getMessage() for record in caplog.records]
    assert "no network" in said and "metrics.jsonl has everything" in said
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 5


def test_it_is_told_of_a_failure(fake: Fake, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with MetricsWriter(tmp_path, resume_step=None, tensorboard=False, tracker=opener(tmp_path)):
            raise ZeroDivisionError
    assert fake.ended == [True]


def test_one_that_is_not_installed_is_said_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    check_tracker("")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config\.log\.tracker=wandb: the package wandb is not installed"):
        check_tracker("wandb")


def installed(name: str) -> Any:
    absent = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(absent, reason=f"{name} is not installed")


@installed("mlflow")
@pytest.mark.filterwarnings("default")
def test_mlflow_has_the_numbers(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for resume, steps in ((None, (1, 2)), (2, (2, 3))):
        tracker = Tracker("mlflow", "p", tmp_path, {"seed": 7}, resume_step=resume)
        for step in steps:
            tracker.write(step, "valid", {"ndcg@10": step / 10})
        tracker.close()
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("p").experiment_id])
    assert run.data.params == {"seed": "7"} and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "valid/ndcg_at_10")
    assert [(each.step, each.value) for each in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]


@installed("wandb")
@pytest.mark.filterwarnings("default")
def test_wandb_keeps_a_run_offline(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = set()
    for resume, steps in ((None, (1, 2)), (2, (2, 3))):
        tracker = Tracker("wandb", "p", tmp_path, {"seed": 7}, resume_step=resume)
        for step in steps:
            tracker.write(step, "train", {"loss": step / 10})
        tracker.close()
        names.add(json.loads((tmp_path / TRACKER_FILE).read_text())["id"])
    (name,) = names
    folders = list((tmp_path / "wandb").glob(f"offline-run-*-{name}"))
    assert folders and all(list(folder.glob("*.wandb")) for folder in folders)


@installed("trackio")
@pytest.mark.filterwarnings("default")
def test_trackio_has_the_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for resume, steps in ((None, (1, 2)), (2, (2, 3))):
        tracker = Tracker("trackio", "p", tmp_path / "run", {"seed": 7}, resume_step=resume)
        for step in steps:
            tracker.write(step, "train", {"loss": step / 10})
        tracker.close()
    assert list((tmp_path / "trackio").rglob("*"))
    assert capsys.readouterr().out == ""
