"""Work on a stream, on several processes, with the results in the order of the stream and bounded read-ahead."""

import collections
import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from jaxfm.errors import UserError


class OrderedPool:
    """Context manager over processes that each hold one worker object.

    Args:
      build: makes the worker; can be pickled, and is called at the first use in each process.
      processes: with 1, all is done in this process when its result is asked for.

    On leaving, work that was begun is brought to its end, the rest is cancelled.
    """

    def __init__(self, build: Callable[[], Any], processes: int) -> None:
        assert processes > 0
        self._build = build
        self._processes = processes
        self._local: Any = None
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._processes > 1:
            # Spawned, not forked: tokenizers, array_record and the caller's JAX have threads, which a fork would break.
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._processes, multiprocessing.get_context("spawn"), _start, (self._build,)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, method: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yields worker.method(item) of each item in order, reading at most processes + 1 items ahead.

        Raises what the worker raises, and UserError when a process was killed.
        """
        if self._pool is None:
            self._local = self._build() if self._local is None else self._local
            yield from map(getattr(self._local, method), items)
            return
        pending: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
        try:
            for item in items:
                pending.append(self._pool.submit(_call, method, item))
                if len(pending) > self._processes + 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for want of memory: take fewer --workers or a smaller "
                "--shard_megabytes. Finished shards are kept: the same command continues with the others."
            ) from error


_worker: Any = None
_builder: Callable[[], Any] | None = None


def _start(build: Callable[[], Any]) -> None:
    global _builder
    _builder = build
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the main process decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's processes outlive a main process that is killed with -9, waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(method: str, item: Any) -> Any:
    # Built here, not in the initializer: an exception in the initializer would only break the pool.
    global _worker
    if _worker is None:
        assert _builder is not None
        _worker = _builder()
    return getattr(_worker, method)(item)
