"""A polite end: SIGTERM (preemption) and Ctrl-C set a flag, and the loop saves before it stops."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Preempted(Exception):  # noqa: N818  (not an error: the run goes on later)
    """The run was stopped by a signal after a good save; `signal_number` says by which."""

    def __init__(self, signal_number: int, step: int):
        """`step` is the one saved."""
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after saving step {step}")
        self.signal_number, self.step = signal_number, step


class PreemptionFlag:
    """While entered, the first SIGTERM or SIGINT is noted in `received`; a second one acts as usual.

    Outside the main thread, where Python allows no handlers, nothing is installed.
    """

    def __init__(self) -> None:
        """Nothing is installed before it is entered."""
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Puts the handlers back that were there."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
