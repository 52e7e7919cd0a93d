#!/usr/bin/env python3
"""Runs the workers of one search on this machine: launch/workers.py --workers=4 --gpus=0,1,2,3 -- FLAGS OF THE SEARCH.

Each worker is the command `python -m jaxfm.search` with what follows --, a process with devices of its own: the GPUs of
--gpus divided among them, or without --gpus --devices of the CPU. They share the trials (docs/search.md). A worker that
is killed or crashes is started again, at most --crashes times, while the others go on; its trial is gone on with by
whoever is free. SIGTERM and Ctrl-C are passed on: all save, and the same command goes on later.

The output of worker 0 is shown as it comes; that of all is kept with --logs=DIR. Exit code: 0 when the search is done,
2 for a mistake in this command or in the search's, 75 when all were stopped after saving, else that of the worker that
crashed once too often. Standard library only.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import local  # pyright: ignore[reportMissingImports]  # beside this script, and so on its path

TERMINATED = 143  # a search that got SIGTERM where there was nothing to save
STOP_SECONDS = 120.0


@dataclasses.dataclass
class Worker:
    """A worker, and how often it has crashed."""

    number: int
    environment: Mapping[str, str]
    log: IO[str]
    process: Any = None
    crashes: int = 0

    def start(self, command: Sequence[str]) -> None:
        """Starts it, or starts it again."""
        self.process = local.Process(self.number, command, self.environment, self.log)

    @property
    def status(self) -> int | None:
        """How its process ended; None while it runs."""
        return self.process.child.poll()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line; `search` holds what follows --. Raises local.MistakeError."""
    own, search = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, search = own[:at], own[at + 1 :]
    parser = local.make_parser(
        "launch/workers.py",
        "Runs the workers of one search on this machine.",
        "launch/workers.py --workers=N [options] -- --config=FILE --space=FILE --workdir=DIR [more of jaxfm.search]",
    )
    parser.add_argument("--workers", type=int, required=True, help="how many workers")
    parser.add_argument("--gpus", default="", help="numbers of GPUs, as 0,1,2,3; divided evenly among the workers")
    parser.add_argument("--devices", type=int, default=1, help="without --gpus: CPU devices of each (default: 1)")
    parser.add_argument("--crashes", type=int, default=3, help="how often to start a worker again (default: 3)")
    parser.add_argument("--logs", type=pathlib.Path, help="a directory for each worker's output")
    parser.add_argument("--python", default=sys.executable, help="the interpreter (default: the one that runs this)")
    parser.add_argument("--program", default="jaxfm.search", help="the module to run (default: jaxfm.search)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, quoted for a shell; run nothing")
    options = parser.parse_args(own)
    for name, least in (("workers", 1), ("devices", 1), ("crashes", 0)):
        if getattr(options, name) < least:
            raise local.MistakeError(f"--{name}={getattr(options, name)}: must be at least {least}")
    if options.gpus and not re.fullmatch(r"[0-9]+(,[0-9]+)*", options.gpus):
        raise local.MistakeError(f"--gpus={options.gpus}: must be numbers of GPUs, as 0,1,2,3")
    options.gpus = options.gpus.split(",") if options.gpus else []
    if len(set(options.gpus)) < len(options.gpus):
        raise local.MistakeError(f"--gpus={','.join(options.gpus)}: names one twice")
    if options.gpus and len(options.gpus) % options.workers:
        raise local.MistakeError(
            f"--gpus={','.join(options.gpus)}: {len(options.gpus)} GPUs cannot be divided among {options.workers} "
            "workers"
        )
    if not search:
        raise local.MistakeError("nothing to run: give the flags of the search after --")
    options.search = search
    return options


def environments(options: argparse.Namespace) -> list[dict[str, str]]:
    """Returns the environment variables that each worker gets beside those of this process."""
    if options.gpus:
        each = len(options.gpus) // options.workers
        shares = [options.gpus[number * each : (number + 1) * each] for number in range(options.workers)]
        devices = [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
    else:
        cpu = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(options.devices)}
        devices = [dict(cpu) for _ in range(options.workers)]
    return [each | {"PYTHONUNBUFFERED": "1"} for each in devices]


def command_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Returns the command of every worker."""
    return (options.python, "-m", options.program, *options.search)


class Workers:
    """Starts the workers of a search, starts those again that crash, and waits for all."""

    def __init__(self, command: Sequence[str], crashes: int, say: Callable[[str], None]):
        """`say` prints this launcher's own messages."""
        self._command, self._crashes, self._say = command, crashes, say
        self.received: int | None = None

    def note(self, number: int, frame: object) -> None:
        """Handler of SIGINT and SIGTERM."""
        del frame
        self.received = number

    def run(self, workers: Sequence[Worker]) -> int:
        """Runs them; returns the code to exit with."""
        try:
            for worker in workers:
                worker.start(self._command)
            return self._wait(workers)
        finally:
            for worker in workers:
                if worker.process is not None:
                    if worker.status is None:
                        worker.process.child.kill()
                    worker.process.child.wait()
                    worker.process.finish()

    def _wait(self, workers: Sequence[Worker]) -> int:
        given_up = 0
        while True:
            if self.received is not None:
                return self._stop(workers, self.received)
            for worker in workers:
                status = worker.status
                if status in (None, 0):
                    continue
                code = local.code_of(status)
                if code == local.USER_MISTAKE:  # the same for all of them
                    self._say(f"worker {worker.number} ended with exit code {code}; ending the others")
                    self._show(worker)
                    self._stop(workers, signal.SIGTERM)
                    return code
                if worker.crashes >= self._crashes:
                    given_up = given_up or code
                    continue
                worker.crashes += 1
                words = local.words_of(status)
                self._say(f"worker {worker.number} {words}; starting it again ({worker.crashes} of {self._crashes})")
                worker.process.finish()
                worker.start(self._command)
            if all(worker.status is not None for worker in workers):
                # One that came to the end knows that no trial is left, whatever happened to the others.
                return 0 if any(worker.status == 0 for worker in workers) else given_up
            time.sleep(0.05)

    def _stop(self, workers: Sequence[Worker], number: int) -> int:
        self._say(f"passing {signal.Signals(number).name} on to all workers")
        running = [worker for worker in workers if worker.status is None]
        for worker in running:
            worker.process.child.send_signal(number)
        deadline, self.received = time.monotonic() + STOP_SECONDS, None
        while time.monotonic() < deadline and any(worker.status is None for worker in running):
            if self.received is not None:  # asked a second time: do not wait
                break
            time.sleep(0.05)
        codes = {local.code_of(-signal.SIGKILL if w.status is None else w.status) for w in running}
        if codes <= {0, local.PREEMPTED, TERMINATED}:
            return local.PREEMPTED if codes - {0} else 0
        return max(codes)

    def _show(self, worker: Worker) -> None:
        """Prints the end of what a worker has said, where it was not shown."""
        worker.process.finish()
        if worker.number:
            for line in worker.process.tail:
                sys.stderr.write(f"[{worker.number}] {line}")
            sys.stderr.flush()


def main(arguments: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""

    def say(text: str) -> None:
        sys.stderr.write(f"workers.py: {text}\n")
        sys.stderr.flush()

    try:
        options = parse(arguments)
    except local.MistakeError as error:
        say(f"{error}\nRun launch/workers.py --help for the usage.")
        return local.USER_MISTAKE
    command = command_of(options)
    if options.dry_run:
        for environment in environments(options):
            variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
            print(f"{variables} {shlex.join(command)} &")
        print("wait")
        return 0
    launcher = Workers(command, options.crashes, say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, launcher.note)
    with contextlib.ExitStack() as held:
        folder = held.enter_context(local.log_folder(options.logs))
        workers = []
        for number, environment in enumerate(environments(options)):
            log = held.enter_context(open(folder / f"worker{number}.log", "a", encoding="utf-8"))
            workers.append(Worker(number, environment, log))
        return launcher.run(workers)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
