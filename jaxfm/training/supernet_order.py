"""Loaded weights of a supernet, their heads and neurons in the order of importance: small subnets keep the first ones.

Hou et al. 2020, DynaBERT (arXiv 2004.04037), section 3.1: importance is measured on training data, once, before the
first update; it changes nothing of what the largest model computes. The order depends on weights, data and seed alone.
"""

# L layers, N heads, F ffn

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import LossContext
from jaxfm.data.pipeline import TrainBatches
from jaxfm.models.subnets import LAYERS, importance, order
from jaxfm.training.micro_batches import cut
from jaxfm.training.paths import flat
from jaxfm.training.session import Session
from jaxfm.training.supernet import SupernetObjective, is_asked_for


def first_weights(
    config: Config, session: Session, loaded: Mapping[str, Any], batches: TrainBatches
) -> Mapping[str, Any]:
    """Returns the weights that a run starts from: those loaded, ordered where the run is of a supernet.

    Args:
      config: of the run.
      session: of the run.
      loaded: path -> array; of other parameters, as a new head, the values drawn at step 0 are used.
      batches: of the run, the first of which importance is measured by.
    """
    count = config.supernet.importance_batches
    if not (is_asked_for(config.supernet) and count and any(path.startswith(LAYERS) for path in loaded)):
        return loaded
    assert isinstance(session.objective, SupernetObjective)
    state, encoder, objective = (
        session.initial_state(config.seed, loaded),
        session.objective.spec.encoder,
        session.objective.inner,
    )

    def of_part(part: tuple[Mapping[str, jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
        def loss(params: Any) -> jax.Array:
            return objective.loss(nnx.merge(session.graphdef, params), part[0], LossContext(part[1])).total

        return importance(flat(state.params), flat(jax.grad(loss)(state.params)))

    @jax.jit
    def of_batch(batch: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        parts = cut(dict(batch), config.train.accumulate), jax.random.split(key, config.train.accumulate)
        heads, neurons = lax.map(of_part, parts)
        return heads.sum(axis=0), neurons.sum(axis=0)

    heads_LN, neurons_LF = np.zeros((encoder.num_layers, encoder.num_heads)), np.zeros((1, encoder.ffn_size))
    with jax.set_mesh(session.mesh):
        for step in range(count):
            found = of_batch(session.shard(batches.batch(step)), jax.random.key(step))
            heads_LN, neurons_LF = heads_LN + np.asarray(found[0]), neurons_LF + np.asarray(found[1])
    return order(loaded, _heads_order(heads_LN, encoder), np.argsort(-neurons_LF, axis=1, kind="stable"))


def _heads_order(heads_LN: np.ndarray, encoder: EncoderConfig) -> np.ndarray | None:
    """Returns the order of heads, the most important first; None where they share keys and values, or biases."""
    if encoder.kv_heads != encoder.num_heads or encoder.relative_positions == "bias":
        return None
    return np.argsort(-heads_LN, axis=1, kind="stable")
