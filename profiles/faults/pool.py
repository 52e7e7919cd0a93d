"""Processes that share the inputs of a fuzz: each may die of one, is then replaced, and the input counts as a find."""

import collections
import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import time
from collections.abc import Iterator, Mapping
from typing import Any

from profiles.faults import trial
from profiles.faults.readers import MODULES, Reader, table

_CHUNK_SECONDS = 2.0
_HANG_SECONDS = 120.0
"""Of the clock, after which a process that no signal reaches counts as hanging."""
_HEADROOM = 6 << 30  # bytes of memory above what a process has when it begins


@dataclasses.dataclass
class Tally:
    """What came of a reader's inputs."""

    reader: str = ""
    inputs: int = 0
    read: int = 0
    told: int = 0
    seconds: float = 0.0
    finds: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    details: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, number: int, outcome: trial.Outcome) -> None:
        """Counts one input."""
        self.inputs += 1
        self.read += outcome.kind == "read"
        self.told += outcome.kind == "told"
        if outcome.kind == "find":
            self.finds.setdefault(outcome.signature, []).append(number)
            self.details.setdefault(outcome.signature, outcome.detail)

    def update(self, other: "Tally") -> None:
        """Adds what another tally counted."""
        for name in ("inputs", "read", "told", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for signature, numbers in other.finds.items():
            self.finds.setdefault(signature, []).extend(numbers)
        self.details = other.details | self.details

    @property
    def found(self) -> int:
        """Number of finds."""
        return sum(map(len, self.finds.values()))


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Inputs `start` to `stop` - 1 of a reader."""

    reader: str
    start: int
    stop: int


def fuzz_chunk(reader: Reader, folder: pathlib.Path, seed: int, chunk: Chunk, mark: Any = None) -> Tally:
    """Gives a chunk's inputs to a reader; `mark[0]` is the number of the one under way."""
    tally, begun = Tally(reader.name), time.process_time()
    trial.forget_peak()
    for number in range(chunk.start, chunk.stop):
        if mark is not None:
            mark[0] = number
        outcome = trial.attempt(reader, folder, trial.input_of(reader, seed, number))
        tally.add(number, outcome)
        if outcome.signature == "memory":
            trial.forget_peak()
    tally.seconds = time.process_time() - begun
    return tally


def _work(connection: Any, seed: int, root: str, mark: Any, modules: tuple[str, ...]) -> None:
    """Works on what the connection brings, until that is None: (what to do, arguments)."""
    _go_quiet(pathlib.Path(root, f"{os.getpid()}.log"))
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _HEADROOM, resource.RLIM_INFINITY))
    folders: dict[str, pathlib.Path] = {}
    while (task := connection.recv()) is not None:
        chunk, data, signature = task
        reader = table(modules)[chunk.reader]
        if reader.name not in folders:
            folders[reader.name] = pathlib.Path(root, str(os.getpid()), reader.name, "input")
            trial.prepare(reader, folders[reader.name])
            trial.attempt(reader, folders[reader.name], reader.seeds()[0])  # imports what it needs
        if data is None:
            result: Any = fuzz_chunk(reader, folders[reader.name], seed, chunk, mark)
        else:
            result = trial.minimized(reader, folders[reader.name], data, signature)
        connection.send((result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def _go_quiet(path: pathlib.Path) -> None:
    """Sends what readers and libraries print to a file."""
    logging.disable(logging.CRITICAL)
    with path.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)


class _Worker:
    """A process that works on a chunk at a time, and may die of it."""

    def __init__(self, seed: int, root: pathlib.Path, modules: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.mark = context.Array("q", 1, lock=False)
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, seed, str(root), self.mark, modules), daemon=True)
        self.process.start()
        other.close()
        self.chunk: Chunk | None = None
        self.since = 0.0

    def give(self, chunk: Chunk, data: bytes | None = None, signature: str = "") -> None:
        """Starts work on a chunk, or (with `data`) on making a find shorter."""
        self.chunk, self.since = chunk, time.monotonic()
        self.connection.send((chunk, data, signature))

    def end(self) -> None:
        """Ends the process, whatever it does."""
        if self.process.is_alive() and self.chunk is None:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self.process.join(10)
        self.process.kill()
        self.process.join()


class Fuzz:
    """Several processes that share all inputs."""

    def __init__(self, seed: int, processes: int, root: pathlib.Path, modules: tuple[str, ...] = MODULES) -> None:
        """`root` is where files lie, `modules` have the readers."""
        self._make = functools.partial(_Worker, seed, root, modules)
        self._workers = [self._make() for _ in range(processes)]
        self.tallies: dict[str, Tally] = collections.defaultdict(Tally)
        self.peak = 0.0

    def run(self, counts: Mapping[str, int]) -> Iterator[int]:
        """Gives each reader so many inputs; yields the number done from time to time."""
        waiting = list(counts)
        done = dict.fromkeys(counts, 0)
        again: list[Chunk] = []  # what was left of a chunk whose process died
        while waiting or again or any(worker.chunk for worker in self._workers):
            for worker in [worker for worker in self._workers if worker.chunk is None]:
                if again:
                    worker.give(again.pop())
                elif waiting:
                    name = waiting.pop(0)
                    stop = min(done[name] + self._chunk_size(name), counts[name])
                    worker.give(Chunk(name, done[name], stop))
                    done[name] = stop
                    waiting += [name] * (stop < counts[name])
            for worker in self._ready():
                result = self._result(worker)
                if isinstance(result, Tally):
                    self.tallies[result.reader].update(result)
                    worker.chunk = None
                else:
                    again += self._after_death(worker, result)
            yield sum(tally.inputs for tally in self.tallies.values())

    def shortened(self, name: str, data: bytes, signature: str) -> bytes:
        """Returns a shorter input with the same fault; the input itself where that cannot be had."""
        worker = self._workers[0]
        worker.give(Chunk(name, 0, 0), data, signature)
        while worker not in self._ready():
            pass
        result = self._result(worker)
        worker.chunk = None
        if isinstance(result, bytes):
            return result
        self._replace(worker)
        return data

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers:
            worker.end()

    def _chunk_size(self, name: str) -> int:
        tally = self.tallies[name]
        return max(int(_CHUNK_SECONDS * tally.inputs / tally.seconds), 10) if tally.seconds else 20

    def _ready(self) -> list[_Worker]:
        """Returns the workers that have a result, are dead or hang; waits a second at most."""
        busy = [worker for worker in self._workers if worker.chunk is not None]
        found = multiprocessing.connection.wait(
            [each for worker in busy for each in (worker.connection, worker.process.sentinel)], timeout=1
        )
        late = time.monotonic() - _HANG_SECONDS
        return [
            worker
            for worker in busy
            if worker.connection in found or worker.process.sentinel in found or worker.since < late
        ]

    def _result(self, worker: _Worker) -> Any:
        """Returns what a worker sends, or how it died, in words."""
        try:
            if worker.connection.poll():
                result, peak = worker.connection.recv()
                self.peak = max(self.peak, peak)
                return result
        except (EOFError, OSError):
            pass
        worker.process.join(1)
        return "hangs" if worker.process.is_alive() else f"process ended with {worker.process.exitcode}"

    def _after_death(self, worker: _Worker, how: str) -> list[Chunk]:
        """Counts the input that a worker died of as a find, and replaces the worker; returns what is left to do."""
        chunk, number = worker.chunk, int(worker.mark[0])
        assert chunk is not None
        self._replace(worker)
        if not chunk.start <= number < chunk.stop:  # before its first input
            raise RuntimeError(f"a process could not begin with {chunk.reader}: {how}")
        self.tallies[chunk.reader].add(number, trial.Outcome("find", how, how))
        # Those before it were not counted: they are done again.
        parts = ((chunk.start, number), (number + 1, chunk.stop))
        return [Chunk(chunk.reader, start, stop) for start, stop in parts if start < stop]

    def _replace(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        self._workers[self._workers.index(worker)] = self._make()
