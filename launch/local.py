#!/usr/bin/env python3
"""Runs a training as several processes on this machine's CPU: launch/local.py --processes=4 --devices=2 -- FLAGS.

What follows -- goes to `python -m jaxfm.train` as it is. The processes find each other, agree, compute and save exactly
as they would on several machines, so this is for trying a multi-host run before it is paid for, and for tests.

Process 0's output is shown as it comes, that of the others when they fail; all of it is kept with --logs=DIR. Exit
code: that of the training, of the process that failed first; 2 for a mistake in this command. Code 75 (stopped by
preemption after a good save) starts the run again, at most --restarts times. Standard library only.
"""

import argparse
import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, NoReturn

PREEMPTED, USER_MISTAKE, OTHER_FAILED = 75, 2, 69
# Seconds in which the processes may end by themselves, with their own messages, once one has ended.
END_SECONDS, KILL_SECONDS = 15.0, 10.0
# Of the output of a process that is shown only when it fails.
TAIL_LINES = 30
# gloo, the library of collectives on CPU, prints messages on connecting that say nothing useful.
CHATTER = "[Gloo] Rank "


class MistakeError(Exception):
    """A user's mistake in the command, as one message."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise MistakeError(message)


def make_parser(name: str, description: str, usage: str) -> argparse.ArgumentParser:
    """Returns a parser that raises MistakeError; options cannot be shortened."""
    return _Parser(prog=name, description=description, usage=usage, allow_abbrev=False)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to run: a command for each process, and environment variables that replace existing ones."""

    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `training` holds what follows --.

    Raises MistakeError.
    """
    own, training = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, training = own[:at], own[at + 1 :]
    parser = make_parser(
        "launch/local.py",
        "Runs a training as several processes on this machine's CPU.",
        "launch/local.py --processes=N [options] -- --config=FILE --workdir=DIR [more flags of jaxfm.train]",
    )
    parser.add_argument("--processes", type=int, required=True, help="how many processes")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each (default: 1)")
    parser.add_argument("--restarts", type=int, default=0, help="how often to start again after code 75 (default: 0)")
    parser.add_argument("--port", type=int, default=0, help="of process 0 (default: a free one)")
    parser.add_argument("--logs", type=pathlib.Path, help="a directory for each process's output")
    parser.add_argument("--python", default=sys.executable, help="the interpreter (default: the one that runs this)")
    parser.add_argument("--program", default="jaxfm.train", help="the module to run (default: jaxfm.train)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands, quoted for a shell, and run nothing"
    )
    options = parser.parse_args(own)
    for name, least in (("processes", 1), ("devices", 1), ("restarts", 0), ("port", 0)):
        if getattr(options, name) < least:
            raise MistakeError(f"--{name}={getattr(options, name)}: must be at least {least}")
    if options.port > 65535:
        raise MistakeError(f"--port={options.port}: must be at most 65535")
    if not training:
        raise MistakeError("nothing to run: give the flags of the training after --")
    for word in training:
        if re.match(r"--(coordinator|num_processes|process_id)\b", word):
            raise MistakeError(f"{word}: is set by this launcher; leave it out")
    options.training = training
    return options


def plan(options: argparse.Namespace, port: int, environment: Mapping[str, str]) -> Plan:
    """Returns the commands of all processes, and the environment variables to set for them."""
    commands = []
    for process in range(options.processes):
        group = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={options.processes}", f"--process_id={process}")
        commands.append((options.python, "-m", options.program, *group, *options.training))
    # Only the variable below sets the number of devices: JAX refuses both.
    flags = re.sub(r"--xla_force_host_platform_device_count=\S*\s*", "", environment.get("XLA_FLAGS", "")).strip()
    # Devices that share few cores may wait for each other longer than the 40 s after which XLA aborts.
    flags = f"--xla_cpu_collective_call_terminate_timeout_seconds=600 {flags}".strip()
    return Plan(
        commands=tuple(commands),
        environment={
            "JAX_PLATFORMS": "cpu",  # several processes cannot share a GPU or TPU
            "JAX_NUM_CPU_DEVICES": str(options.devices),
            "XLA_FLAGS": flags,
            "PYTHONUNBUFFERED": "1",  # what a process says before it is killed is not lost in a buffer
        },
    )


class Process:
    """One process of the run; its output is read in a thread."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], log: IO[str]):
        self.number = number
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._log = log
        # A separate session: Ctrl-C reaches only this launcher, which passes it on, so no process gets it twice.
        self.child = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        with self.child.stdout as output:
            for line in output:
                self._log.write(line)
                self._log.flush()
                if not line.startswith(CHATTER):
                    self.tail.append(line)
                    if self.number == 0:
                        sys.stdout.write(f"[0] {line}")
                        sys.stdout.flush()

    def finish(self) -> None:
        """Waits for the rest of the output of a process that has ended."""
        self._reader.join(timeout=5)


def code_of(status: int) -> int:
    """Returns a process's exit code as shells give it: 128 + the signal for a killed process."""
    return 128 - status if status < 0 else status


def words_of(status: int) -> str:
    """Returns a clause that describes how a process ended."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"


class Launcher:
    """Starts a run's processes, waits for them, and ends them all when one fails."""

    def __init__(self, say: Callable[[str], None]):
        """`say` prints the launcher's own messages."""
        self._say = say
        self.received: int | None = None
        self.stopped = False

    def note(self, number: int, frame: object) -> None:
        """Handler of SIGINT and SIGTERM."""
        del frame
        self.received = number

    def run(self, what: Plan, folder: pathlib.Path) -> int:
        """Runs all processes once and returns the code to exit with; their output goes to files of `folder`."""
        processes: list[Process] = []
        with contextlib.ExitStack() as files:
            try:
                for number, command in enumerate(what.commands):
                    log = files.enter_context(open(folder / f"process{number}.log", "a", encoding="utf-8"))
                    processes.append(Process(number, command, what.environment, log))
                failed = self._wait(processes)
                self._end(processes, asked=failed is None)
            finally:
                for process in processes:  # only what is left after a fault of the launcher's own
                    if process.child.poll() is None:
                        process.child.kill()
                    process.child.wait()
                    process.finish()
        if failed is None or failed.number == 0 or code_of(failed.child.returncode) == PREEMPTED:
            pass
        elif failed.tail:
            self._say(f"the last lines of process {failed.number}:")
            for line in failed.tail:
                sys.stderr.write(f"[{failed.number}] {line}")
            sys.stderr.flush()
        return self._code(processes, failed)

    def _wait(self, processes: Sequence[Process]) -> Process | None:
        """Returns the first process that failed, None when all are done; passes signals on."""
        while True:
            if self.received is not None:
                self._say(f"passing {signal.Signals(self.received).name} on to all processes")
                _signal(processes, self.received)
                received, self.received, self.stopped = self.received, None, True
                self._wait_at_most(processes, 120.0 if received == signal.SIGTERM else 60.0)
                return self._first_failed(processes)
            failed = self._first_failed(processes)
            if failed is not None and failed.child.returncode == OTHER_FAILED:
                # Another process may have failed first and still be writing its traceback.
                self._wait_at_most(processes, END_SECONDS)
                failed = self._first_failed(processes)
            if failed is not None:
                what = words_of(failed.child.returncode)
                if code_of(failed.child.returncode) != PREEMPTED:
                    self._say(f"process {failed.number} {what}; ending the others")
                return failed
            if all(process.child.poll() == 0 for process in processes):
                return None
            time.sleep(0.05)

    def _first_failed(self, processes: Sequence[Process]) -> Process | None:
        ended = [process for process in processes if process.child.poll() not in (None, 0)]
        # Code 69 means that a process ended because of another one.
        return min(ended, key=lambda process: (process.child.returncode == OTHER_FAILED, process.number), default=None)

    def _end(self, processes: Sequence[Process], *, asked: bool) -> None:
        """Waits for processes to end by themselves, then sends SIGTERM, then kills them."""
        if asked and all(process.child.poll() is not None for process in processes):
            return
        for number, seconds in ((None, END_SECONDS), (signal.SIGTERM, KILL_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            if number is not None:
                _signal(processes, number)
            self._wait_at_most(processes, seconds)

    def _wait_at_most(self, processes: Sequence[Process], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(process.child.poll() is None for process in processes):
            if self.received is not None:  # asked a second time: do not wait
                self.received = None
                _signal(processes, signal.SIGKILL)
            time.sleep(0.05)

    def _code(self, processes: Sequence[Process], failed: Process | None) -> int:
        if failed is None:
            return 0
        codes = [code_of(process.child.returncode) for process in processes]
        return PREEMPTED if set(codes) == {PREEMPTED} else code_of(failed.child.returncode)


def _signal(processes: Sequence[Process], number: int) -> None:
    for process in processes:
        if process.child.poll() is None:
            process.child.send_signal(number)


def free_port() -> int:
    """Returns a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def log_folder(asked: pathlib.Path | None) -> Iterator[pathlib.Path]:
    """Yields the folder of the output: the given one, or a temporary one."""
    if asked is not None:
        asked.mkdir(parents=True, exist_ok=True)
        yield asked
        return
    with tempfile.TemporaryDirectory(prefix="jaxfm-local-") as folder:
        yield pathlib.Path(folder)


def dry_run(what: Plan) -> None:
    """Prints the commands in the form that a shell takes."""
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in what.environment.items())
    for command in what.commands:
        print(f"{variables} {shlex.join(command)} &")
    print("wait")


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""

    def say(text: str) -> None:
        sys.stderr.write(f"local.py: {text}\n")
        sys.stderr.flush()

    try:
        options = parse(arguments)
    except MistakeError as error:
        say(f"{error}\nRun launch/local.py --help for the usage.")
        return USER_MISTAKE
    if options.dry_run:
        dry_run(plan(options, options.port or 12345, os.environ))
        return 0
    launcher = Launcher(say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, launcher.note)
    with log_folder(options.logs) as folder:
        for started in range(options.restarts + 1):
            code = launcher.run(plan(options, options.port or free_port(), os.environ), folder)
            if code != PREEMPTED or launcher.stopped or started == options.restarts:
                return code
            say(f"stopped by preemption after a good save; starting again ({started + 1} of {options.restarts})")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
