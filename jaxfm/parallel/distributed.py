"""Several processes as one run: how they find each other, agree before step 1, and end together.

`jax.distributed` connects them; everything here uses the key-value store of its coordination service, which process 0
holds. JAX has no public API for that store nor for its detection of clusters: only this file uses the private ones
(`_Store`, `_detected`), and tests/parallel/test_distributed.py fails when they change.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn, Self

import jax
from jax._src import clusters
from jax._src.distributed import global_state

from jaxfm.errors import UserError
from jaxfm.parallel.preemption import SharedStop
from jaxfm.parallel.rendezvous import (
    EXIT_USER_MISTAKE,
    Connecting,
    check_port,
    given,
    leave_at_once,
    listed,
    not_reached,
    say,
)
from jaxfm.parallel.watch import TICK_SECONDS, Ending, UnreachableError, Watch, differences

EXIT_FAILED, EXIT_LOST, EXIT_INTERRUPTED = 1, 69, 130
START_SECONDS, SILENCE_SECONDS = 300.0, 30.0
# Seconds that process 0, which holds the store, waits for the others to read why the run ends.
_FAREWELL_SECONDS = 10.0
_ANSWER_SECONDS = 5.0
_PREFIX = "jaxfm/"
_HOLDS = "holds"
_STATUS_OF_ANOTHER = ("UNKNOWN:", "INTERNAL:", "UNAVAILABLE:", "ABORTED:", "CANCELLED:", "DEADLINE_EXCEEDED:")


class _Store:
    """The coordination service's key-value store (implements jaxfm.parallel.watch.Store)."""

    def __init__(self) -> None:
        assert global_state.client is not None
        self._client = global_state.client

    def set(self, key: str, value: str) -> None:
        self._ask(lambda: self._client.key_value_set(_PREFIX + key, value, allow_overwrite=True))

    def set_first(self, key: str, value: str) -> None:
        self._ask(lambda: self._client.key_value_set(_PREFIX + key, value), "ALREADY_EXISTS")

    def wait_for(self, key: str, seconds: float) -> str | None:
        milliseconds = int(seconds * 1000)
        return self._ask(
            lambda: self._client.blocking_key_value_get(_PREFIX + key, milliseconds), "DEADLINE_EXCEEDED", "NOT_FOUND"
        )

    def under(self, prefix: str) -> dict[str, str]:
        found = self._ask(lambda: self._client.key_value_dir_get(_PREFIX + prefix), "NOT_FOUND") or []
        return {key.removeprefix(_PREFIX + prefix): value for key, value in found}

    def _ask(self, call: Callable[[], Any], *harmless: str) -> Any:
        try:
            return call()
        except jax.errors.JaxRuntimeError as error:  # its text starts with the name of a gRPC status
            if str(error).startswith(harmless):
                return None
            raise UnreachableError(str(error)) from error


class _Run:
    """The state of this process in a run of several processes."""

    def __init__(self, process: int, count: int, coordinator: str, start_timeout: float, silence: float):
        self.process, self.count, self.coordinator = process, count, coordinator
        self.start_timeout, self.silence = start_timeout, silence
        self.asked = 0
        self.is_ending = False
        self.host = socket.gethostname()
        self.store = _Store()
        self.stop = SharedStop()
        self.watch = Watch(self.store, process, count, self.host, silence=silence, stop=self.stop)
        self.resume_words: Callable[[], str] = str


_run: _Run | None = None


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    start_timeout: float = START_SECONDS,
    heartbeat_timeout: float = SILENCE_SECONDS,
) -> None:
    """Joins the other processes of the run, if there are any; before anything of JAX is used.

    Without arguments it looks for a cluster that JAX knows: a Cloud TPU pod, TPU slices on GKE, an indexed Kubernetes
    job, SLURM, Open MPI. Does nothing in an ordinary single process or a cluster of one.

    Args:
      coordinator: HOST:PORT of process 0, a free port there.
      num_processes: of the whole run; 1 without the other two: look for no cluster.
      process_id: 0 to num_processes - 1, each once.
      start_timeout: seconds to wait for the others.
      heartbeat_timeout: seconds after which a silent process counts as lost and all others end.

    Raises:
      UserError: the arguments contradict each other, or the others did not join in time (the message says which are
        missing, as far as known).
    """
    global _run
    assert _run is None, "start() is called once"
    found = given(coordinator, num_processes, process_id)
    if found is None and num_processes is None:
        found = _detected(start_timeout)
    if found is None or found[1] == 1:
        return
    address, count, process = found
    check_port(address, process)
    _hook_abort(address, process, count)
    # JAX's own handler would replace Python's handler of SIGTERM and hide the signal; see preemption.SharedStop.
    jax.config.update("jax_enable_preemption_service", False)
    arguments = {} if coordinator is None else {"cluster_detection_method": "deactivate"}
    connecting = Connecting(address, count, process, start_timeout, heartbeat_timeout, arguments)
    connecting.wait()
    _run = _Run(process, count, address, start_timeout, heartbeat_timeout)
    _run.watch.start(_end_by_watch)


def is_main() -> bool:
    """Returns whether this process writes logs, reports and all other files except checkpoints, which all write."""
    return _run is None or _run.process == 0


def shared_stop() -> SharedStop | None:
    """Returns the object by which processes agree on the step to stop after; None for a single process."""
    return None if _run is None else _run.stop


def say_when_lost(words: Callable[[], str]) -> None:
    """Sets the function whose text is added to the message that a process is lost: where the run can resume from."""
    if _run is not None:
        _run.resume_words = words


def process_name() -> str:
    """Returns which process this is, "process 1 (host-b)"; empty for a single one."""
    return "" if _run is None else f"process {_run.process} ({_run.host})"


def tell_status(status: Callable[[], str]) -> None:
    """Sets the function whose text, what this process does, is sent with each of its heartbeats."""
    if _run is not None:
        _run.watch.status = status


def statuses_of_others() -> str:
    """Returns what the other processes last said of themselves; empty for a single one, or where none can be asked."""
    run, found = _run, list[str]()
    if run is None:
        return ""

    def ask() -> None:
        with contextlib.suppress(UnreachableError):
            hosts, statuses = run.watch.hosts(), run.watch.statuses()
            others = {process: status for process, status in statuses.items() if process != run.process}
            found.append("; ".join(f"process {each} ({hosts.get(each)}): {status}" for each, status in others.items()))

    # In a thread: a process 0 that was stopped never answers.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_SECONDS)
    return found[0] if found else "process 0, which knows of them, does not answer"


def agree(what: str, facts: Mapping[str, Any], *, soon: bool = False) -> None:
    """Waits until all processes of the run have called this, then compares facts. A single process returns at once.

    Process 0 collects and compares, and all processes raise what it finds. A process that fails or is killed before its
    call ends all others through the watch. A process that neither calls nor fails is named every minute, without an
    end: preparing data may take hours on one machine and no time on another.

    Args:
      what: names the point of the program; all processes must pass these points in the same order.
      facts: name -> JSON value.
      soon: raise if a process has not called within the time to start.

    Raises:
      UserError: on all processes: which process differs from the others in which fact, or which did not call.
    """
    if _run is None:
        if jax.distributed.is_initialized():
            raise UserError("the processes were connected by jax.distributed.initialize(); call start() instead.")
        return
    verdict = _ask_process_0(what, dict(facts), _run.start_timeout if soon else float("inf"))
    if verdict:
        raise UserError(verdict)


def all_processes(what: str, holds: bool) -> bool:
    """Waits until all processes of the run have called this; returns whether `holds` is true on all. See `agree`."""
    if _run is None:
        return holds
    return not _ask_process_0(what, {_HOLDS: holds})


def min_over_processes(what: str, value: int) -> int:
    """Waits until all processes of the run have called this; returns the smallest of their values. See `agree`."""
    if _run is None:
        return value
    prefix = f"least/{what}/"
    _run.store.set(f"{prefix}{_run.process}", str(value))
    agree(what, {})  # afterwards the values of all processes are in the store
    return min(int(each) for each in _run.store.under(prefix).values())


def _ask_process_0(what: str, facts: Mapping[str, Any], timeout: float = float("inf")) -> str:
    """Has process 0 collect all processes' facts; returns its verdict: what is wrong, empty if nothing."""
    run = _run
    assert run is not None
    run.asked += 1
    what = f"{run.asked}, {what}"
    # The facts first: a process that counts as here has published them.
    run.store.set(f"facts/{what}/{run.process}", json.dumps(facts))
    run.store.set(f"here/{what}/{run.process}", "")
    if run.process == 0:
        run.store.set(f"verdict/{what}", _verdict(run, what, timeout))
    deadline = time.monotonic() + timeout + _FAREWELL_SECONDS
    while time.monotonic() < deadline:
        verdict = run.store.wait_for(f"verdict/{what}", 5.0)
        if verdict is not None:
            return verdict
    return f"process 0, which compares what all processes found ({what}), did not come in {timeout:g} s."


def _verdict(run: _Run, what: str, timeout: float) -> str:
    """Waits for all processes and compares their facts; runs on process 0."""
    began = time.monotonic()
    pause, remind = 0.02, 60.0
    while len(here := run.store.under(f"here/{what}/")) < run.count:
        waited = time.monotonic() - began
        if waited > timeout or waited > remind:
            absent = [process for process in range(run.count) if str(process) not in here]
            text = f"{listed(absent, run.watch.hosts())} did not come ({what})"
            if waited > timeout:
                return f"{text} within {timeout:g} s."
            say(f"waiting: {text} so far; {waited:.0f} s")
            remind += 60.0
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
    values = {int(process): json.loads(own) for process, own in run.store.under(f"facts/{what}/").items()}
    if not all(own.get(_HOLDS, True) for own in values.values()):
        return "no"
    found = differences(values, run.watch.hosts())
    if not found:
        return ""
    more = f" And {len(found) - 5} more differences." if len(found) > 5 else ""
    return f"the processes of this run do not agree: {'. '.join(found[:5])}.{more} Start all of them the same."


class ProcessGroup:
    """Context manager around a program that ends all processes of the run together.

    A process that is done waits for the others. A process that fails tells the others first and then exits by
    `os._exit`: JAX's own clean-up at exit would wait minutes for processes that are still in the middle of a step.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _run is None:
            return
        if error is not None and _run.is_ending:
            # The watch is ending this process and has printed why; errors that follow from it are not worth printing.
            time.sleep(2 * _FAREWELL_SECONDS)
        code = error.code if isinstance(error, SystemExit) else None
        if error is None or code in (0, None) and kind is SystemExit:
            agree("end", {})
            _run.watch.stop()
            jax.distributed.shutdown()
        elif isinstance(error, SystemExit) and isinstance(code, int) and code not in (EXIT_USER_MISTAKE, EXIT_FAILED):
            # All were stopped by a signal at the same step, so the others end soon, too.
            _run.watch.stop()
            _farewell(code)
        elif isinstance(error, UserError):
            _fail(EXIT_USER_MISTAKE, str(error), f"error: {error}")
        elif isinstance(error, KeyboardInterrupt):
            _fail(EXIT_INTERRUPTED, "stopped by Ctrl-C", "stopped by Ctrl-C")
        else:
            assert error is not None
            if _may_be_of_another(error):
                # A collective failed because another process is gone: the watch will name it and end this process.
                say(f"a collective operation failed ({_first_line(error)}); looking for a process that is gone")
                time.sleep(_run.silence + _FAREWELL_SECONDS)
            told = "".join(traceback.format_exception(error))
            _fail(EXIT_FAILED, _first_line(error), told.rstrip())


def _detected(timeout: float) -> tuple[str, int, int] | None:
    """Asks JAX's cluster detection: coordinator, number of processes, own id; None outside a cluster."""
    if "OMPI_MCA_orte_hnp_uri" not in os.environ and int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise UserError(
            "this is one of several processes of Open MPI, which since version 5 does not say where process 0 is. Give "
            "--coordinator=HOST:PORT --num_processes=$OMPI_COMM_WORLD_SIZE --process_id=$OMPI_COMM_WORLD_RANK."
        )
    for kind in clusters.ClusterEnv._cluster_types:
        if kind.opt_in_only_method or (kind is clusters.K8sCluster and "JOB_COMPLETION_INDEX" not in os.environ):
            continue  # a pod outside an indexed job is an ordinary process and has no permission to ask for a job
        try:
            if not kind.is_env_present():
                continue
        except OSError:  # a TPU without a metadata server, as in a notebook service, is not part of a pod
            continue
        try:
            count = kind.get_process_count()
            if count == 1:
                return None
            address = kind.get_coordinator_address(
                timeout_secs=int(timeout), override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT")
            )
            return address, count, kind.get_process_id()
        # Errors of the metadata server or of Kubernetes; no other source is left to ask.
        except (RuntimeError, ValueError, KeyError, IndexError, OSError) as error:
            raise UserError(
                f"this is part of a cluster ({kind.name or kind.__name__}), but it does not say where the other "
                f"processes are: {error}. Give --coordinator, --num_processes and --process_id, or --num_processes=1 "
                "for a run of this process alone."
            ) from error
    return None


def _end_by_watch(ending: Ending | None) -> None:
    """Ends this process because of another one; called in the watch's thread."""
    assert _run is not None
    _run.is_ending = True
    rest = _run.resume_words()
    if ending is None:
        leave_at_once(EXIT_LOST, f"{_coordinator_lost(_run)} {rest}".rstrip())
    if ending.lost and ending.process == 0:  # and nothing can be said to it any more
        leave_at_once(EXIT_LOST, f"process 0, the coordinator at {_run.coordinator}, {ending.text}. {rest}".rstrip())
    who = f"process {ending.process} ({ending.host})"
    if ending.lost:
        pause = _own_pause(_run)  # who was stopped finds that the others have gone
        rest = f"{pause[:1].upper()}{pause[1:]} {rest}".lstrip()
        _farewell(EXIT_LOST, f"{who} {ending.text}. {rest}".rstrip(), without=ending.process)
    did = "failed" if ending.code == EXIT_LOST else "stopped the run"
    rest = rest if ending.code == EXIT_LOST else ""
    _farewell(ending.code, f"{who} {did}: {ending.text.rstrip('.')}. {rest}".rstrip())


def _fail(code: int, text: str, told: str) -> NoReturn:
    """Prints `told`, sends `text` to the other processes, and exits."""
    assert _run is not None
    _run.watch.stop()
    say(told)
    try:
        others = code if code in (EXIT_USER_MISTAKE, EXIT_INTERRUPTED) else EXIT_LOST
        _run.watch.tell(Ending(_run.process, _run.host, others, text))
    except UnreachableError:
        leave_at_once(code)
    _farewell(code)


def _farewell(code: int, text: str = "", *, without: int | None = None) -> NoReturn:
    """Exits; process 0 first waits some seconds for the others to leave, as they would abort when its store is gone."""
    assert _run is not None
    if text:
        say(text)
    try:
        _run.watch.leave()
        deadline = time.monotonic() + _FAREWELL_SECONDS
        expected = set(range(_run.count)) - {without}
        while _run.process == 0 and time.monotonic() < deadline and not expected <= _run.watch.left():
            time.sleep(0.1)
    except UnreachableError:
        pass
    leave_at_once(code)


def _coordinator_lost(run: _Run) -> str:
    """Says why process 0 cannot be reached; that may be due to this process, which the others have given up."""
    if pause := _own_pause(run):
        return f"{pause} The others end without it after {run.silence:g} s."
    address = run.coordinator
    return f"process 0, the coordinator at {address}, is gone: it was killed, or its machine or the network failed."


def _own_pause(run: _Run) -> str:
    """Says that this process stood still for about as long as others take to give it up; empty where it did not.

    By the clock, while the watches count ticks: it explains an end, and causes none.
    """
    pause = run.watch.longest_pause()
    if pause <= max(run.silence - TICK_SECONDS, 2 * TICK_SECONDS):
        return ""
    me = f"this process, {run.process} ({run.host}),"
    return f"{me} stood still for {pause:.0f} s: it was stopped, or its machine was."


def _hook_abort(address: str, process: int, count: int) -> None:
    """Prints in words why the coordination service's client ends the process.

    When process 0 is gone the client calls abort() in C++ at once, after its own stack trace; its hook for a Python
    function does not work (jaxlib 0.10.2: std::bad_cast). SIGABRT is therefore caught in C: a handler of Python's would
    never run. An abort for another reason goes on to the handler that was installed before.
    """
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    before: list[int | None] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def said(number: int) -> None:
        del number
        if _run is None:
            leave_at_once(
                EXIT_USER_MISTAKE,
                f"error: process {process} of {count} could not join the run at {address}; the lines above say why. "
                "Does another process have the same --process_id, or another --num_processes?",
            )
        if not_reached(address) or _own_pause(_run):
            leave_at_once(EXIT_LOST, f"{_coordinator_lost(_run)} {_run.resume_words()}".rstrip())
        library.signal(signal.SIGABRT, before[0])
        getattr(library, "raise")(signal.SIGABRT)

    _hook_abort.kept = said  # pyright: ignore[reportFunctionMemberAccess]  (C keeps no reference)
    before.append(library.signal(signal.SIGABRT, ctypes.cast(said, ctypes.c_void_p)))


def _may_be_of_another(error: BaseException | None) -> bool:
    """Returns whether a collective may have raised an error because another process is gone.

    XLA raises JaxRuntimeError or, by the code of a status (gloo's is UNKNOWN), ValueError; Orbax wraps both.
    """
    while error is not None:
        if isinstance(error, UnreachableError) or str(error).startswith(_STATUS_OF_ANOTHER):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
