"""Requests that wait for a model, computed together: as many as are there when the model is free."""

import collections
import concurrent.futures
import dataclasses
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError
from jaxfm.serving.measures import Measures
from jaxfm.serving.served import Limits, Served

Records = Sequence[Mapping[str, Any]]
Answer = concurrent.futures.Future[list[dict[str, Any]]]
_log = logging.getLogger(__name__)
_SMOOTHING = 0.2  # share of the newest portion in the mean speed
_FIRST_SPEED = 50.0  # inputs a second, before anything was measured


class BusyError(Exception):
    """The queue is full.

    Attributes:
      seconds: after which there should be room, at the speed of the last portions.
    """

    def __init__(self, seconds: float):
        super().__init__(f"the queue is full; try again in {seconds:.0f} s")
        self.seconds = seconds


class StoppingError(Exception):
    """The server takes no more requests."""


class ExpiredError(Exception):
    """A request waited longer than its deadline."""


class InputError(Exception):
    """A request that the model cannot read, with the user's message."""


@dataclasses.dataclass(frozen=True)
class _Waiting:
    records: Records
    answer: Answer
    since: float
    until: float


class Batcher:
    """A thread that computes what waits in a queue: requests in order, up to `limits.batch_inputs` inputs at once.

    A portion is what is there when the thread is free. Where the one before was of several requests, more are likely to
    come, and up to `limits.wait` seconds are waited for them. So a lonely client is answered at once, and under load
    rows are full without a setting.
    """

    def __init__(self, name: str, model: Served, limits: Limits, measures: Measures):
        """Starts the thread; `name` is what measures and logs call the model."""
        self._name, self._model, self._limits, self._measures = name, model, limits, measures
        self._queue: collections.deque[_Waiting] = collections.deque()
        self._inputs = 0  # that wait
        self._together = 0  # requests of the last portion
        self._speed = _FIRST_SPEED
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"jaxfm serves {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Inputs that wait."""
        return self._inputs

    def submit(self, records: Records) -> Answer:
        """Puts a request into the queue; its answer is results, or ExpiredError, InputError, or what the model raised.

        Raises:
          BusyError: there is no room for so many inputs.
          StoppingError: after `close`.
        """
        now = time.monotonic()
        with self._changed:
            if self._closed:
                raise StoppingError
            if self._inputs and self._inputs + len(records) > self._limits.queue:
                raise BusyError(max(1.0, self._inputs / self._speed))
            answer: Answer = concurrent.futures.Future()
            self._queue.append(_Waiting(records, answer, now, now + self._limits.deadline))
            self._count(len(records))
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Takes no more requests, and returns when those that wait are answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _count(self, change: int) -> None:
        self._inputs += change
        self._measures.queue(self._name, self._inputs)

    def _take(self) -> list[_Waiting]:
        """Waits for requests; returns those of the next portion, none when closed and empty."""
        limit = self._limits.batch_inputs
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if self._queue and not self._closed and self._together > 1:
                end = self._queue[0].since + self._limits.wait
                self._changed.wait_for(lambda: self._inputs >= limit or self._closed, max(0.0, end - time.monotonic()))
            portion: list[_Waiting] = []
            count = 0
            while self._queue and (not portion or count + len(self._queue[0].records) <= limit):
                portion.append(self._queue.popleft())
                count += len(portion[-1].records)
            self._count(-count)
            self._together = len(portion)
            return portion

    def _work(self) -> None:
        while portion := self._take():
            now = time.monotonic()
            # A request that was given up (its client has gone) is not computed either.
            asked = [each for each in portion if each.answer.set_running_or_notify_cancel()]
            for each in asked:
                if now > each.until:
                    each.answer.set_exception(ExpiredError())
            self._compute([each for each in asked if now <= each.until])

    def _compute(self, portion: Sequence[_Waiting]) -> None:
        if not portion:
            return
        begun, before = time.monotonic(), self._model.units
        try:
            found = self._model.answer_all([each.records for each in portion])
        except Exception as error:
            if len(portion) > 1:  # one request must not spoil the others
                for each in portion:
                    self._compute([each])
                return
            if not isinstance(error, UserError):
                _log.exception("%s: a request of %d inputs failed", self._name, len(portion[0].records))
            portion[0].answer.set_exception(InputError(str(error)) if isinstance(error, UserError) else error)
            return
        seconds, count = time.monotonic() - begun, sum(len(each.records) for each in portion)
        self._speed += _SMOOTHING * (count / max(seconds, 1e-6) - self._speed)
        after = self._model.units
        self._measures.portion(
            self._name, count, seconds, after.computed - before.computed, after.useful - before.useful
        )
        for each, results in zip(portion, found, strict=True):
            each.answer.set_result(results)
