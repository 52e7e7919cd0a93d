"""A guard against spikes of the gradient norm: an update far above those before is not taken."""

# W window

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.optim_config import OptimConfig

# Spikes in a row after which the level has moved: the guard forgets what it knew and learns the new level.
MOST_IN_A_ROW = 8
# Of the logarithm: norms that differ by less than this are no spread (those of a toy may all be equal).
LEAST_SPREAD = 0.05
# Median absolute deviation times this is the standard deviation of a normal distribution.
_MAD_TO_DEVIATION = 1.4826


@dataclasses.dataclass(frozen=True)
class SpikeGuard:
    """Judges gradient norms by the median and the median absolute deviation (MAD) of the last ones' logarithm.

    Both stand still while less than half of the window is odd, which a mean and a variance do not. Only updates that
    are taken come into the window, so a spike does not widen what counts as usual. A level that moves for good is seen
    as MOST_IN_A_ROW spikes: then the window is emptied, and nothing is judged until half of it is full again.

    Attributes:
      factor: deviations (1.4826 MAD, at least LEAST_SPREAD) above the median from which on a norm is a spike.
      window: norms that are remembered.
    """

    factor: float
    window: int

    @property
    def enough(self) -> int:
        """Norms in the window from which on it judges."""
        return self.window // 2

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the arrays of its state, which begin as zeros.

        log_norms: f32 [W], a ring; count: int32, norms taken in since the window was empty; in_a_row: int32, spikes.
        """
        return {
            "log_norms": jax.ShapeDtypeStruct((self.window,), jnp.float32),
            "count": jax.ShapeDtypeStruct((), jnp.int32),
            "in_a_row": jax.ShapeDtypeStruct((), jnp.int32),
        }

    def judge(self, state: Any, norm: jax.Array, is_finite: jax.Array) -> tuple[jax.Array, Any]:
        """Returns whether a norm is a spike, and the state after it.

        A norm that is not finite changes nothing, nor does one of 0 (a batch without targets): neither says anything of
        the level.
        """
        counts = is_finite & (norm > 0)
        log_norm = jnp.log(jnp.where(counts, norm, 1.0))
        known = jnp.arange(self.window) < state["count"]
        held = jnp.minimum(state["count"], self.window)
        median = _median(jnp.where(known, state["log_norms"], jnp.inf), held)
        deviation = _median(jnp.where(known, jnp.abs(state["log_norms"] - median), jnp.inf), held)
        limit = median + self.factor * jnp.maximum(_MAD_TO_DEVIATION * deviation, LEAST_SPREAD)
        is_far = counts & (held >= self.enough) & (log_norm > limit)
        has_moved = is_far & (state["in_a_row"] >= MOST_IN_A_ROW)
        is_spike = is_far & ~has_moved
        taken = counts & ~is_spike
        count = jnp.where(has_moved, 0, state["count"])
        place = count % self.window
        log_norms = state["log_norms"].at[place].set(jnp.where(taken, log_norm, state["log_norms"][place]))
        in_a_row = jnp.where(is_spike, state["in_a_row"] + 1, jnp.where(taken, 0, state["in_a_row"]))
        # A ring need not know how often it went round: the count stays small in a run of any length.
        after = count + jnp.where(taken, 1, 0)
        after = jnp.where(after >= 2 * self.window, after - self.window, after)
        return is_spike, {"log_norms": log_norms, "count": after, "in_a_row": in_a_row}


def make_spike_guard(config: OptimConfig) -> SpikeGuard | None:
    """Returns the guard that the config asks for; None: none."""
    return SpikeGuard(config.spike_factor, config.spike_window) if config.spike_factor else None


def _median(values_W: jax.Array, count: jax.Array) -> jax.Array:
    """Returns the median of the `count` smallest values, the others being infinite; of none of them infinity.

    By each value's rank: for so few, counting them all is less work on any device than sorting.
    """
    place = jnp.arange(len(values_W))
    smaller = values_W[None] < values_W[:, None]
    before = smaller | ((values_W[None] == values_W[:, None]) & (place[None] < place[:, None]))
    rank_W = before.sum(axis=1)
    low, high = jnp.maximum(count - 1, 0) // 2, jnp.minimum(count // 2, len(values_W) - 1)
    return 0.5 * (_at(values_W, rank_W == low) + _at(values_W, rank_W == high))


def _at(values_W: jax.Array, is_wanted_W: jax.Array) -> jax.Array:
    return jnp.where(is_wanted_W, values_W, -jnp.inf).max()
