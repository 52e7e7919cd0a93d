"""Whole runs in process: stopped, killed, damaged, and resumed to the same bits."""

import gc
import json
import logging
import pathlib
import shutil
import threading
from collections.abc import Iterator

import pytest

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.train import train
from jaxfm.tasks.ner.task import NerTask
from tests import tiny
from tests.training.whole_run import (
    BASE,
    CrashError,
    Saved,
    Whole,
    assert_equal_to,
    at_step,
    crash,
    record_saves,
    terminate,
    whole_run,
)

# Where one of Orbax's reads of a damaged checkpoint fails, it leaves the others behind unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_unfinished_reads() -> Iterator[None]:
    yield
    gc.collect()  # here, where their warnings are ignored, and not in a later test


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("fit")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.config(folder, **BASE)


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    return record_saves(monkeypatch)


@pytest.fixture(scope="module")
def whole(config: Config, folder: pathlib.Path) -> Iterator[Whole]:
    yield from whole_run(config, folder)


def test_a_run_stopped_three_times_is_the_run_that_was_not(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved
) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 3, terminate)  # within the first log interval and the first epoch
        with pytest.raises(Preempted, match="SIGTERM after saving step 3"):
            train(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 9, crash, first=3)  # the checkpoint is that of step 5; line 8 must not stay twice
        with pytest.raises(CrashError):
            train(config, workdir)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 10, terminate, first=5)  # on the step of an evaluation
        with pytest.raises(Preempted, match="step 10"):
            train(config, workdir)
    assert not (workdir / "report.json").exists()
    assert sorted(saved) == [3, 5, 10]
    report = train(config, workdir)
    assert_equal_to(whole, workdir, report, saved)
    assert [saved[step] for step in (5, 10)] == [whole.saved[step] for step in (5, 10)]
    # Random numbers are on: a run of another seed is another run.
    assert len({step: whole.saved[step] for step in (5, 10, 12)}) == 3


@pytest.mark.slow
def test_a_growing_batch_resumes_to_the_same_bits(folder: pathlib.Path, tmp_path: pathlib.Path, saved: Saved) -> None:
    sizes = {"train__batch_size": 16, "train__first_batch_size": 8, "train__batch_warmup_steps": 3}
    config = tiny.config(folder, **BASE | sizes | {"train__steps": 5, "eval__every_steps": 2})
    report = train(config, tmp_path / "whole")
    wanted = dict(saved)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 4, crash)  # the first update of full size; step 2 is saved
        with pytest.raises(CrashError):
            train(config, tmp_path / "run")
    saved.clear()
    assert train(config, tmp_path / "run")["splits"] == report["splits"]
    assert saved[5] == wanted[5] and min(saved) > 2
    assert report["training"]["epochs"] == (3 * 8 + 2 * 16) / 31


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_only_time(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 11, crash)
        with pytest.raises(CrashError):
            train(config, workdir)
    assert not [thread.name for thread in threading.enumerate() if "grain" in thread.name]  # that read ahead
    damage(workdir / "checkpoints" / "10")
    with caplog.at_level(logging.WARNING, logger="jaxfm"):
        report = train(config, workdir)
    assert f"{workdir / 'checkpoints' / '10'}" in caplog.text and "checkpoint before" in caplog.text
    assert_equal_to(whole, workdir, report, saved)
    # Step 10 was reached again: its checkpoint is whole now.
    caplog.clear()
    shutil.rmtree(workdir / "checkpoints" / "12")
    (workdir / "report.json").unlink()
    assert train(config, workdir)["splits"] == whole.report["splits"]
    assert not caplog.text


def damage(checkpoint: pathlib.Path) -> None:
    for path in (checkpoint / "params").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_without_a_whole_checkpoint_nothing_is_started_anew(config: Config, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 6, crash)
        with pytest.raises(CrashError):
            train(config, workdir)
    damage(workdir / "checkpoints" / "5")
    with pytest.raises(UserError, match=r"none of the checkpoints \[5\] is whole"):
        train(config, workdir)


@pytest.mark.slow
def test_a_run_killed_at_its_first_files_starts_again(whole: Whole, config: Config, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / ".config.json.abc.part").write_text('{"half')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NerTask, "save", lambda *_: crash())
        with pytest.raises(CrashError):
            train(config, workdir)
    assert not (workdir / "task.json").exists()
    assert train(config, workdir)["splits"] == whole.report["splits"]
    assert (workdir / "task.json").read_bytes() == (whole.workdir / "task.json").read_bytes()


def test_a_finished_run_says_so_and_changes_nothing(whole: Whole, config: Config, folder: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")}
    (folder / "corpus").rename(folder / "elsewhere")  # a finished run needs no data
    try:
        assert train(config, whole.workdir) == json.loads((whole.workdir / "report.json").read_text())
    finally:
        (folder / "elsewhere").rename(folder / "corpus")
    assert {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")} == before


def test_the_lock_of_a_run_that_was_killed_after_its_report_goes(whole: Whole, config: Config) -> None:
    lock = whole.workdir / ".lock"
    lock.write_text("{}")  # nobody holds it
    assert train(config, whole.workdir) and not lock.exists()
    with files.held(lock, "somebody"):
        assert train(config, whole.workdir) and lock.exists()


def test_a_work_directory_of_another_config_is_refused(whole: Whole, config: Config) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")}
    with pytest.raises(UserError, match=r"another config \(optim\.learning_rate: 0\.01 -> 0\.02\)"):
        train(tiny.replaced(config, optim__learning_rate=0.02), whole.workdir)
    assert {path: path.stat().st_mtime_ns for path in whole.workdir.rglob("*")} == before
    # What does not change the result may differ: logging, mesh, how many checkpoints are kept.
    assert train(tiny.replaced(config, log__every_steps=1, checkpoint__keep_last=9), whole.workdir)


def test_resuming_on_other_data_is_refused(config: Config, tmp_path: pathlib.Path) -> None:
    shutil.copytree(config.data.source.removeprefix("conll:"), tmp_path / "corpus")
    own = tiny.replaced(config, data__source=f"conll:{tmp_path / 'corpus'}")
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 2, terminate)
        with pytest.raises(Preempted):
            train(own, tmp_path / "run")
    train_file = tmp_path / "corpus" / "train.conll"
    train_file.write_text(train_file.read_text().replace("met O", "saw O", 1))
    with pytest.raises(UserError, match=r"made with other training data \(or"):
        train(own, tmp_path / "run")
    shutil.copy(pathlib.Path(config.data.source.removeprefix("conll:")) / "train.conll", train_file)
    valid_file = tmp_path / "corpus" / "valid.conll"
    valid_file.write_text(valid_file.read_text().replace("saw O", "met O", 1))
    with pytest.raises(UserError, match=r"made with other validation data \(or"):
        train(own, tmp_path / "run")


# The best checkpoint and early stopping, on scripted scores.
