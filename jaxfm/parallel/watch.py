"""A thread in every process of a run that notices when another process fails, is lost, or is asked to stop."""

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxfm.parallel.preemption import SharedStop

# Seconds between two checks of a watch; longer in large runs, so that process 0 gets at most so many a second.
TICK_SECONDS, WATCHES_A_SECOND = 1.0, 300
# Used while processes agree on a step to stop after, as their main threads wait for the watches then.
FAST_TICK_SECONDS = 0.1


class UnreachableError(Exception):
    """The coordination service, which is part of process 0, does not answer."""


class Store(Protocol):
    """The coordination service's key-value store. Every method raises UnreachableError when it does not answer."""

    def set(self, key: str, value: str) -> None:
        """Sets a key, overwriting its value if it exists."""
        ...

    def set_first(self, key: str, value: str) -> None:
        """Sets a key unless it exists."""
        ...

    def wait_for(self, key: str, seconds: float) -> str | None:
        """Returns a key's value as soon as it exists; None if it does not within `seconds`."""
        ...

    def under(self, prefix: str) -> dict[str, str]:
        """Returns the keys that start with `prefix`, with the prefix removed, and their values."""
        ...


@dataclasses.dataclass(frozen=True)
class Ending:
    """Why a run ends for all its processes.

    Attributes:
      process: the process that failed, stopped or was lost.
      host: its machine.
      code: the exit code of the other processes.
      text: the reason, one message.
      lost: the process fell silent without a message of its own.
    """

    process: int
    host: str
    code: int
    text: str
    lost: bool = False


class Watch:
    """Sends the heartbeat of its process, and calls `end` once when another process has failed or fallen silent.

    A killed process cannot report its end, and collectives over TPU and GPU links then wait for ever rather than fail.
    Each process therefore increments a counter in the store about every second, and process 0 checks all counters. A
    lost process, like the message of a failing one, is written to the store under "end/". Silence is counted in ticks
    of process 0's own watch, so that no process counts as lost after the whole machine was suspended.

    A killed process 0 is noticed at once, as connections to it break. One that was stopped keeps them open, and calls
    to its store never return: a second thread of each other process counts ticks in which the first one is stuck.
    """

    def __init__(self, store: Store, process: int, count: int, host: str, *, silence: float, stop: SharedStop):
        """`silence`: seconds without a heartbeat after which a process counts as lost."""
        self._store, self._process, self._count, self._stop = store, process, count, stop
        self._tick = max(TICK_SECONDS, count / WATCHES_A_SECOND)
        self._allowed = max(math.ceil(silence / self._tick), 2)
        self._beats = 0
        self.status: Callable[[], str] = str  # what this process does, in words; sent with each heartbeat
        self._seen: dict[str, tuple[str, int]] = {}  # process -> last counter, ticks since it changed
        self._beat_at, self._longest = time.monotonic(), 0.0
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        store.set(f"host/{process}", host)

    def start(self, end: Callable[[Ending | None], None]) -> None:
        """Starts the threads, which call `end` with the ending, or with None when process 0 cannot be reached."""
        self._threads = [threading.Thread(target=self._run, args=(end,), name="watch", daemon=True)]
        if self._process != 0:
            self._threads.append(
                threading.Thread(target=self._await_answers, args=(end,), name="watch of process 0", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads; what other processes do afterwards is ignored."""
        self._over.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def tell(self, ending: Ending) -> None:
        """Publishes an ending for all processes."""
        self._store.set_first(f"end/{ending.process}", json.dumps(dataclasses.asdict(ending)))

    def leave(self) -> None:
        """Publishes that this process is done."""
        self._store.set(f"left/{self._process}", "")

    def left(self) -> set[int]:
        """Returns the processes that have left."""
        return {int(process) for process in self._store.under("left/")}

    def hosts(self) -> Mapping[int, str]:
        """Returns process -> host name, of the processes that have published it."""
        return {int(process): host for process, host in self._store.under("host/").items()}

    def longest_pause(self) -> float:
        """Returns the most seconds between two heartbeats of this process, or since the last: was it stopped itself?"""
        return max(self._longest, time.monotonic() - self._beat_at)

    def statuses(self) -> Mapping[int, str]:
        """Returns process -> what it said with its last heartbeat, of the processes that have said anything."""
        beats = {int(process): beat.partition(" ")[2] for process, beat in self._store.under("beat/").items()}
        return {process: status for process, status in sorted(beats.items()) if status}

    def tick(self) -> Ending | None:
        """Runs one check, as the thread does every second; returns the ending of the run, if there is one."""
        now = time.monotonic()
        self._longest, self._beat_at = max(self._longest, now - self._beat_at), now
        self._beats += 1
        self._store.set(f"beat/{self._process}", f"{self._beats} {self.status()}")
        if self._process == 0:
            self._look_for_the_lost()
        endings = [Ending(**json.loads(value)) for value in self._store.under("end/").values()]
        others = [ending for ending in endings if ending.process != self._process]
        # A process with a message explains more than those that fell silent because of it.
        return min(others, key=lambda ending: (ending.lost, ending.process), default=None)

    def _run(self, end: Callable[[Ending | None], None]) -> None:
        waited = 0.0
        while not self._over.wait(pause := FAST_TICK_SECONDS if self._stop.is_settling else self._tick):
            waited += pause
            try:
                if waited >= self._tick:
                    waited = 0.0
                    ending = self.tick()
                    if ending is not None and not self._over.is_set():
                        return end(ending)
                self._stop.settle(self._store, self._process, self._count)
            except UnreachableError:
                if not self._over.is_set():
                    return end(None)

    def _await_answers(self, end: Callable[[Ending | None], None]) -> None:
        seen, silent = self._beats, 0
        while not self._over.wait(self._tick):
            silent = silent + 1 if self._beats == seen else 0
            seen = self._beats
            if silent >= max(self._allowed, 3):  # at least three, as the first thread may just have asked
                text = f"has not answered for {self._allowed * self._tick:g} s: it was stopped, or its machine hangs"
                return end(Ending(0, "", 0, text, lost=True))

    def _look_for_the_lost(self) -> None:
        left = {str(process) for process in self.left()}
        beats = self._store.under("beat/")
        for process in map(str, range(1, self._count)):
            beat = beats.get(process, "")
            known, silent = self._seen.get(process, ("", 0))
            self._seen[process] = (beat, silent + 1 if beat == known else 0)
            if self._seen[process][1] >= self._allowed and process not in left:
                seconds = self._allowed * self._tick
                text = f"has not been heard of for {seconds:g} s: it was killed or stopped, or its machine is gone"
                host = self.hosts().get(int(process), "host unknown")
                self.tell(Ending(int(process), host, 0, text, lost=True))


def differences(values: Mapping[int, Mapping[str, Any]], hosts: Mapping[int, str]) -> list[str]:
    """Returns a clause for each fact that is not the same on all processes, naming the processes that differ.

    Args:
      values: process -> fact -> JSON value.
      hosts: process -> host name.

    The most frequent value counts as the usual one; among equally frequent values, that of the lowest process.
    """
    facts = list(dict.fromkeys(fact for own in values.values() for fact in own))
    found = []
    for fact in facts:
        by_value: dict[str, list[int]] = {}
        for process in sorted(values):
            by_value.setdefault(json.dumps(values[process].get(fact)), []).append(process)
        if len(by_value) > 1:
            usual, *others = sorted(by_value.items(), key=lambda item: (-len(item[1]), item[1]))
            clauses = [f"{value} on {_named(processes, hosts)}" for value, processes in others]
            found.append(f"{fact} is {'; '.join(clauses)}, but {usual[0]} on {_named(usual[1], hosts)}")
    return found


def _named(processes: list[int], hosts: Mapping[int, str]) -> str:
    names = [f"process {process} ({hosts.get(process, 'host unknown')})" for process in processes[:3]]
    return ", ".join(names) + (f" and {len(processes) - 3} more" if len(processes) > 3 else "")
