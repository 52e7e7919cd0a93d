"""Losses that compare all rows of a batch, in the memory of a micro-batch, with the gradient of the whole batch.

Gao et al. 2021 (GradCache) embed micro-batches without keeping what the backward pass needs, take the gradient of the
loss with respect to the embeddings, and embed again to lead it on. Here the same follows from autodiff: a loop over
micro-batches whose body is computed again in the backward pass. Nothing is cached or replayed by hand, and in both
passes dropout draws what it draws for the whole batch at once: `accumulate` changes memory and time alone.
"""

# A micro-batches, B batch

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.core.objective import Loss, LossContext, Objective, WholeBatchObjective
from jaxfm.models.dropout import RowsKey
from jaxfm.training.micro_batches import cut, join


def loss_of(
    objective: Objective, model: Any, batch: Mapping[str, jax.Array], context: LossContext, accumulate: int
) -> Loss:
    """Returns the loss of a batch, embedded in `accumulate` micro-batches where it compares all rows."""
    if not objective.whole_batch or accumulate == 1:
        return objective.loss(model, batch, context)
    comparing = cast(WholeBatchObjective, objective)
    every = jnp.uint32(accumulate)

    @jax.checkpoint
    def embed(part: Mapping[str, jax.Array], first: jax.Array) -> Any:
        return comparing.embed(model, part, RowsKey(context.key, first, every))

    parts = lax.map(lambda each: embed(*each), (cut(batch, accumulate), jnp.arange(accumulate, dtype=jnp.uint32)))
    return comparing.compare(model, join(parts), batch, context)
