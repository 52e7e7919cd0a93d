"""One of two losses: equal to it alone in value, gradients and memory, whatever is trained of the model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.objective import Loss, LossContext
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.phases import one_of_two

ROWS, WIDTH, LAYERS = 2048, 64, 8
KEY = jax.random.key(4)


class Layers(nnx.Module):
    """Matrices, and a vector that only the second loss reads."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.maps = nnx.Param(jax.random.normal(rngs.params(), (LAYERS, WIDTH, WIDTH)) / WIDTH**0.5)
        self.shift = nnx.Param(jnp.linspace(-1.0, 1.0, WIDTH))

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in range(LAYERS):
            x = jnp.tanh(x @ self.maps[...][layer])
        return x


def first(model: Layers, batch: Any, context: LossContext) -> Loss:
    x = model(batch["x"] + 0.1 * jax.random.normal(context.key, batch["x"].shape))
    return Loss((x**2).sum(), jnp.float32(len(x)), {"which": weighted(1.0)})


def second(model: Layers, batch: Any, context: LossContext) -> Loss:
    x = model(jnp.cos(batch["x"]) * batch["sign"]) + model.shift[...] * context.constants
    return Loss((x * batch["x"]).sum(), jnp.float32(2 * len(x)), {"which": weighted(0.0)})


def inputs(rows: int = 8) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "x": draw.normal(size=(rows, WIDTH)).astype(np.float32),
        "sign": draw.integers(0, 2, (rows, 1)).astype(np.int32),
    }


GRAPH, STATE = nnx.split(Layers(nnx.Rngs(0)))


def either(params: Any, batch: Any, progress: Any) -> Loss:
    context = LossContext(KEY, progress, jnp.float32(3.0))
    return one_of_two(progress < 0.5, (first, second), nnx.merge(GRAPH, params), batch, context)


def alone(loss: Any, params: Any, batch: Any, progress: Any) -> Loss:
    return loss(nnx.merge(GRAPH, params), batch, LossContext(KEY, progress, jnp.float32(3.0)))


def assert_equal(found: Any, wanted: Any) -> None:
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("progress", "loss"), [(0.0, first), (0.49, first), (0.5, second), (1.0, second)])
def test_it_is_the_loss_that_is_asked_for(progress: float, loss: Any) -> None:
    batch, at = inputs(), jnp.float32(progress)
    assert_equal(jax.jit(either)(STATE, batch, at), jax.jit(lambda *given: alone(loss, *given))(STATE, batch, at))

    def gradients(function: Any) -> Any:
        def total(params: Any, batch: Any, progress: Any) -> Any:
            found = function(params, batch, progress)
            return found.total * 0.5, found  # so that the gradient that comes back is not 1

        return jax.jit(jax.value_and_grad(total, has_aux=True))(STATE, batch, at)

    found, wanted = gradients(either), gradients(lambda *given: alone(loss, *given))
    assert_equal(found, wanted)
    assert float(jnp.abs(jax.tree.leaves(found[1])[0]).max()) > 0


def test_parameters_that_are_not_trained_get_no_gradient() -> None:
    batch = inputs()

    def total(shift: jax.Array, progress: Any) -> jax.Array:
        params = jax.tree.map(lambda leaf: leaf, STATE)
        params["shift"] = params["shift"].replace(shift)
        return either(params, batch, progress).total

    shift = STATE["shift"][...]
    wanted = 3 * batch["x"].astype(np.float64).sum(axis=0)
    # That of the sum over rows of x * 3 * shift, by hand; the first loss does not read it.
    np.testing.assert_allclose(jax.jit(jax.grad(total))(shift, 0.9), wanted, atol=1e-5)
    assert not np.any(jax.jit(jax.grad(total))(shift, 0.1))
    # The matrices stand still, so nothing in the program makes gradients of them: its products are those of the losses.
    text = jax.jit(jax.value_and_grad(total)).lower(shift, 0.1).as_text()
    assert text.count("dot_general") == 2 * LAYERS


def test_it_takes_the_memory_of_one_loss() -> None:
    batch, at = inputs(ROWS), jnp.float32(0.0)

    def bytes_of(function: Any) -> int:
        def total(params: Any, batch: Any, progress: Any) -> Any:
            return function(params, batch, progress).total

        compiled = jax.jit(jax.grad(total)).lower(STATE, batch, at).compile()
        found = compiled.memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes

    def plainly(params: Any, batch: Any, progress: Any) -> Loss:
        return jax.lax.cond(
            progress < 0.5, lambda *given: alone(first, *given), lambda *given: alone(second, *given), params, batch, at
        )

    one = max(bytes_of(lambda *given, loss=loss: alone(loss, *given)) for loss in (first, second))
    assert one > LAYERS * ROWS * WIDTH * 4  # what the layers keep
    assert bytes_of(either) < 1.2 * one < 1.5 * one < bytes_of(plainly)


def test_runs_that_are_stacked_take_each_its_own() -> None:
    batch = inputs()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), STATE)

    def total(params: Any, batch: Any, progress: Any, function: Any = either) -> Any:
        found = function(params, batch, progress)
        return found.total, found

    found = jax.jit(jax.vmap(jax.value_and_grad(total, has_aux=True), in_axes=(0, None, 0)))(
        both, batch, jnp.asarray([0.1, 0.9])
    )
    for at, loss in ((0, first), (1, second)):

        def one(*given: Any, loss: Any = loss) -> Any:
            return total(*given, function=lambda *given: alone(loss, *given))

        wanted = jax.jit(jax.value_and_grad(one, has_aux=True))(STATE, batch, jnp.float32((0.1, 0.9)[at]))
        for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(own[at], other, rtol=1e-5, atol=1e-5)
