"""Importance of heads and neurons: against derivatives by factors of them, and against differences of the loss."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.objective import LossContext
from jaxfm.data.pipeline import TrainBatches
from jaxfm.models.pruning import Importance
from jaxfm.models.subnets import Selection, select
from jaxfm.parallel.mesh import build_abstract
from jaxfm.training import cut_run, initial
from jaxfm.training.cut_run import Start
from jaxfm.training.part_importance import ROWS_OF_A_BATCH, RULES, measure
from jaxfm.training.supernet import of_shape
from tests import tiny

BUILD = Build()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("importance")
    run = tiny.write_runs(folder, ("classification",))["classification"]
    config = cut_run.config_from(tiny.classification_config(folder), run)
    return cut_run.start(config, initial.resolve(config.model))


def found(start: Start, rule: str, rows: int = 16) -> Importance:
    return measure(
        start.task.objective, start.params, start.task.datasets["train"], start.setup.session.mesh, BUILD,
        count=rows, batch_size=ROWS_OF_A_BATCH, rule=rule,
    )  # fmt: skip


def losses(start: Start) -> Any:
    """(heads [S, N], neurons [S, F]) -> loss of the first two batches, by masks in place of products with gradients."""
    encoder = start.first.encoder
    plain = of_shape(start.task.objective, dataclasses.replace(encoder, dropout=0.0, attention_dropout=0.0))
    graphdef, _ = build_abstract(lambda: plain.spec.make_model(BUILD, nnx.Rngs(0)), start.setup.session.mesh)
    batches = TrainBatches(start.task.datasets["train"], batch_size=ROWS_OF_A_BATCH, seed=0)

    def loss(step: int, heads: jax.Array, neurons: jax.Array) -> jax.Array:
        layers = np.ones(encoder.num_layers, bool)
        model = select(nnx.merge(graphdef, start.params), Selection(layers, heads, neurons))
        batch = {name: jnp.asarray(value) for name, value in batches.whole_batch(step).items()}
        each = plain.loss(model, batch, LossContext(jax.random.fold_in(jax.random.key(0), step)))
        return each.total / each.weight

    return loss


@pytest.mark.parametrize("rule", RULES)
def test_importance_is_the_derivative_by_a_factor(start: Start, rule: str) -> None:
    encoder = start.first.encoder
    ones = jnp.ones((encoder.num_layers, encoder.num_heads)), jnp.ones((encoder.num_layers, encoder.ffn_size))
    loss = losses(start)
    power = 2 if rule == "fisher" else 1
    with jax.set_mesh(start.setup.session.mesh):
        grads = [jax.jit(jax.grad(lambda *x, step=step: loss(step, *x), argnums=(0, 1)))(*ones) for step in (0, 1)]
    for part, values in enumerate(found(start, rule)):
        expected = np.mean([np.abs(np.asarray(each[part])) ** power for each in grads], axis=0)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-7)
        assert expected.min() < 0.5 * expected.max()


def test_importance_is_how_the_loss_changes(start: Start) -> None:
    """A head is made a little smaller, in one batch, without any derivative."""
    encoder, loss = start.first.encoder, losses(start)
    neurons = jnp.ones((encoder.num_layers, encoder.ffn_size))
    step = 0.05
    with jax.set_mesh(start.setup.session.mesh):
        of_heads = jax.jit(lambda heads: loss(0, heads, neurons))
        ones = np.ones((encoder.num_layers, encoder.num_heads), np.float32)
        changes = np.zeros_like(ones)
        for place in np.ndindex(*ones.shape):
            moved = np.zeros_like(ones)
            moved[place] = step
            changes[place] = (float(of_heads(ones + moved)) - float(of_heads(ones - moved))) / (2 * step)
    np.testing.assert_allclose(found(start, "taylor", rows=8).heads, np.abs(changes), rtol=0.05, atol=1e-4)


def test_a_head_that_nothing_reads_has_none(start: Start) -> None:
    path = start.params["encoder"]["layers"]["attention"]["output"]["kernel"]
    without = jax.tree.map(lambda leaf: leaf, start.params)
    without["encoder"]["layers"]["attention"]["output"]["kernel"] = path.at[1, 0].set(0.0)
    values = found(dataclasses.replace(start, params=without), "fisher").heads
    assert values[1, 0] == 0 and (np.delete(values.ravel(), 2) > 0).all()
