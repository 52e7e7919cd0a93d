import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models.rotary import rotate, rotation

POSITIONS = np.asarray([[0, 1, 2, 7, 8191]], np.int32)


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
def test_pairs_turn_as_complex_numbers(theta: float) -> None:
    x = np.random.default_rng(0).normal(size=(1, 5, 2, 8)).astype(np.float32)
    angles = POSITIONS[..., None, None] * theta ** (-np.arange(4) / 4.0)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    result = rotate(jnp.asarray(x), rotation(jnp.asarray(POSITIONS), 8, theta))
    # Angles are f32: at position 8191 they are off by 2^-24 of 8191 radians, and the frequency as much again.
    np.testing.assert_allclose(result, expected, atol=4e-3)
    np.testing.assert_allclose(np.asarray(result)[:, :4], expected[:, :4], atol=1e-5)
    np.testing.assert_array_equal(np.asarray(result)[:, 0], x[:, 0])


def test_a_product_of_two_depends_on_their_distance_alone() -> None:
    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def product(i: int, j: int) -> float:
        at = [rotation(jnp.asarray([[position]]), 8, 100.0) for position in (i, j)]
        return float(jnp.sum(rotate(jnp.asarray(q), at[0]) * rotate(jnp.asarray(k), at[1])))

    assert product(3, 5) == pytest.approx(product(20, 22), abs=1e-5)
    assert abs(product(3, 5) - product(5, 3)) > 0.1


def test_bf16_is_turned_in_f32() -> None:
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 5, 1, 8)), jnp.bfloat16)
    by = rotation(jnp.asarray(POSITIONS), 8, 10_000.0)
    result = rotate(x, by)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, rotate(x.astype(jnp.float32), by).astype(jnp.bfloat16))
