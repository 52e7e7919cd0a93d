"""How far the host may run ahead of the devices: far enough to keep them busy, near enough to stop at once."""

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

import jax

# Steps that are dispatched cannot be taken back: a signal is heard when they are done.
MOST_SECONDS = 1.0
_MOST_STRIDE = 64


class DispatchAhead:
    """Waits now and then for an update that was dispatched earlier, never for the one dispatched last.

    Without it all updates up to the next log line are dispatched in no time, and a run that is asked to stop first
    finishes them. Every `stride` updates a scalar of the state is copied on one device of this process; before the loop
    goes on, the copy before that one must be there. The device then still has an update to do, so it never waits for
    the host. Where updates take milliseconds the stride grows, until about MOST_SECONDS lie between an update's
    dispatch and its end, and the copies cost nothing.
    """

    def __init__(self, copy: Callable[[Any], Any] | None = None, clock: Callable[[], float] = monotonic) -> None:
        """`copy` starts a copy and returns something to wait for; both arguments are for tests."""
        self._copy, self._clock = _copied if copy is None else copy, clock
        self._marks: deque[tuple[float, Any, int]] = deque()  # when it was dispatched, the copy, updates until then
        self.stride, self._next = 1, 0
        self._finished = 0

    def after(self, step: int, scalar: Any) -> int:
        """Tells it that `step` updates are dispatched; `scalar` is a result of the last of them.

        Returns how many are known to be done, 0 before the first wait: never less than `step` by more than two strides.
        """
        if step < self._next:
            return self._finished
        self._next = step + self.stride
        self._marks.append((self._clock(), self._copy(scalar), step))
        if len(self._marks) < 2:
            return self._finished
        dispatched, mark, done = self._marks.popleft()
        jax.block_until_ready(mark)
        self._finished = done
        # At least what a signal would have waited, whatever else (an evaluation, say) took time meanwhile.
        waited = self._clock() - dispatched
        if waited < MOST_SECONDS / 8:
            self.stride = min(2 * self.stride, _MOST_STRIDE)
        elif waited > MOST_SECONDS:
            self.stride = max(self.stride // 2, 1)
        return self._finished


@jax.jit
def _next_number(scalar: jax.Array) -> jax.Array:
    return scalar + 1  # an argument that is returned as it is would not be computed


def _copied(scalar: jax.Array) -> jax.Array:
    # Of this process's first device alone: processes may copy at different steps, which programs over all of their
    # devices must not do.
    return _next_number(scalar.addressable_data(0))
