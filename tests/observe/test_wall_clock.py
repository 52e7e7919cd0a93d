from collections.abc import Callable

import pytest

from jaxfm.observe import wall_clock
from jaxfm.observe.wall_clock import ACTIVITIES, WallClock, goodput


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on only when told to."""
    now = [100.0]
    monkeypatch.setattr(wall_clock.time, "perf_counter", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_every_second_is_counted_once(wait: Callable[[float], None]) -> None:
    clock = WallClock()
    wait(1)
    assert clock.enter("compile") == "start"
    wait(2)
    assert clock.enter("train") == "compile"
    wait(4)
    with clock.during("wait for data"):
        wait(8)
        with clock.during("checkpoint"):
            wait(16)
        wait(32)
    wait(64)
    assert clock.seconds() == {
        "start": 1, "compile": 2, "train": 68, "evaluate": 0, "checkpoint": 16, "wait for data": 40, "profile": 0,
        "report": 0, "replayed": 0,
    }  # fmt: skip
    assert clock.busy() == 68 + 40
    assert tuple(clock.seconds()) == ACTIVITIES
    assert sum(clock.seconds().values()) == 127


def test_asking_changes_nothing(wait: Callable[[float], None]) -> None:
    clock = WallClock()
    wait(3)
    clock.seconds()["start"] = 99  # a copy
    clock.seconds()
    wait(4)
    assert clock.seconds()["start"] == 7


def test_an_exception_goes_back_to_the_activity_before(wait: Callable[[float], None]) -> None:
    clock = WallClock()
    clock.enter("train")
    with pytest.raises(ValueError), clock.during("evaluate"):
        wait(2)
        raise ValueError
    wait(5)
    assert clock.seconds()["evaluate"] == 2 and clock.seconds()["train"] == 5


def test_earlier_parts_of_the_run_are_added(wait: Callable[[float], None]) -> None:
    clock = WallClock({"train": 10.0})
    clock.enter("train")
    wait(1)
    clock.add({"train": 100.0, "start": 5.0, "an activity of another version": 7.0})
    assert clock.seconds()["train"] == 111 and clock.seconds()["start"] == 5
    assert set(clock.seconds()) == set(ACTIVITIES)


def test_an_unknown_activity_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="coffee"):
        WallClock().enter("coffee")


def test_another_thread_sees_the_activity_and_that_it_has_changed(wait: Callable[[float], None]) -> None:
    clock = WallClock()
    assert (clock.activity, clock.changes) == ("start", 0)
    clock.seconds()
    clock.enter("start")
    assert clock.changes == 0  # nothing has moved
    with clock.during("train"):
        assert (clock.activity, clock.changes) == ("train", 1)
    assert (clock.activity, clock.changes) == ("start", 2)


def test_goodput_is_the_share_of_updates_that_count() -> None:
    assert goodput({"train": 6.0, "compile": 1.0, "replayed": 3.0}) == 0.6
    assert goodput({"compile": 1.0}) == goodput({}) == 0.0
