"""A split through the model: one compiled function, fixed shapes, no dropout."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset, axes_of
from jaxfm.data.pipeline import eval_batches
from jaxfm.parallel.mesh import batch_shards, host_rows, replicated, shard_batch

# (model, batch) -> arrays [B, ...]
OutputsFn = Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]


def whole_batches(batch_size: int, rows: int, mesh: Mesh) -> int:
    """Returns the batch size nearest to `batch_size` that the mesh divides, no larger than `rows` needs."""
    shards = batch_shards(mesh)
    return shards * max(1, min(batch_size // shards, -(-rows // shards)))


def bucket(batch_size: int, rows: int, mesh: Mesh) -> int:
    """Returns the batch size for a call of `rows` rows: twice, four times, ... what the mesh needs, up to `batch_size`.

    Calls of any number of rows so compile no more programs than `batch_size` has bits.
    """
    shards, largest = batch_shards(mesh), whole_batches(batch_size, batch_size, mesh)
    return min(shards << max(-(-rows // shards) - 1, 0).bit_length(), largest)


class Evaluator:
    """Computes a task's outputs for packed rows; compiled once a row length."""

    def __init__(self, outputs: OutputsFn, graphdef: nnx.GraphDef[Any], mesh: Mesh, batch_size: int):
        """Closes over the model; `batch_size` rows over all devices and hosts, a multiple of the batch shards."""
        self._mesh, self._batch_size = mesh, batch_size
        self._host_rows = functools.partial(host_rows, mesh)
        # Replicated outputs: every host scores alike, and a later np.asarray needs no further communication.
        self._apply = jax.jit(
            lambda params, batch: outputs(nnx.merge(graphdef, params), batch), out_shardings=replicated(mesh)
        )

    def __call__(self, params: Any, rows: Dataset, advance: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Returns the outputs of all rows, arrays [N, ...]; `advance` is told of each batch of rows done.

        Without rows the arrays are [0, ...], and nothing is compiled.
        """
        if not len(rows):
            return self._of_none(params, rows)
        parts: list[dict[str, np.ndarray]] = []
        for outputs in self._run_ahead(params, rows):
            parts.append(jax.device_get(outputs))
            if advance is not None:
                advance(min(self._batch_size, len(rows) - (len(parts) - 1) * self._batch_size))
        return {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}

    def _of_none(self, params: Any, rows: Dataset) -> dict[str, np.ndarray]:
        """Returns the outputs of no row: their types and shapes are found without computing."""
        batch = {
            name: jax.ShapeDtypeStruct((self._batch_size, *field.shape), field.dtype)
            for name, field in rows.spec.items()
        }
        with jax.set_mesh(self._mesh):
            shapes = jax.eval_shape(self._apply, params, batch)
        return {name: np.zeros((0, *shape.shape[1:]), shape.dtype) for name, shape in shapes.items()}

    def _run_ahead(self, params: Any, rows: Dataset) -> Iterator[dict[str, jax.Array]]:
        """Dispatches one batch ahead of the one that is fetched."""
        waiting = None
        for batch in eval_batches(rows, self._batch_size, self._host_rows):
            with jax.set_mesh(self._mesh):  # for the constraints on activations
                outputs = self._apply(params, shard_batch(batch, axes_of(rows.spec), self._mesh))
            if waiting is not None:
                yield waiting
            waiting = outputs
        if waiting is not None:
            yield waiting
