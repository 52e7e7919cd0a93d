"""A compiled train step with its state and batches, for the scripts that time one."""

import statistics
import time
from typing import Any

import jax

from jaxfm.config import Config
from jaxfm.hub.initial import Initial
from jaxfm.parallel.mesh import make_mesh, place_batch
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.setup import Setup, empty_sums, set_up


class TimedStep:
    """The train step of a config, compiled ahead, and what every call of it took.

    Attributes:
      setup: the run that the step belongs to.
      compiled: the step.
      compile_seconds: of lowering (tracing included) and compilation, together.
      batches: a few of the run's batches on the device, taken in turns.
      seconds: of each call of `run`'s, in order; dispatch to result.
      host_seconds: of each call the part until the host is free again.
    """

    def __init__(self, config: Config, initial: Initial | None = None, *, batches: int = 4):
        """Compiles it; `initial` saves reading the weights again."""
        task, loaded, _ = registry.create(config, initial or resolve(config.model))
        self.mesh = make_mesh(config.parallel.mesh)
        start = time.perf_counter()
        self.setup: Setup = set_up(config, task, loaded, self.mesh)
        self.compiled = self.setup.lowered[config.train.batch_size].compile()
        self.compile_seconds = time.perf_counter() - start
        rows = task.rows("train")
        self.tokens = config.train.batch_size * rows.row_length
        self.useful_share = rows.useful_share
        self.state, self.sums = self.setup.initial_state(), empty_sums(self.setup.metric_names, self.mesh)
        chosen = range(min(batches, self.setup.total_steps))
        self.batches = [place_batch(self.setup.batches.batch(index), self.mesh) for index in chosen]
        self.calls = 0
        self.seconds: list[float] = []
        self.host_seconds: list[float] = []

    def run(self, steps: int) -> None:
        """Runs and times so many steps, each waited for."""
        for _ in range(steps):
            batch = self.batches[self.calls % len(self.batches)]
            start = time.perf_counter()
            self.state, self.sums = self.compiled(self.state, self.sums, batch)
            issued = time.perf_counter()
            jax.block_until_ready(self.state)
            self.host_seconds.append(issued - start)
            self.seconds.append(time.perf_counter() - start)
            self.calls += 1

    def median_seconds(self, *, warm_up: int = 2) -> float:
        """Returns the median of a step's seconds, the first `warm_up` left out."""
        return statistics.median(self.seconds[warm_up:])

    def memory(self) -> dict[str, Any]:
        """Returns the compiler's account of memory in bytes a device: temporary, arguments, peak."""
        found = self.compiled.memory_analysis()
        held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        return {
            "temporary_bytes": found.temp_size_in_bytes,
            "held_bytes": held,
            "peak_bytes": held + found.temp_size_in_bytes,
        }
