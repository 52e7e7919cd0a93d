"""The watchdog on a clock that is made up: each tick is a second of silence, and nothing else moves by itself."""

import pathlib
import re
import sys
import threading
import time

import pytest

from jaxfm.observe import watchdog
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.observe.watchdog import Watchdog, stacks


class Bench:
    """A watchdog, what it watches, and all that it said."""

    def __init__(self, path: pathlib.Path | None = None, *, process: str = "", others: str = "") -> None:
        self.wall_clock, self.progress, self.now = WallClock(), Progress(1000, quiet=True), 0.0
        self.said: list[str] = []
        self.watchdog = Watchdog(
            self.wall_clock,
            self.progress,
            factor=20.0,
            floor=60.0,
            say=self.said.append,
            path=path,
            process=process,
            others=lambda: others,
            clock=lambda: self.now,
        )
        self.step = 0

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            self.watchdog.tick()

    def train(self, updates: int, seconds: int) -> None:
        """Makes updates of so many seconds; all but the last dispatched one are known to be done."""
        for _ in range(updates):
            self.step += 1
            self.progress.dispatched(self.step)
            self.progress.finished(self.step - 1)
            self.wait(seconds)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_run_that_moves_is_never_spoken_of(bench: Bench) -> None:
    bench.wait(1000)  # a start
    bench.wall_clock.enter("compile")
    bench.wait(1500)
    bench.wall_clock.enter("train")
    bench.train(50, seconds=2)
    with bench.wall_clock.during("evaluate"), bench.progress.task("validating", 100) as advance:
        for _ in range(10):
            bench.wait(900)
            advance(1)
    with bench.wall_clock.during("checkpoint"):
        bench.wait(1500)
    bench.train(10, seconds=50)
    assert bench.said == []


def test_short_updates_are_allowed_the_floor_and_long_ones_twenty_times_their_median(bench: Bench) -> None:
    bench.wall_clock.enter("train")
    bench.train(30, seconds=1)
    bench.wait(58)
    assert bench.said == []
    bench.wait(2)
    assert len(bench.said) == 1
    slow = Bench()
    slow.wall_clock.enter("train")
    slow.train(30, seconds=10)
    slow.wait(20 * 10 - 11)
    assert slow.said == []
    slow.wait(2)
    assert len(slow.said) == 1 and "an update usually takes 10s" in slow.said[0]


def test_one_slow_update_moves_no_median_and_evaluations_are_no_updates(bench: Bench) -> None:
    bench.wall_clock.enter("train")
    for _ in range(10):
        bench.train(3, seconds=5)
        with bench.wall_clock.during("evaluate"):
            bench.wait(600)
    bench.train(1, seconds=90)
    bench.wait(20)
    assert len(bench.said) == 1 and "an update usually takes 5 s" in bench.said[0]


def test_the_first_updates_have_ten_floors(bench: Bench) -> None:
    bench.wall_clock.enter("train")
    bench.wait(600)
    assert bench.said == []
    bench.wait(1)
    assert len(bench.said) == 1
    assert (
        "0 updates are dispatched, 0 known to be done; how long is usual is not known yet; said after 10m 00s"
        in (bench.said[0])
    )


@pytest.mark.parametrize("activity", ["compile", "evaluate", "checkpoint", "report"])
def test_other_activities_have_thirty_floors_and_twice_their_usual_time(bench: Bench, activity: str) -> None:
    bench.wall_clock.enter("train")
    bench.train(5, seconds=1)
    with bench.wall_clock.during(activity):
        bench.wait(1801)
        assert len(bench.said) == 1
        bench.wait(600)
    bench.train(5, seconds=1)
    assert len(bench.said) == 2 and "the run moves again, after 40m 00s" in bench.said[1]
    with bench.wall_clock.during(activity):
        bench.wait(4700)
        assert len(bench.said) == 2
        bench.wait(110)
    assert "this usually takes 40m 00s" in bench.said[2]


def test_it_is_said_again_at_twice_the_silence_and_when_the_run_moves(bench: Bench, tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path / "stalls.txt")
    bench.wall_clock.enter("train")
    bench.train(20, seconds=1)
    bench.wall_clock.enter("wait for data")
    bench.wait(60 * 16 + 1)
    silences = [text.partition("nothing has moved for ")[2].partition(":")[0] for text in bench.said]
    assert silences == ["1m 00s", "2m 00s", "4m 00s", "8m 00s", "16m 00s"]
    assert all("the run waits for the next batch (wait for data). 20 updates are dispatched, 19 known" in text
               for text in bench.said)  # fmt: skip
    bench.wall_clock.enter("train")
    bench.wait(1)
    assert bench.said[-1] == "the run moves again, after 16m 00s without a sign."
    bench.wait(59)
    assert len(bench.said) == 6  # and from here on as before
    bench.wait(2)
    assert len(bench.said) == 7 and "waits for a step on the devices" in bench.said[-1]
    text = (tmp_path / "stalls.txt").read_text()
    # What all threads do is said once in each silence.
    assert text.count("What each thread does") == 2 and text.count("All threads do what they did then.") == 4
    assert text.count("nothing has moved") == 6 and text.count("moves again") == 1
    assert f"This is also in {tmp_path / 'stalls.txt'}." in text


def test_the_block_names_process_others_and_each_thread(bench: Bench) -> None:
    over, ready = threading.Event(), threading.Barrier(4)

    def sleep() -> None:
        ready.wait()
        over.wait()

    threads = [threading.Thread(target=sleep, name=f"reader {number}", daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    bench = Bench(process="process 1 (b)", others="process 0 (a): the next batch, 3 updates dispatched")
    bench.wall_clock.enter("train")
    deadline = time.monotonic() + 10
    while not re.search(r"reader 0, reader 1, reader 2\n.*over\.wait", stacks()) and time.monotonic() < deadline:
        time.sleep(0.01)  # until all have come to the same line
    bench.wait(601)
    over.set()
    (text,) = bench.said
    lines = text.splitlines()
    assert lines[0].startswith("WARNING: process 1 (b): nothing has moved for 10m 00s: the run waits for a step on the")
    assert lines[1] == "  other processes: process 0 (a): the next batch, 3 updates dispatched"
    assert "  MainThread" not in text  # the thread of this tick is the watchdog's own here
    assert "  reader 0, reader 1, reader 2" in lines
    (first,) = [lines[number + 1] for number, line in enumerate(lines) if line.startswith("  reader 0")]
    assert first.endswith(" sleep: over.wait()")  # without how every thread begins
    assert str(pathlib.Path(watchdog.__file__).parents[2]) not in text  # paths are those of imports
    assert bench.watchdog.status() == "a step on the devices, 0 updates dispatched"


def test_stacks_have_the_main_thread_first_and_own_calls_marked() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(stacks(skip={threading.get_ident()})), name="asks")
    with Progress(None, quiet=True).task("x", None):
        thread.start()
        thread.join()
    assert found[0].startswith("  MainThread\n") and "asks" not in found[0].partition("test_watchdog.py")[0]
    marked = [line for line in stacks().splitlines() if line.startswith("    > ")]
    assert marked and all(line.startswith("    > jaxfm/observe/watchdog.py:") for line in marked)
    assert stacks(skip=set(sys._current_frames())) == ""


def test_it_is_silent_after_a_suspension_and_where_it_is_switched_off(bench: Bench) -> None:
    bench.wall_clock.enter("train")
    bench.train(20, seconds=1)
    bench.now += 100_000.0  # the machine slept; one look follows
    bench.wait(5)
    bench.train(5, seconds=1)
    assert bench.said == []
    with Watchdog(bench.wall_clock, bench.progress, factor=0.0, floor=0.01, say=bench.said.append):
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]
        time.sleep(0.5)
    assert bench.said == []


def test_the_thread_ends_with_the_block_and_no_error_of_it_ends_the_run(
    bench: Bench, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (None, tmp_path / "absent" / "stalls.txt"):
        with Watchdog(bench.wall_clock, bench.progress, factor=1.0, floor=0.02, say=bench.said.append, path=path):
            deadline = time.monotonic() + 10
            while not bench.said and time.monotonic() < deadline:
                time.sleep(0.01)
        assert "nothing has moved" in bench.said[0] and "watchdog" not in [each.name for each in threading.enumerate()]
        assert ("could not be written: No such file or directory" in bench.said[0]) == (path is not None)
        bench.said.clear()

    def fails(text: str) -> None:
        raise ZeroDivisionError(text[:7])

    with Watchdog(bench.wall_clock, bench.progress, factor=1.0, floor=0.02, say=fails):
        deadline = time.monotonic() + 10
        while "ended" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "the watchdog has ended (ZeroDivisionError: WARNING); the run goes on without it." in caplog.text
