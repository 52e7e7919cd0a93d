"""Whole runs that stand still for a moment, and one that is killed between two saves: what is said, what is counted."""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.programs.train import train
from jaxfm.training import run_ahead
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
    whole_run,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    # Before three updates were timed something is said after 4 s, in a compilation after 12.
    return tiny.config(tmp_path_factory.mktemp("waiting"), **BASE | {"log__stall_seconds": 0.4})


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    yield from whole_run(config, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    return record_saves(monkeypatch)


def until_said(stalls: pathlib.Path) -> Callable[[], None]:
    """Returns what hangs until the watchdog has spoken, at most a minute."""

    def hang() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (stalls.exists() and stalls.read_text().endswith("txt.\n")):
            time.sleep(0.05)

    return hang


def test_a_reader_that_hangs_is_named_and_the_run_goes_on_to_the_same_end(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (whole.workdir / "stalls.txt").exists()  # a run that is only small is no run that stands still
    stalls = tmp_path / "run" / "stalls.txt"
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 8, until_said(stalls))
        report = train(config, tmp_path / "run")
    assert_equal_to(whole, tmp_path / "run", report, saved)
    text = stalls.read_text()
    assert "the run waits for the next batch (wait for data). 7 updates are dispatched, " in text
    assert "  MainThread\n" in text and "    > jaxfm/training/fit.py:" in text and "in hang" not in text
    assert " hang: time.sleep(0.05)" in text and "the run moves again, after" in text
    output = capsys.readouterr().out
    assert output.count("nothing has moved for") == output.count("the run moves again") == 1
    assert " MainThread" in output


@pytest.mark.slow
def test_a_step_that_hangs_on_the_devices_is_named(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging:
        def block_until_ready(self) -> None:
            until_said(tmp_path / "run" / "stalls.txt")()

    plain, count = run_ahead._copied, 0

    def copied(scalar: Any) -> Any:
        nonlocal count
        count += 1
        return Hanging() if count == 2 else plain(scalar)

    monkeypatch.setattr(run_ahead, "_copied", copied)
    train(tiny.replaced(config, train__steps=8), tmp_path / "run")
    text = (tmp_path / "run" / "stalls.txt").read_text()
    assert "nothing has moved for 4" in text and "the run waits for a step on the devices. " in text
    assert "how long is usual is not known yet" in text and "jax.block_until_ready(mark)" in text


def test_what_was_lost_with_a_killed_process_is_counted_as_replayed(
    whole: Whole, config: Config, tmp_path: pathlib.Path, saved: Saved
) -> None:
    assert whole.report["training"]["goodput"]["replayed"] == 0
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxfm.training.member.Log.flush", slow(plain_flush()))
        at_step(patch, 10, crash)  # the checkpoint is that of step 5, the last log line that of step 8
        with pytest.raises(CrashError):
            train(config, workdir)
    report = train(config, workdir)
    assert_equal_to(whole, workdir, report, saved)
    spent = report["training"]["goodput"]
    assert 0.5 <= spent["replayed"] < 10  # the time that flush() took before the line of step 8
    assert report["training"]["seconds"] == pytest.approx(sum(spent.values()))
    assert report["training"]["goodput_share"] == pytest.approx(spent["train"] / sum(spent.values()))
    text = (workdir / "report.md").read_text()
    assert "| replayed " in text and "goodput share" in text


def plain_flush() -> Any:
    from jaxfm.training.member import Log

    return Log.flush


def slow(flush: Callable[[Any], None]) -> Callable[[Any], None]:
    """Returns a flush that takes half a second longer where there is something to write."""

    def flush_slowly(log: Any) -> None:
        time.sleep(0.5 * (log.pending is not None))
        flush(log)

    return flush_slowly
