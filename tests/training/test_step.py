"""One update: the same for any number of micro-batches, on any mesh, and never with a NaN in it."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from jaxfm.config import Config, MeshConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import weighted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.state import TrainState
from jaxfm.training.step import make_train_step, metric_names
from tests import tiny

WORDS, WIDTH, CLASSES = 11, 6, 3


def toy_loss(params: Any, batch: Any, context: LossContext) -> Loss:
    """A classifier of single tokens: cross-entropy summed over labelled tokens; "poison" in a batch makes it NaN."""
    del context
    logits = jnp.take(params["embedding"], batch["tokens"], axis=0) @ params["kernel"]
    weights = (batch["labels"] >= 0).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(batch["labels"], 0))
    poison = jnp.where(batch["poison"].max() > 0, jnp.nan, 1.0)
    return Loss((losses * weights).sum() * poison, weights.sum(), {"tokens": weighted(weights.sum())})


def toy_params() -> dict[str, jax.Array]:
    draw = np.random.default_rng(0)
    shapes = {"embedding": (WORDS, WIDTH), "kernel": (WIDTH, CLASSES)}
    return {name: jnp.asarray(draw.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


def toy_batch(seed: int = 0, poison: int = 0) -> dict[str, np.ndarray]:
    """8 rows of 12 tokens, of which rows 0 and 4 have nearly all the labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, (8, 12))
    labels[[1, 2, 3, 5, 6, 7], 1:] = -1
    labels[6] = -1
    return {
        "tokens": draw.integers(0, WORDS, (8, 12)),
        "labels": labels,
        "poison": np.full((8, 1), poison),
    }


def new_state(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    key = jax.random.key_data(jax.random.key(5))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def toy_step(optimizer: optax.GradientTransformation, accumulate: int = 1, loss: Any = toy_loss) -> Any:
    names = metric_names(toy_loss, toy_params(), toy_batch())
    sums = metrics_lib.zeros_like(dict.fromkeys(names))
    return jax.jit(make_train_step(loss, optimizer, total_steps=8, accumulate=accumulate)), sums


def gradient(params: Any, batch: Any) -> Any:
    """Of the mean over labelled tokens."""

    def mean(params: Any) -> jax.Array:
        loss = toy_loss(params, batch, LossContext(jax.random.key(0)))
        return loss.total / loss.weight

    return jax.grad(mean)(params)


def test_accumulation_gives_the_update_of_the_whole_batch() -> None:
    params, batch = toy_params(), toy_batch()
    wanted = gradient(params, batch)
    for accumulate in (1, 2, 4, 8):
        step, sums = toy_step(optax.sgd(1.0), accumulate)
        state, sums = step(new_state(optax.sgd(1.0), params), sums, batch)
        for name, value in wanted.items():
            np.testing.assert_allclose(params[name] - state.params[name], value, rtol=1e-4, atol=1e-6)
        assert float(sums["loss"][1]) == float(sums["tokens"][0]) == (batch["labels"] >= 0).sum()
        np.testing.assert_allclose(sums["gradient_norm"], [optax.tree.norm(wanted), 1.0], rtol=1e-5)
    # The set-up can tell: the mean of the micro-batches' means, as trainers once had it, is another gradient.
    parts = [gradient(params, {name: value[index::4] for name, value in batch.items()}) for index in range(4)]
    naive = jax.tree.map(lambda *values: sum(values) / 4, *parts)
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, naive, wanted)) / optax.tree.norm(wanted)) > 0.2


def test_micro_batches_draw_dropout_of_their_own() -> None:
    def loss(params: Any, batch: Any, context: LossContext) -> Loss:
        drawn = jax.random.uniform(context.key)
        return Loss(drawn * params["kernel"].sum(), jnp.float32(1.0), {"tokens": weighted(drawn)})

    drawn = []
    for accumulate in (1, 2):
        step, sums = toy_step(optax.sgd(1.0), accumulate, loss)
        state = new_state(optax.sgd(1.0), toy_params())
        for _ in range(2):
            state, sums = step(state, sums, toy_batch())
        drawn.append(float(sums["tokens"][0]))
    key = jax.random.wrap_key_data(new_state(optax.sgd(1.0), {}).key)
    steps = [jax.random.fold_in(key, step) for step in (0, 1)]
    np.testing.assert_allclose(drawn[0], sum(jax.random.uniform(step) for step in steps), rtol=1e-6)
    parts = [part for step in steps for part in jax.random.split(step)]
    np.testing.assert_allclose(drawn[1], sum(jax.random.uniform(part) for part in parts), rtol=1e-6)
    assert len({float(jax.random.uniform(part)) for part in parts}) == 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_loss_is_told_how_far_the_run_is(accumulate: int) -> None:
    def loss(params: Any, batch: Any, context: LossContext) -> Loss:
        return Loss(params["kernel"].sum(), jnp.float32(1.0), {"tokens": weighted(context.progress)})

    step, sums = toy_step(optax.sgd(1.0), accumulate, loss)
    state = new_state(optax.sgd(1.0), toy_params())
    for _ in range(3):
        state, sums = step(state, sums, toy_batch())
    assert float(sums["tokens"][0] / sums["tokens"][1]) == np.float32((0 / 8 + 1 / 8 + 2 / 8) / 3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count(accumulate: int) -> None:
    optimizer = optax.adamw(0.1)
    step, sums = toy_step(optimizer, accumulate)
    before, sums = step(new_state(optimizer, toy_params()), sums, toy_batch(0))
    after, sums = step(before, sums, toy_batch(1, poison=1))
    assert int(after.step) == 2
    for old, new in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((after.params, after.opt_state)),
        strict=True,
    ):
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()
    np.testing.assert_array_equal(sums["skipped"], [1.0, 2.0])
    healthy, sums = step(after, sums, toy_batch(2))
    np.testing.assert_array_equal(sums["skipped"], [1.0, 3.0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((healthy.params, healthy.opt_state)))
    # As if the bad batch had never been: only `step` tells.
    other, _ = step(before, sums, toy_batch(2))
    np.testing.assert_array_equal(healthy.params["kernel"], other.params["kernel"])
    assert np.abs(healthy.params["kernel"] - after.params["kernel"]).max() > 0.01


def test_a_batch_without_labels_is_no_division_by_zero() -> None:
    step, sums = toy_step(optax.sgd(1.0))
    batch = toy_batch() | {"labels": np.full((8, 12), -1)}
    state, sums = step(new_state(optax.sgd(1.0), toy_params()), sums, batch)
    assert jax.tree.all(jax.tree.map(np.array_equal, state.params, toy_params()))
    np.testing.assert_array_equal(sums["skipped"], [0.0, 1.0])


# The real step, as the loop builds it.


@functools.cache
def losses_on(folder: pathlib.Path, sizes: tuple[int, int, int]) -> tuple[float, ...]:
    """The losses of 10 steps with much dropout, and that of the first step again with another key."""
    config = tiny.config(folder, optim__learning_rate=1e-3, train__steps=10, model__dropout=0.3)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    setup = real_setup(config, mesh)
    step, losses = setup.session.compiled(config.train.batch_size), []

    def one_step(state: TrainState, index: int) -> TrainState:
        batch = setup.session.shard(setup.batches.batch(index))
        state, sums = step(state, setup.session.empty_sums(), batch, ())
        losses.append(metrics_lib.means(sums)["loss"])
        return state

    state = setup.initial_state()
    for index in range(10):
        state = one_step(state, index)
    fresh = setup.initial_state()
    one_step(dataclasses.replace(fresh, key=fresh.key + np.uint32(1)), 0)
    return tuple(losses)


def real_setup(config: Config, mesh: Mesh) -> Setup:
    task, loaded = registry.create(config, resolve(config.model))
    return set_up(config, task, loaded, mesh)


@pytest.mark.parametrize(
    "sizes", [*(pytest.param(sizes, marks=pytest.mark.slow) for sizes in ((4, 1, 1), (2, 2, 1))), (1, 2, 2)]
)
def test_losses_are_those_of_one_device_with_dropout(
    sizes: tuple[int, int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "step"
    one = losses_on(folder, (1, 1, 1))
    np.testing.assert_allclose(losses_on(folder, sizes), one, rtol=1e-5)
    # The losses move, and dropout is really on: another key, another loss.
    assert one[9] < one[0] - 0.05
    assert abs(one[10] - one[0]) > 1e-3


def test_the_state_is_donated_and_nothing_is_traced_again(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    config = tiny.config(tmp_path)
    mesh = make_mesh(config.parallel.mesh)
    task, loaded = registry.create(config, resolve(config.model))
    traces = []
    model_loss = type(task.objective).loss

    def counted(self: Any, *arguments: Any) -> Any:
        traces.append(1)
        return model_loss(self, *arguments)

    monkeypatch.setattr(type(task.objective), "loss", counted)
    setup = set_up(config, task, loaded, mesh)
    step = setup.session.compiled(config.train.batch_size)
    traced, state, sums = len(traces), setup.initial_state(), setup.session.empty_sums()
    assert traced
    state_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert step.memory_analysis().alias_size_in_bytes >= state_bytes
    for index in range(4):
        given = state
        state, sums = step(state, sums, setup.session.shard(setup.batches.batch(index)), ())
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((given.params, given.opt_state)))
    assert len(traces) == traced
    assert jax.tree.all(
        jax.tree.map(lambda leaf, shape: leaf.sharding == shape.sharding, state, setup.session.abstract)
    )
