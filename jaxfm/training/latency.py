"""Seconds of several programs, measured in turns, so that what else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset, axes_of
from jaxfm.data.pipeline import eval_batches
from jaxfm.parallel.mesh import host_rows, shard_batch
from jaxfm.training.evaluation import OutputsFn, whole_batches

TURNS = 9


def in_turns(calls: Mapping[str, Callable[[], Any]], turns: int = TURNS) -> dict[str, float]:
    """Returns the median seconds of each call over the turns, in each of which all are called; a first one compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def forward_pass(
    outputs: OutputsFn, graphdef: nnx.GraphDef[Any], params: Any, rows: Dataset, mesh: Mesh, batch_size: int
) -> Callable[[], Any]:
    """Returns a call that computes a model's outputs of the first batch of rows, and waits for them."""
    size = whole_batches(batch_size, len(rows), mesh)
    batch = next(iter(eval_batches(rows, size, lambda count: host_rows(mesh, count))))
    with jax.set_mesh(mesh):
        placed = shard_batch(batch, axes_of(rows.spec), mesh)
    apply = jax.jit(lambda params, batch: outputs(nnx.merge(graphdef, params), batch))

    def call() -> Any:
        with jax.set_mesh(mesh):
            return jax.block_until_ready(apply(params, placed))

    return call
