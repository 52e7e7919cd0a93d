"""Layer norm and its gradient against finite differences in float64; what its backward pass keeps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.norms import LayerNorm, make_norm, normalise, rms_normalise
from jaxfm.parallel import mesh as meshes

EPSILON = 1e-5
ROWS, FEATURES = 5, 7


def exact(x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Layer norm in float64, by the book."""
    centred = x - x.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON) * scale
    return y if bias is None else y + bias


def drawn(*, biased: bool) -> tuple[list[Any], np.ndarray]:
    """Inputs far from zero mean and unit variance, and a gradient of the result, in float64."""
    rng = np.random.default_rng(0)
    x = 3.0 + 2.0 * rng.normal(size=(2, ROWS, FEATURES))
    bias = rng.normal(size=FEATURES) if biased else None
    return [x, 1.0 + 0.3 * rng.normal(size=FEATURES), bias], rng.normal(size=x.shape)


def differences(arrays: list[Any], which: int, back: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """The gradient of sum(back * y) to one of the arrays, element by element."""
    base: np.ndarray = arrays[which]
    found = np.empty_like(base)
    for place in np.ndindex(*base.shape):
        ends = []
        for sign in (1.0, -1.0):
            moved = base.copy()
            moved[place] += sign * step
            x, scale, bias = [*arrays[:which], moved, *arrays[which + 1 :]]
            ends.append((back * exact(x, scale, bias)).sum())
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def narrow(array: np.ndarray | None) -> Any:
    return None if array is None else jnp.asarray(array, jnp.float32)


@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_against_finite_differences(biased: bool) -> None:
    arrays, back = drawn(biased=biased)
    pulled: Any = jax.vjp(lambda x, scale, bias: normalise(x, scale, bias, EPSILON), *map(narrow, arrays))
    result, pull = pulled
    np.testing.assert_allclose(result, exact(*arrays), atol=2e-6)
    gradients = pull(narrow(back))
    for which, gradient in enumerate(gradients):
        if arrays[which] is None:
            assert gradient is None
        else:
            np.testing.assert_allclose(gradient, differences(arrays, which, back), atol=1e-5)


def test_bf16_is_rounded_once() -> None:
    """Computed in f32 and rounded at the end: half a unit in the last place of the result, no more."""
    arrays, back = drawn(biased=True)
    x, scale, bias = map(narrow, arrays)
    low = x.astype(jnp.bfloat16)
    pulled: Any = jax.vjp(lambda x: normalise(x, scale, bias, EPSILON), low)
    result, pull = pulled
    assert result.dtype == jnp.bfloat16
    wide = [np.asarray(low, np.float64), *arrays[1:]]
    np.testing.assert_allclose(np.asarray(result, np.float64), exact(*wide), rtol=2.0**-8, atol=1e-6)
    (gradient,) = pull(jnp.asarray(back, jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    expected = differences(wide, 0, np.asarray(jnp.asarray(back, jnp.bfloat16), np.float64))
    np.testing.assert_allclose(np.asarray(gradient, np.float64), expected, rtol=2.0**-8, atol=1e-5)


def test_a_large_mean_costs_no_digits() -> None:
    """The one-pass variance of f32 has none left here."""
    x = 1e4 + np.arange(64, dtype=np.float64)[None]
    ones = np.ones(64)
    result: Any = normalise(narrow(x), narrow(ones), None, EPSILON)
    np.testing.assert_allclose(result, exact(x, ones, None), atol=1e-5)


def test_the_backward_pass_keeps_the_input_and_two_numbers_a_row() -> None:
    x = jnp.ones((4, 32, 256), jnp.bfloat16)
    _, pull = jax.vjp(lambda x: normalise(x, jnp.ones(256), jnp.zeros(256), EPSILON), x)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(pull))
    assert kept <= x.nbytes + 2 * 4 * 4 * 32 + 2 * 4 * 256


def test_the_module_is_that_of_flax() -> None:
    """The same parameters under the same names, and the same function of them."""
    own = LayerNorm(8, epsilon=1e-3, rngs=nnx.Rngs(0))
    other = nnx.LayerNorm(8, epsilon=1e-3, use_fast_variance=False, rngs=nnx.Rngs(0))
    nnx.update(other, nnx.state(own))
    x = jax.random.normal(jax.random.key(0), (3, 8)) * 4 + 1
    np.testing.assert_allclose(own(x), other(x), atol=1e-6)


def test_rms_norm_and_its_gradient_are_those_of_float64() -> None:
    (x, scale, _), back = drawn(biased=False)

    def exact_rms(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * scale

    found, pull = jax.vjp(lambda x, scale: rms_normalise(x, scale, EPSILON), *map(jnp.float32, (x, scale)))
    np.testing.assert_allclose(found, exact_rms(x, scale), atol=1e-6)
    step = 1e-6
    for which, gradient in enumerate(pull(jnp.float32(back))):
        base = (x, scale)[which]
        expected = np.empty_like(base)
        for place in np.ndindex(*base.shape):
            ends = []
            for sign in (1.0, -1.0):
                moved = [x.copy(), scale.copy()]
                moved[which][place] += sign * step
                ends.append(np.sum(back * exact_rms(*moved)))
            expected[place] = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_new_rms_norm_scales_by_one(offset: float) -> None:
    config = EncoderConfig(norm="rms", norm_scale_offset=offset, hidden_size=4, num_heads=1)
    make = lambda: make_norm(config, jnp.dtype(jnp.bfloat16), nnx.Rngs(0))  # noqa: E731
    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    norm = nnx.merge(graphdef, jax.jit(lambda: meshes.initialise(make))())
    assert float(norm.scale[...][0]) == 1.0 - offset
    result = norm(jnp.asarray([[3.0, -3.0, 3.0, 3.0]], jnp.bfloat16))
    assert result.dtype == jnp.bfloat16 and np.abs(result.astype(jnp.float32)).tolist() == [[1.0] * 4]
