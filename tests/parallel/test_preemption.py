import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm.parallel.preemption import Preempted, PreemptionFlag

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def before() -> Iterator[list[int]]:
    """Installs handlers that note what reaches them, and puts the test runner's own back."""
    reached: list[int] = []

    def note(number: int, frame: Any) -> None:
        reached.append(number)

    kept = {number: signal.signal(number, note) for number in SIGNALS}
    yield reached
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted_and_the_second_acts_as_usual(number: int, before: list[int]) -> None:
    with PreemptionFlag() as flag:
        assert flag.received is None
        os.kill(os.getpid(), number)
        assert flag.received == number and before == []
        os.kill(os.getpid(), number)
        assert before == [number]
    assert flag.received == number


def test_handlers_are_put_back(before: list[int]) -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError), PreemptionFlag() as flag:
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    os.kill(os.getpid(), signal.SIGTERM)
    assert before == [signal.SIGTERM] and flag.received is None


def test_outside_the_main_thread_nothing_is_installed(before: list[int]) -> None:
    seen: list[Any] = []

    def run() -> None:
        with PreemptionFlag() as flag:
            seen.extend([flag.received, signal.getsignal(signal.SIGTERM)])

    handler = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None, handler]


def test_preempted_says_by_what_and_after_which_step() -> None:
    error = Preempted(signal.SIGTERM, 40)
    assert (error.signal_number, error.step) == (15, 40)
    assert str(error) == "stopped by SIGTERM after saving step 40"
