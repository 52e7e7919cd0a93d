import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models.activations import ACTIVATION, gelu

X = np.concatenate([np.linspace(-6.0, 6.0, 2001), [-40.0, 0.0, 40.0]]).astype(np.float32)


def phi(x: float) -> float:
    """The normal distribution function in the form that keeps its digits for negative x."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def test_gelu_is_x_times_the_normal_distribution_function() -> None:
    expected = np.asarray([x * phi(x) for x in X.astype(np.float64)])
    np.testing.assert_allclose(gelu(jnp.asarray(X)), expected, atol=2e-6)
    tanh_form = jax.nn.gelu(jnp.asarray(X), approximate=True)
    assert np.abs(tanh_form - expected).max() > 1e-4  # so the tolerance above tells the two forms apart


def test_gelu_has_the_closed_form_gradient() -> None:
    expected = [phi(x) + x * math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in X.astype(np.float64)]
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(X)), expected, atol=2e-6)


def test_gelu_keeps_the_dtype_and_bf16_precision() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    result = gelu(x)
    assert result.dtype == jnp.bfloat16
    exact = np.asarray([v * phi(v) for v in np.asarray(x, np.float64)])
    # The factor is at most 1 and is off by three roundings of bf16 (erf, sum, product): 2^-9 each, and one of 1 + erf.
    np.testing.assert_array_less(np.abs(np.asarray(result, np.float64) - exact), 4 * 2.0**-9 * np.abs(x) + 1e-6)


def test_the_backward_pass_of_gelu_keeps_its_input_alone() -> None:
    x = jnp.ones((8, 128), jnp.bfloat16)
    _, pull = jax.vjp(gelu, x)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) <= x.nbytes


def test_the_gradient_of_gelu_is_rounded_once_in_bf16() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    gradient = np.asarray(jax.vmap(jax.grad(gelu))(x), np.float64)
    wide = np.asarray(x, np.float64)
    expected = np.asarray([phi(v) + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in wide])
    np.testing.assert_allclose(gradient, expected, rtol=2.0**-8, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "theirs"), [("gelu", "gelu"), ("gelu_tanh", "gelu_new"), ("relu", "relu"), ("silu", "silu")]
)
def test_activations_and_their_gradients_are_those_of_transformers(name: str, theirs: str) -> None:
    torch = pytest.importorskip("torch")
    from transformers.activations import ACT2FN

    x = torch.from_numpy(X[X != 0]).requires_grad_()  # relu has no gradient at 0
    expected = ACT2FN[theirs](x)
    expected.sum().backward()
    ours = jnp.asarray(x.detach().numpy())
    # 1 + tanh(x) cancels where tanh is near -1; XLA's tanh is off by 8e-7 there, times |x| / 2.
    np.testing.assert_allclose(ACTIVATION[name](ours), expected.detach().numpy(), atol=5e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(ACTIVATION[name]))(ours), x.grad.numpy(), atol=5e-6)


@pytest.mark.parametrize("name", ["gelu_tanh", "silu"])
def test_other_activations_keep_their_input_alone_too(name: str) -> None:
    _, pull = jax.vjp(ACTIVATION[name], jnp.ones((8, 128), jnp.bfloat16))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) == 8 * 128 * 2
