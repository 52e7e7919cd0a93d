import os
import signal
import subprocess
import sys
import time

import pytest

from jaxfm.data.corpora.ordered import OrderedPool
from jaxfm.errors import UserError


class Worker:
    """Answers out of order when it can; `number` items were seen by this very object."""

    def __init__(self) -> None:
        self.number = 0

    def square(self, value: int) -> tuple[int, int, int]:
        self.number += 1
        time.sleep(0.01 * (value % 3))
        return value * value, os.getpid(), self.number

    def fail(self, value: int) -> int:
        if value == 3:
            raise UserError("value: is 3")
        return value

    def die(self, value: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return value


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_from_lasting_workers(processes: int) -> None:
    with OrderedPool(Worker, processes) as pool:
        results = list(pool.map("square", range(20)))
        again = list(pool.map("square", range(2)))
    assert [square for square, _, _ in results] == [value * value for value in range(20)]
    where = {process for _, process, _ in results}
    assert (os.getpid() in where) == (processes == 1)
    assert sum(number == 1 for _, _, number in results) == len(where)  # built once in each process
    assert all(number > 1 for _, _, number in again if processes == 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_no_more_is_read_than_the_workers_need(processes: int) -> None:
    read = []

    def items():
        for value in range(50):
            read.append(value)
            yield value

    with OrderedPool(Worker, processes) as pool:
        for done, _ in enumerate(pool.map("square", items()), 1):
            assert len(read) <= done + (0 if processes == 1 else processes + 1)


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_worker_raises_is_raised(processes: int) -> None:
    seen = []
    with pytest.raises(UserError, match="value: is 3"), OrderedPool(Worker, processes) as pool:
        seen.extend(pool.map("fail", range(10)))
    with pytest.raises(ZeroDivisionError), OrderedPool(Worker, processes) as pool:
        list(pool.map("fail", (1 // value for value in (1, 0))))


def test_a_worker_that_is_killed_is_said_so() -> None:
    with pytest.raises(UserError, match="worker process was killed.*--workers"), OrderedPool(Worker, 2) as pool:
        list(pool.map("die", range(4)))


def test_workers_end_with_a_main_process_that_is_killed() -> None:
    code = (
        "import sys; from jaxfm.data.corpora.ordered import OrderedPool\n"
        "from tests.data.corpora.test_ordered import Worker\n"
        "if __name__ == '__main__':\n"
        "    with OrderedPool(Worker, 2) as pool:\n"
        "        print(*{process for _, process, _ in pool.map('square', range(30))}, flush=True)\n"
        "        sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as main:
        assert main.stdout is not None
        workers = [int(word) for word in main.stdout.readline().split()]
        assert workers and all(alive(worker) for worker in workers)
        main.kill()
        deadline = time.monotonic() + 30
        while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(worker) for worker in workers)


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
