"""How much a loss would change without each head and each neuron of an encoder, measured on data.

The derivative of the loss by a factor of what a head, or a neuron, contributes, at the factor 1, is to first order what
the loss loses with it. Of each batch its absolute value ("taylor": Michel et al. 2019, arXiv 1905.10650, section 4.1)
or its square ("fisher": Molchanov et al. 2019, arXiv 1906.10771, equation 8; Theis et al. 2018, arXiv 1801.05787) is
taken, and the mean over the batches.

Squares are the default. Where training has converged derivatives are small and of either sign, so that sums of their
absolute values over thousands of neurons are mostly noise, while squares are a second-order estimate of the change.
Batches are of 8 rows whatever the devices, so that these change nothing: in larger ones the derivatives of single
examples cancel. Where a loss compares the rows of a batch, batches are the run's own.
"""

# S stacks of weights, N heads, F ffn

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset, axes_of
from jaxfm.core.build import Build
from jaxfm.core.objective import LossContext, Objective
from jaxfm.data.pipeline import TrainBatches
from jaxfm.models.pruning import Importance
from jaxfm.models.subnets import HEADS_READ_BY, LAYERS, NEURONS_READ_BY
from jaxfm.parallel.mesh import build_abstract, host_rows, shard_batch
from jaxfm.training.paths import flat
from jaxfm.training.supernet import of_shape

RULES: Mapping[str, Callable[[jax.Array], jax.Array]] = {"fisher": jnp.square, "taylor": jnp.abs}
ROWS_OF_A_BATCH = 8


def measure(
    objective: Objective,
    params: Any,
    rows: Dataset,
    mesh: Mesh,
    build: Build,
    *,
    count: int,
    batch_size: int,
    rule: str = "fisher",
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> Importance:
    """Returns the importance of the parts of an objective's encoder, without dropout.

    Args:
      objective: whose loss it is.
      params: nested dicts, on the mesh.
      rows: of the training split.
      mesh: of the devices.
      build: how the model computes.
      count: rows to measure on, whole batches of them.
      batch_size: rows of a batch.
      rule: one of `RULES`.
      seed: which rows, and what else the loss draws.
      advance: is told of the rows of each batch done.
    """
    spec = objective.spec
    plain = of_shape(objective, dataclasses.replace(spec.encoder, dropout=0.0, attention_dropout=0.0))
    graphdef, _ = build_abstract(lambda: plain.spec.make_model(build, nnx.Rngs(0)), mesh)
    read_by = {"heads": f"{LAYERS}{HEADS_READ_BY}", "neurons": f"{LAYERS}{NEURONS_READ_BY}"}

    def derivatives(params: Any, batch: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        def loss(kernels: Mapping[str, jax.Array]) -> jax.Array:
            model = nnx.merge(graphdef, _with(params, kernels))
            found = plain.loss(model, batch, LossContext(key))
            return found.total / jnp.maximum(found.weight, 1e-9)

        kernels = {path: flat(params)[path] for path in read_by.values()}
        products = {path: kernels[path] * grad for path, grad in jax.grad(loss)(kernels).items()}
        # The factor of a head meets all the weights that read it.
        return {
            part: RULES[rule](products[path].sum(axis=tuple(range(2, products[path].ndim))))
            for part, path in read_by.items()
        }

    of_batch = jax.jit(derivatives)
    batches = TrainBatches(rows, batch_size=batch_size, seed=seed, host_rows=lambda size: host_rows(mesh, size))
    total: dict[str, np.ndarray] = {}
    number = max(-(-min(count, len(rows)) // batch_size), 1)
    with jax.set_mesh(mesh):
        for step in range(number):
            key = jax.random.fold_in(jax.random.key(seed), step)
            found = of_batch(params, shard_batch(batches.batch(step), axes_of(rows.spec), mesh), key)
            for part, value in found.items():
                total[part] = total.get(part, 0.0) + np.asarray(value, np.float64)
            if advance is not None:
                advance(batch_size)
    return Importance(total["heads"] / number, total["neurons"] / number)


def _with(params: Any, kernels: Mapping[str, jax.Array]) -> Any:
    """Returns nested parameters with other values of some paths."""
    found = dict(params)
    for path, value in kernels.items():
        node = found
        *parents, last = path.split("/")
        for name in parents:
            node[name] = dict(node[name])
            node = node[name]
        node[last] = value
    return found
