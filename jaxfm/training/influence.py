"""Which training examples a run has learned a result from: TracIn over its kept checkpoints (Pruthi et al. 2020).

The influence of a training example on another one is the product of both losses' gradients, summed over checkpoints
with the learning rate there (section 3.2, "TracInCP"): by so much a step on the one lowers the loss of the other.
Gradients are of the head alone, the parameters after the encoder (section 4.1): of all parameters they would not fit
into memory. Yeh et al. 2022 ("First is better than last for language data influence") show that gradients of last
layers may cancel out between examples that share little but a class: what is found says more of labels than of words.
"""

# N training examples, Q examples asked about, B at a time, P parameters of the head

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Batch, BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.objective import LossContext, Objective
from jaxfm.errors import UserError
from jaxfm.observe.writers import METRICS_FILE, read_metrics
from jaxfm.parallel.mesh import batch_shards
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.saved_run import SavedRun

_ENCODER = "encoder"


class Kept(NamedTuple):
    """A checkpoint of a run.

    Attributes:
      step: of it.
      graphdef: of the model.
      params: of the model.
      rate: learning rate at that step.
    """

    step: int
    graphdef: nnx.GraphDef[Any]
    params: Any
    rate: float


def kept_checkpoints(run: SavedRun, mesh: Mesh, build: Build) -> list[Kept]:
    """Returns the checkpoints that a run has kept, with their rates; one alone has the rate 1.

    Raises UserError where there is none, or where no learning rate of theirs is known and above 0.
    """
    directory = run.workdir / workdirs.CHECKPOINTS_DIR
    if not directory.is_dir():
        raise UserError(f"{run.workdir}: has no checkpoint of training; influence needs one at least.")
    graphdef, abstract = run.abstract_model(mesh, build)
    checkpoints = Checkpoints(directory, read_only=True)
    try:
        found = [(step, checkpoints.restore_params(step, abstract)) for step in checkpoints.steps()]
    finally:
        checkpoints.close()
    if not found:
        raise UserError(f"{run.workdir}: has no checkpoint yet.")
    if len(found) == 1:
        return [Kept(found[0][0], graphdef, found[0][1], 1.0)]
    path = run.workdir / METRICS_FILE
    lines = [line for line in (read_metrics(path) if path.is_file() else []) if "learning_rate" in line]
    rates = [
        max(((line["step"], line["learning_rate"]) for line in lines if line["step"] <= step), default=(0, 0.0))[1]
        for step, _ in found
    ]
    if not any(rates):
        raise UserError(
            f"{path}: says no learning rate above 0 of the kept checkpoints; influences are sums over these."
        )
    return [Kept(step, graphdef, params, rate) for (step, params), rate in zip(found, rates, strict=True)]


def alone(batch: Batch, spec: BatchSpec, segments: np.ndarray) -> Batch:
    """Returns rows that hold one of their examples each, at its place: all else is padding.

    Args:
      batch: rows, perhaps the same one several times.
      spec: of them.
      segments: [B] number from 1 of the example that stays.
    """
    own = batch["segment_ids"] == segments[:, None]
    found = {}
    for name, field in spec.items():
        values = batch[name]
        if field.axes[:1] == ("tokens",):
            kept = own.reshape(*own.shape, *[1] * (values.ndim - 2))
        else:  # of examples [B, S, ...]
            kept = np.arange(1, values.shape[1] + 1) == segments[:, None]
            kept = kept.reshape(*kept.shape, *[1] * (values.ndim - 2))
        found[name] = np.where(kept, values, np.asarray(field.fill, values.dtype))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Labelled examples in packed rows.

    Attributes:
      rows: a dataset with `example_locations`.
      numbers: of the examples that count, in the order of the source.
    """

    rows: Any
    numbers: Sequence[int]

    def batch(self, some: Sequence[int], size: int) -> Batch:
        """Returns a row an example, each alone, filled up with the last one to `size` rows."""
        filled = [*some, *[some[-1]] * (size - len(some))]
        where = np.asarray(self.rows.example_locations)[filled]
        return alone(self.rows.take(where[:, 0]), self.rows.spec, where[:, 1] + 1)


def influences(
    objective: Objective, kept: Sequence[Kept], train: Examples, asked: Examples, mesh: Mesh, batch_size: int
) -> np.ndarray:
    """Returns the influence of each training example on each one asked about, f64 [Q, N]; above 0: it lowers its loss.

    Args:
      objective: of the run.
      kept: its checkpoints.
      train: training examples.
      asked: examples of the same form.
      mesh: of the parameters.
      batch_size: examples at a time.
    """
    size = batch_shards(mesh) * max(1, batch_size // batch_shards(mesh))
    found_QN = np.zeros((len(asked.numbers), len(train.numbers)))
    graphdef = kept[0].graphdef

    @jax.jit
    def gradients(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        return head_gradients(objective, graphdef, params, batch)

    @jax.jit
    def products(params: Any, batch: Mapping[str, jax.Array], asked_QP: jax.Array) -> jax.Array:
        return jnp.matmul(asked_QP, head_gradients(objective, graphdef, params, batch).T, precision="highest")

    with jax.set_mesh(mesh):
        for checkpoint in kept:
            parts = [
                gradients(checkpoint.params, asked.batch(asked.numbers[first : first + size], size))
                for first in range(0, len(asked.numbers), size)
            ]
            asked_QP = jnp.concatenate(parts)[: len(asked.numbers)]
            for first in range(0, len(train.numbers), size):
                some = train.numbers[first : first + size]
                made_QB = products(checkpoint.params, train.batch(some, size), asked_QP)
                made = np.asarray(made_QB, np.float64)[:, : len(some)]
                found_QN[:, first : first + len(some)] += checkpoint.rate * made
    return found_QN


def head_gradients(
    objective: Objective, graphdef: nnx.GraphDef[Any], params: Any, batch: Mapping[str, jax.Array]
) -> jax.Array:
    """Returns the gradient of each row's loss with respect to all parameters outside of the encoder, f32 [B, P]."""
    encoder = {_ENCODER: params[_ENCODER]}
    head = {name: value for name, value in params.items() if name != _ENCODER}

    def loss(head: Any, row: Mapping[str, jax.Array]) -> jax.Array:
        model = nnx.merge(graphdef, {**encoder, **head})
        one = {name: value[None] for name, value in row.items()}
        # Without a key there is no dropout.
        found = objective.loss(model, one, LossContext(None))  # type: ignore[arg-type]
        return found.total / jnp.maximum(found.weight, 1e-6)

    trees = jax.vmap(jax.grad(loss), in_axes=(None, 0))(head, dict(batch))
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(trees)], axis=1)
