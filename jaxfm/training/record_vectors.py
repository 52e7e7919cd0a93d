"""A vector for each record after each layer: the mean over its words of their hidden states."""

# N records, L layers, T tokens, D model, K records of a batch

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset, axes_of
from jaxfm.models.each_layer import each_layer
from jaxfm.parallel.mesh import shard_batch
from jaxfm.training.evaluation import bucket


@dataclasses.dataclass(frozen=True, eq=False)
class RecordVectors:
    """Vectors of records by one model.

    Attributes:
      graphdef: of the model.
      mesh: where it is computed.
      batch_size: most rows at a time.
    """

    graphdef: nnx.GraphDef[Any]
    mesh: Mesh
    batch_size: int

    def __call__(self, params: Any, rows: Dataset, tokens: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
        """Returns f32 [L + 1, N, D]: of what the first layer reads, then after each layer; 0: a record without words.

        Args:
          params: of the model.
          rows: of the records.
          tokens: of each record, row and place of its words' tokens.
        """
        ids_NT = np.full((len(rows), *rows.spec["segment_ids"].shape), -1, np.int64)
        for record, places in enumerate(tokens):
            for row, place in places:
                ids_NT[row, place] = record
        wanted = np.flatnonzero((ids_NT >= 0).any(axis=-1))
        total: np.ndarray | None = None
        size = bucket(self.batch_size, max(len(wanted), 1), self.mesh)
        for first in range(0, len(wanted), size):
            index = wanted[first : first + size]
            filled = np.concatenate([index, np.repeat(index[:1], size - len(index))])
            ids_BT = ids_NT[filled]
            ids_BT[len(index) :] = -1
            records = np.unique(ids_BT[ids_BT >= 0])
            local_BT = np.where(ids_BT >= 0, np.searchsorted(records, ids_BT), len(records)).astype(np.int32)
            most = 1 << len(records).bit_length()  # one more than records: what is of none
            local_BT = np.where(ids_BT >= 0, local_BT, most - 1).astype(np.int32)
            batch = {**rows.take(filled), "ids": local_BT}
            given = shard_batch(batch, {**axes_of(rows.spec), "ids": ("tokens",)}, self.mesh)
            sums_LKD = np.asarray(self._sums(params, given, most))[:, : len(records)]
            if total is None:
                total = np.zeros((len(sums_LKD), len(tokens), sums_LKD.shape[-1]), np.float32)
            total[:, records] += sums_LKD
        assert total is not None, "the caller has looked for words"
        counts_N = np.asarray([max(len(set(places)), 1) for places in tokens], np.float32)
        return total / counts_N[:, None]

    def _sums(self, params: Any, batch: Mapping[str, jax.Array], most: int) -> jax.Array:
        with jax.set_mesh(self.mesh):
            return self._compiled(params, batch, most)

    @functools.cached_property
    def _compiled(self) -> Any:
        def sums(params: Any, batch: dict[str, jax.Array], most: int) -> jax.Array:
            model: Any = nnx.merge(self.graphdef, params)
            ids_n = batch.pop("ids").reshape(-1)
            return jnp.stack(
                [
                    jax.ops.segment_sum(x_BTD.reshape(-1, x_BTD.shape[-1]).astype(jnp.float32), ids_n, most)
                    for x_BTD, _ in each_layer(model.encoder, batch)
                ]
            )

        return jax.jit(sums, static_argnames="most")
