"""The watch and the agreed step without processes: a dict is the store, ticks are called by hand."""

import random
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from jaxfm.parallel.preemption import PreemptionFlag, SharedStop
from jaxfm.parallel.watch import Ending, UnreachableError, Watch, differences

HOSTS = {0: "a", 1: "b", 2: "c", 3: "d"}


class Store:
    """A store of this process's own."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.reachable = True
        self._lock = threading.Lock()

    def set(self, key: str, value: str) -> None:
        self._check()
        self.values[key] = value

    def set_first(self, key: str, value: str) -> None:
        self._check()
        with self._lock:
            self.values.setdefault(key, value)

    def wait_for(self, key: str, seconds: float) -> str | None:
        self._check()
        return self.values.get(key)

    def under(self, prefix: str) -> dict[str, str]:
        self._check()
        return {key.removeprefix(prefix): value for key, value in list(self.values.items()) if key.startswith(prefix)}

    def _check(self) -> None:
        if not self.reachable:
            raise UnreachableError("no answer")


def watches(count: int, silence: float = 3.0) -> tuple[Store, list[Watch]]:
    store = Store()
    return store, [
        Watch(store, process, count, HOSTS[process], silence=silence, stop=SharedStop()) for process in range(count)
    ]


def test_as_long_as_all_beat_nobody_is_lost() -> None:
    _, all_of_them = watches(4)
    assert [watch.tick() for _ in range(20) for watch in all_of_them] == [None] * 80


def test_who_falls_silent_is_lost_after_the_stated_ticks_for_all_the_others() -> None:
    _, (first, second, third) = watches(3, silence=3.0)
    for watch in (first, second, third):
        assert watch.tick() is None
    found = [first.tick() for _ in range(5) if second.tick() is None]
    # The tick that last saw its counter, then three of silence.
    assert [ending is not None for ending in found] == [False, False, False, True]
    assert found[-1] == second.tick()
    assert found[-1] == Ending(
        2, "c", 0, "has not been heard of for 3 s: it was killed or stopped, or its machine is gone", True
    )


def test_who_has_left_is_not_lost() -> None:
    store, (first, second) = watches(2)
    second.tick()
    second.leave()
    assert [first.tick() for _ in range(10)] == [None] * 10
    assert first.left() == {1}


def test_a_process_that_never_beat_is_lost_too() -> None:
    _, (first, _) = watches(2)
    assert [first.tick() for _ in range(5)][-1] is not None


def test_what_a_failing_process_says_comes_before_who_is_lost_and_is_no_news_to_itself() -> None:
    _, (first, second, third) = watches(3)
    lost, told = Ending(1, "b", 0, "has not been heard of", lost=True), Ending(2, "c", 2, "/data/x: no such file")
    first.tell(lost)
    assert first.tick() == lost
    third.tell(told)
    assert first.tick() == second.tick() == told
    assert third.tick() == lost


def test_the_thread_calls_end_once_and_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxfm.parallel.watch.TICK_SECONDS", 0.01)
    store = Store()
    watch = Watch(store, 1, 2, "b", silence=1.0, stop=SharedStop())
    ended: list[Ending | None] = []
    watch.start(ended.append)
    store.reachable = False
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    watch.stop()
    assert ended == [None]


def test_a_store_that_never_answers_ends_the_others_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a process 0 that was stopped: calls to it do not return, and do not fail."""
    monkeypatch.setattr("jaxfm.parallel.watch.TICK_SECONDS", 0.01)
    answers = threading.Event()

    class Stopped(Store):
        def set(self, key: str, value: str) -> None:
            if key.startswith("beat/") and int(value.split()[0]) > 3:
                answers.wait(20)

    watch, ended = Watch(Stopped(), 1, 2, "b", silence=0.05, stop=SharedStop()), list[Ending | None]()
    watch.start(ended.append)
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    answers.set()
    watch.stop()
    text = "has not answered for 0.05 s: it was stopped, or its machine hangs"
    assert ended == [Ending(0, "", 0, text, lost=True)]


def test_each_heartbeat_says_what_a_process_does_and_how_long_it_stood_still_is_known() -> None:
    _, (first, second, third) = watches(3)
    second.status = lambda: "the next batch, 3 updates dispatched"
    for watch in (first, second, third):
        watch.tick()
    assert third.statuses() == {1: "the next batch, 3 updates dispatched"}
    assert second.longest_pause() < 5
    time.sleep(0.05)
    assert second.longest_pause() >= 0.05
    second.tick()
    assert second.longest_pause() >= 0.05


def test_a_stopped_watch_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxfm.parallel.watch.TICK_SECONDS", 0.01)
    store = Store()
    watch = Watch(store, 1, 2, "b", silence=1.0, stop=SharedStop())
    ended: list[Ending | None] = []
    watch.start(ended.append)
    watch.stop()
    store.reachable = False
    assert ended == []


def run_together(count: int, asked: dict[int, int], steps: int, seed: int) -> list[tuple[int, int] | None]:
    """Runs `count` loops of `steps` steps in threads, each at its own pace; returns where and why each stopped.

    `asked` maps a process to the step at which it receives SIGTERM. Like real ones, no loop gets more than 3 steps
    ahead of the slowest: it would wait for it in a collective.
    """
    store, stops = Store(), [SharedStop() for _ in range(count)]
    at, ended = [0] * count, [None] * count
    over = threading.Event()

    def loop(process: int) -> None:
        draw = random.Random(seed * 10 + process)
        stops[process].passed(0)
        for step in range(1, steps + 1):
            while step > min(at) + 3:
                time.sleep(0.0005)
            time.sleep(draw.random() * 0.003)
            if asked.get(process) == step:
                stops[process].asked = signal.SIGTERM
            at[process] = step
            number = stops[process].passed(step)
            if number is not None:
                ended[process] = (step, number)
                return

    def settle() -> None:
        while not over.is_set():
            for process, stop in enumerate(stops):
                stop.settle(store, process, count)
            time.sleep(0.001)

    settling = threading.Thread(target=settle)
    settling.start()
    loops = [threading.Thread(target=loop, args=(process,)) for process in range(count)]
    for thread in loops:
        thread.start()
    for thread in loops:
        thread.join(timeout=30)
        assert not thread.is_alive(), "the loops wait for each other"
    over.set()
    settling.join()
    return ended


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("asked", [{2: 17}, {0: 5, 3: 6}, dict.fromkeys(range(4), 11)], ids=["one", "two", "all"])
def test_all_stop_after_the_same_step_soon_after_the_first_was_asked(asked: dict[int, int], seed: int) -> None:
    ended = run_together(4, asked, steps=400, seed=seed)
    assert len(set(ended)) == 1 and ended[0] is not None
    step, number = ended[0]
    assert number == signal.SIGTERM
    assert min(asked.values()) < step < 400


def test_asked_too_late_the_run_ends_as_it_would_have() -> None:
    assert run_together(4, {1: 20}, steps=20, seed=0) == [None] * 4


def test_nobody_is_held_up_before_all_are_in_the_loop() -> None:
    store, (early, late) = Store(), (SharedStop(), SharedStop())
    early.passed(3)
    late.asked = signal.SIGINT
    for _ in range(3):
        late.settle(store, 1, 2)
        early.settle(store, 0, 2)
    assert early.is_settling and not late.is_settling
    assert late.passed(3) is None  # does not wait
    late.settle(store, 1, 2)
    early.settle(store, 0, 2)
    late.settle(store, 1, 2)
    assert (early.passed(4), late.passed(4)) == (signal.SIGINT, signal.SIGINT)


@pytest.fixture
def kept_handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_handlers")
def test_the_flag_passes_a_signal_on_and_stops_only_where_all_do() -> None:
    store, stops = Store(), (SharedStop(), SharedStop())
    with PreemptionFlag(stops[0]) as flag:
        assert flag.passed(6) is None and stops[1].passed(5) is None
        signal.raise_signal(signal.SIGTERM)
        assert flag.received == signal.SIGTERM
        for process in (0, 1, 0):
            stops[process].settle(store, process, 2)
        assert flag.passed(7) == signal.SIGTERM
        assert stops[1].passed(6) is None and stops[1].passed(7) == signal.SIGTERM


def test_no_difference_is_nothing() -> None:
    assert differences({0: {"a": 1, "b": None}, 1: {"a": 1, "b": None}}, HOSTS) == []


def test_a_difference_names_the_fact_the_processes_their_machines_and_values() -> None:
    values = {process: {"config.seed": 0, "version": "1"} for process in range(4)}
    values[2] = {"config.seed": 5, "version": "1"}
    others = "process 0 (a), process 1 (b), process 3 (d)"
    assert differences(values, HOSTS) == [f"config.seed is 5 on process 2 (c), but 0 on {others}"]


def test_of_equally_frequent_values_the_first_process_has_the_right_one() -> None:
    assert differences({0: {"x": "old"}, 1: {"x": "new"}}, {0: "a"}) == [
        'x is "new" on process 1 (host unknown), but "old" on process 0 (a)'
    ]


def test_a_fact_that_one_lacks_and_several_values_at_once() -> None:
    values = {0: {"x": 1}, 1: {"x": 2}, 2: {}, 3: {"x": 1}}
    assert differences(values, HOSTS) == [
        "x is 2 on process 1 (b); null on process 2 (c), but 1 on process 0 (a), process 3 (d)"
    ]


def test_many_processes_are_counted() -> None:
    (found,) = differences({process: {"x": int(process == 9)} for process in range(10)}, {})
    assert found.endswith("process 2 (host unknown) and 6 more")
