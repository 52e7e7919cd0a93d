"""How far the host is ahead when a run is asked to stop, on devices whose time is made up."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.training.run_ahead import MOST_SECONDS, DispatchAhead


@dataclasses.dataclass
class Device:
    """A device that takes `seconds` an update, and a host that takes `host` to dispatch one."""

    seconds: float
    host: float = 0.0
    now: float = 0.0
    free_at: float = 0.0

    def dispatch(self) -> None:
        self.now += self.host
        self.free_at = max(self.free_at, self.now) + self.seconds

    def copy(self, _: Any) -> "Mark":
        return Mark(self, self.free_at)


@dataclasses.dataclass
class Mark:
    device: Device
    done_at: float

    def block_until_ready(self) -> "Mark":
        self.device.now = max(self.device.now, self.done_at)
        return self


@pytest.mark.parametrize("seconds", [0.0005, 0.01, 0.1, 0.4, 1.0, 20.0])
def test_the_devices_are_kept_busy_and_a_signal_waits_for_a_moment_or_two_updates(seconds: float) -> None:
    device = Device(seconds, host=min(seconds / 10, 0.002))
    ahead = DispatchAhead(device.copy, lambda: device.now)
    longest = 0.0
    for step in range(1, 2001):
        device.dispatch()
        ahead.after(step, None)
        longest = max(longest, device.free_at - device.now)
    assert longest <= max(2.01 * seconds, 1.5 * MOST_SECONDS)
    # Never idle but for the first dispatch.
    assert device.free_at == pytest.approx(2000 * seconds + device.host)
    if seconds <= 0.01:
        assert ahead.stride >= 8  # so that copies cost nothing


def test_a_long_pause_does_not_let_it_run_away() -> None:
    device = Device(1.0)
    ahead = DispatchAhead(device.copy, lambda: device.now)
    for step in range(1, 100):
        device.dispatch()
        ahead.after(step, None)
        if step % 10 == 0:  # an evaluation: all updates are done, and time goes by
            device.now = device.free_at = device.free_at + 60.0
        assert device.free_at - device.now <= 2.0


def test_on_a_real_device_updates_are_not_dispatched_long_before_they_are_done() -> None:
    def slowly(step: np.ndarray) -> np.ndarray:
        time.sleep(0.3)
        done.append(time.monotonic())
        return step + np.int32(1)

    @jax.jit
    def update(step: jax.Array) -> jax.Array:
        return jax.pure_callback(slowly, jax.ShapeDtypeStruct((), jnp.int32), step)

    done: list[float] = []
    ahead, step = DispatchAhead(), jnp.int32(0)
    for number in range(1, 6):
        step = update(step)
        ahead.after(number, step)
        assert number - len(done) <= 2
    assert int(step) == 5
