"""The Fisher information of a model's parameters on labelled examples, its diagonal: how much each parameter matters.

F_i = E[(d log p(y | x) / d theta_i)^2] over examples x with their own labels y: the empirical Fisher, as in most code
of elastic weight consolidation (Kirkpatrick et al. 2017, section 2.1, draw y from the model). Gradients are of one
example each, so rows hold one example at a time, and there is no dropout. -log p is the loss of the task: of a tagger
the sum over the words of a window, with class weights or smoothing where the run has them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.objective import LossContext, Objective
from jaxfm.training.consolidation import ANCHOR, IMPORTANCE, padded
from jaxfm.training.influence import Examples
from jaxfm.training.paths import flat

_ROWS = 8
"""Examples of one call: their gradients are made one after the other, so memory holds one at a time."""


def fisher_diagonal(
    objective: Objective,
    graphdef: nnx.GraphDef[Any],
    params: Any,
    examples: Examples,
    mesh: Mesh,
    advance: Callable[[int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Returns path -> f32 array, the mean over examples of the squared gradient of one example's loss.

    Args:
      objective: whose loss is the negative log-likelihood.
      graphdef: of its model.
      params: nested dicts, on the mesh.
      examples: that count.
      mesh: of the parameters.
      advance: is told of the examples done.
    """

    def add(total: Any, params: Any, batch: Mapping[str, jax.Array], counts_B: jax.Array) -> Any:
        def loss(params: Any, row: Mapping[str, jax.Array]) -> jax.Array:
            one = {name: value[None] for name, value in row.items()}
            # Without a key there is no dropout.
            return objective.loss(nnx.merge(graphdef, params), one, LossContext(None)).total  # type: ignore[arg-type]

        def body(total: Any, each: tuple[Mapping[str, jax.Array], jax.Array]) -> tuple[Any, None]:
            row, counts = each
            grads = jax.grad(loss)(params, row)
            return jax.tree.map(lambda sum, grad: sum + counts * grad**2, total, grads), None

        return jax.lax.scan(body, total, (dict(batch), counts_B))[0]

    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    added = jax.jit(add, donate_argnums=0, out_shardings=shardings)
    total = jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree), out_shardings=shardings)(params)
    numbers = list(examples.numbers)
    with jax.set_mesh(mesh):
        for first in range(0, len(numbers), _ROWS):
            some = numbers[first : first + _ROWS]
            counts_B = np.arange(_ROWS) < len(some)
            total = added(total, params, examples.batch(some, _ROWS), counts_B.astype(np.float32))
            if advance is not None:
                advance(len(some))
    return {path: np.asarray(leaf, np.float32) / len(numbers) for path, leaf in flat(total).items()}


def consolidated(
    earlier: Mapping[str, Mapping[str, np.ndarray]] | None,
    fisher: Mapping[str, np.ndarray],
    params: Mapping[str, np.ndarray],
    decay: float,
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the parts of a file for `config.consolidate.importance`: online EWC.

    Args:
      earlier: the parts after the stage before; None: this is the first.
      fisher: of this stage's data, at its weights.
      params: its weights, which are the new anchor.
      decay: what is kept of the earlier importance; 1: the sum over all stages.
    """
    before = {} if earlier is None else earlier[IMPORTANCE]
    importance = {
        path: value + decay * padded(before[path], value.shape) if path in before else np.asarray(value)
        for path, value in fisher.items()
    }
    return {IMPORTANCE: importance, ANCHOR: {path: np.asarray(params[path]) for path in importance}}


def drawn(count: int, most: int, seed: Sequence[int]) -> list[int]:
    """Returns the numbers of at most `most` of `count` examples, drawn by the seed, in ascending order."""
    order = np.random.default_rng(list(seed)).permutation(count)
    return sorted(int(number) for number in order[:most])
