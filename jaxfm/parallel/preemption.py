"""Runs that stop before their end: by a signal (SIGTERM, Ctrl-C) after saving, or where their caller wants them to."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Protocol, Self


class Stopped(Exception):  # noqa: N818  (not an error: the run goes on later)
    """The run has stopped after a good save, of `step`; the same config and directory go on with it, exactly."""

    step: int


class Paused(Stopped):
    """The run stands at an evaluation where its caller wanted it to."""

    def __init__(self, step: int):
        """`step` is the step that was saved."""
        super().__init__(f"paused after saving step {step}")
        self.step = step


class Preempted(Stopped):
    """The run was stopped by a signal after a good save; `signal_number` says by which."""

    def __init__(self, signal_number: int, step: int):
        """`step` is the step that was saved."""
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after saving step {step}")
        self.signal_number, self.step = signal_number, step


class _Store(Protocol):
    """The methods of `jaxfm.parallel.watch.Store` that are used here."""

    def set_first(self, key: str, value: str) -> None: ...

    def under(self, prefix: str) -> dict[str, str]: ...


class SharedStop:
    """One step for all processes of a run to stop after, once any of them has been asked to.

    Processes dispatch steps at slightly different times. If each saved and stopped at the step where it got the signal,
    they would wait for each other in different collectives. Instead, once one process is asked to stop, the watch of
    every process takes `_lock`, publishes the last step that its main thread has passed, waits until all have
    published, and releases the lock. The step to stop after is the largest of these steps plus one. No process can have
    passed it, because a main thread needs the lock to pass a step (it waits a second or two, once in a run). All reach
    it, because a main thread waits only for steps that all processes run. Otherwise a step costs one uncontended lock
    and no wait for the devices. (jax.experimental.multihost_utils.reached_preemption_sync_point does the same, but its
    handler of SIGTERM is in C++: it replaces Python's, hides the signal while a run starts, and ignores Ctrl-C.)
    """

    def __init__(self) -> None:
        """Starts with no step passed and no request to stop."""
        self.asked: int | None = None  # by which signal this process was asked to stop
        self._lock = threading.Lock()
        self._step: int | None = None
        self._agreed: tuple[int, int] | None = None  # (step, signal)
        self.is_settling = False

    def passed(self, step: int) -> int | None:
        """Records that `step` updates are dispatched; returns the signal if this is the step to stop after, else None.

        To be called after every update, and once before the first.
        """
        with self._lock:
            self._step = step
            return self._agreed[1] if self._agreed is not None and step == self._agreed[0] else None

    def settle(self, store: _Store, process: int, count: int) -> None:
        """Takes the next step of the agreement without waiting; the watch calls it repeatedly."""
        if self._agreed is not None:
            return
        if self.asked is not None:
            store.set_first("stop/asked/by", str(self.asked))
        asked = store.under("stop/asked/").get("by")
        if asked is None or self._step is None:
            return
        if not self.is_settling:
            # Released below, by the same thread, in a later call.
            self._lock.acquire()
            self.is_settling = True
            store.set_first(f"stop/at/{process}", str(self._step))
        steps = store.under("stop/at/").values()
        if len(steps) == count:
            self._agreed = (max(map(int, steps)) + 1, int(asked))
            self.is_settling = False
            self._lock.release()


class PreemptionFlag:
    """Context manager that records the first SIGTERM or SIGINT in `received`; a second signal acts as usual.

    Outside the main thread, where Python allows no handlers, nothing is installed.
    """

    def __init__(self, shared: SharedStop | None = None) -> None:
        """`shared` is needed where a run has several processes."""
        self.received: int | None = None
        self._shared = shared
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
        """Restores the handlers that were installed before."""
        self._restore()

    def passed(self, step: int) -> int | None:
        """Returns the signal to stop by after `step` dispatched updates, or None to go on.

        The answer is the same on all processes of a run, whichever of them received the signal.
        """
        return self.received if self._shared is None else self._shared.passed(step)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = number
        if self._shared is not None:
            self._shared.asked = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
