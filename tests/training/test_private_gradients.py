"""DP-SGD's gradients: those of single rows one by one, clipped, and noise of the size that was asked for."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfm.core.objective import LossContext
from jaxfm.observe import metrics as metrics_lib
from jaxfm.training.private_gradients import RowPrivacy, clipped
from jaxfm.training.state import TrainState
from jaxfm.training.step import make_train_step, metric_names
from tests.training.test_step import new_state, toy_batch, toy_loss, toy_params

CLIP = 0.7


def _step(privacy: RowPrivacy, params: Any, batch: Any, accumulate: int = 1) -> tuple[TrainState, dict[str, float]]:
    """One step of gradient descent with rate 1: the change of the parameters is the gradient."""
    optimizer = optax.sgd(1.0)
    state = new_state(optimizer, params)
    step = make_train_step(toy_loss, optimizer, total_steps=10, accumulate=accumulate, privacy=privacy)
    sums = metrics_lib.zeros_like(dict.fromkeys(metric_names(toy_loss, params, batch)))
    state, sums = jax.jit(step)(state, sums, batch)
    return state, metrics_lib.means(sums)


def _gradient(privacy: RowPrivacy, batch: Any, accumulate: int = 1, params: Any = None) -> Any:
    params = toy_params() if params is None else params
    state, _ = _step(privacy, params, batch, accumulate)
    return jax.tree.map(lambda before, after: np.asarray(before - after), params, state.params)


def _one_by_one(batch: Any, clip_norm: float) -> Any:
    """The same by a loop over rows, and NumPy."""
    params, total = toy_params(), None
    context = LossContext(jax.random.key(0))
    for row in range(len(batch["tokens"])):
        alone = {name: jnp.asarray(value[row : row + 1]) for name, value in batch.items()}
        loss = toy_loss(params, alone, context)
        grads = jax.grad(lambda each, alone=alone: toy_loss(each, alone, context).total)(params)
        grads = {name: np.asarray(each, np.float64) / max(float(loss.weight), 1.0) for name, each in grads.items()}
        norm = np.sqrt(sum((each**2).sum() for each in grads.values()))
        grads = {name: each * min(1.0, clip_norm / max(norm, 1e-30)) for name, each in grads.items()}
        total = grads if total is None else {name: total[name] + grads[name] for name in total}
    return total


@pytest.mark.parametrize(("clip_norm", "accumulate"), [(CLIP, 1), (CLIP, 4), (1e3, 2)])
def test_the_gradient_is_the_sum_of_clipped_ones_of_single_rows(clip_norm: float, accumulate: int) -> None:
    batch, expected_rows = toy_batch(), 5
    found = _gradient(RowPrivacy(clip_norm, 0.0, expected_rows), batch, accumulate)
    expected = _one_by_one(batch, clip_norm)
    for name, each in expected.items():
        np.testing.assert_allclose(found[name], each / expected_rows, rtol=2e-5, atol=2e-7)
    # Row 6 has no target, others some: the bound changes something where it is small, and nothing where it is large.
    unclipped = _one_by_one(batch, 1e9)
    assert (clip_norm == 1e3) == np.allclose(expected["kernel"], unclipped["kernel"])


def test_a_row_that_is_not_finite_adds_nothing_and_skips_nothing() -> None:
    batch = toy_batch()
    poisoned = {name: value.copy() for name, value in batch.items()}
    poisoned["poison"][2] = 1
    empty = {name: value.copy() for name, value in batch.items()}
    empty["labels"][2] = -1
    privacy = RowPrivacy(CLIP, 0.0, 8)
    found, expected = _gradient(privacy, poisoned), _gradient(privacy, empty)
    for name, each in expected.items():
        np.testing.assert_array_equal(found[name], each)
    _, metrics = _step(privacy, toy_params(), poisoned)
    assert metrics["skipped"] == 0.0


def test_the_norm_of_a_clipped_gradient_is_never_above_the_bound() -> None:
    for scale in (1e-20, 1e-3, 1.0, 1e10, 1e15):
        grads = {"w": scale * jax.random.normal(jax.random.key(1), (50, 20)), "b": scale * jnp.ones(7)}
        norm = float(optax.tree.norm(clipped(grads, CLIP, jnp.float32(3.0))))
        assert norm <= CLIP and (scale < 1e-2 or norm > 0.999 * CLIP)
    for weight, value in ((0.0, 1.0), (1.0, jnp.nan), (1.0, jnp.inf)):
        grads = {"w": jnp.full(3, value)}
        np.testing.assert_array_equal(clipped(grads, CLIP, jnp.float32(weight))["w"], np.zeros(3))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_noise_has_the_deviation_multiplier_times_clip_over_batch(accumulate: int) -> None:
    """google-deepmind/jax_privacy#395: noise of a mean that was divided by the batch size once more than the sum.

    80,000 numbers without a gradient: their deviation is known to 0.25 %, the bound is five of these.
    """
    params = {**toy_params(), "unused": jnp.zeros((400, 200))}
    for noise, clip_norm, expected in ((1.3, CLIP, 8), (1.3, CLIP, 32), (2.6, 0.1, 8)):
        found = _gradient(RowPrivacy(clip_norm, noise, expected), toy_batch(), accumulate, params)["unused"]
        assert found.std() == pytest.approx(noise * clip_norm / expected, rel=0.0125)
        assert abs(found.mean()) < 5 * noise * clip_norm / expected / np.sqrt(found.size)
        within = (np.abs(found) < noise * clip_norm / expected).mean()
        assert within == pytest.approx(0.6827, abs=0.009)


def test_noise_is_another_one_at_each_step_and_in_each_array_and_the_same_of_one_state() -> None:
    params = {**toy_params(), "first": jnp.zeros(2000), "second": jnp.zeros(2000)}
    privacy, optimizer = RowPrivacy(CLIP, 1.0, 8), optax.sgd(1.0)
    step = jax.jit(make_train_step(toy_loss, optimizer, total_steps=10, privacy=privacy))
    sums = metrics_lib.zeros_like(dict.fromkeys(metric_names(toy_loss, params, toy_batch())))
    drawn = []
    for at in (0, 0, 1):
        state = dataclasses.replace(new_state(optimizer, params), step=jnp.int32(at))
        state, _ = step(state, sums, toy_batch())
        drawn.append((np.asarray(state.params["first"]), np.asarray(state.params["second"])))
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    correlations = np.corrcoef([drawn[0][0], drawn[0][1], drawn[2][0], drawn[2][1]])[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 0.12


def test_no_loss_and_no_metric_of_training_leaves_the_step() -> None:
    _, metrics = _step(RowPrivacy(CLIP, 1.0, 8), toy_params(), toy_batch())
    assert np.isnan(metrics["loss"]) and np.isnan(metrics["tokens"]) and metrics["gradient_norm"] > 0
