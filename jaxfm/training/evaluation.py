"""A split through the model: one compiled function, fixed shapes, no dropout."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.data.pipeline import Rows, eval_batches
from jaxfm.parallel.mesh import batch_shards, host_rows, place_batch, replicated

# (model, batch) -> arrays [B, ...]
OutputsFn = Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]


def whole_batches(batch_size: int, rows: int, mesh: Mesh) -> int:
    """Returns the batch size nearest to `batch_size` that the mesh divides, no larger than `rows` needs."""
    shards = batch_shards(mesh)
    return shards * max(1, min(batch_size // shards, -(-rows // shards)))


class Evaluator:
    """Computes a task's outputs for packed rows; compiled once a row length."""

    def __init__(self, outputs: OutputsFn, graphdef: nnx.GraphDef[Any], mesh: Mesh, batch_size: int):
        """Closes over the model; `batch_size` rows over all devices and hosts, a multiple of the batch shards."""
        self._mesh, self._batch_size = mesh, batch_size
        self._share = functools.partial(host_rows, mesh)
        # Replicated outputs: every host scores alike, and a later np.asarray needs no further communication.
        self._apply = jax.jit(
            lambda params, batch: outputs(nnx.merge(graphdef, params), batch), out_shardings=replicated(mesh)
        )

    def __call__(self, params: Any, rows: Rows, advance: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Returns the outputs of all rows, arrays [N, ...]; `advance` is told of each batch of rows done."""
        parts: list[dict[str, np.ndarray]] = []
        for outputs in self._run_ahead(params, rows):
            parts.append(jax.device_get(outputs))
            if advance is not None:
                advance(min(self._batch_size, len(rows) - (len(parts) - 1) * self._batch_size))
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}

    def _run_ahead(self, params: Any, rows: Rows) -> Iterator[dict[str, jax.Array]]:
        """Dispatches one batch ahead of the one that is fetched."""
        waiting = None
        for batch in eval_batches(rows, self._batch_size, self._share):
            with jax.set_mesh(self._mesh):  # for the constraints on activations
                outputs = self._apply(params, place_batch(batch, self._mesh))
            if waiting is not None:
                yield waiting
            waiting = outputs
        if waiting is not None:
            yield waiting
