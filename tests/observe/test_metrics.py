import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.observe.metrics import add, means, weighted, zeros_like


def test_weighted_is_f32_sum_and_weight() -> None:
    pair = weighted(3, 4.0)
    assert pair.dtype == jnp.float32 and pair.tolist() == [3.0, 4.0]
    assert weighted(jnp.asarray(2.5, jnp.bfloat16)).tolist() == [2.5, 1.0]


def test_the_mean_of_parts_is_the_mean_of_all_whatever_their_sizes() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=1000)
    cuts = [0, 1, 7, 500, 998, 1000]
    parts = [values[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    total = {"loss": jnp.zeros(2), "right": jnp.zeros(2)}
    for part in parts:
        total = add(total, {"loss": weighted(part.sum(), len(part)), "right": weighted((part > 0).sum(), len(part))})
    result = means(total)
    np.testing.assert_allclose(result["loss"], values.mean(), rtol=1e-4)
    assert result["right"] == float(np.float32((values > 0).mean())) or math.isclose(
        result["right"], (values > 0).mean()
    )
    assert abs(np.mean([part.mean() for part in parts]) - values.mean()) > 0.01  # the mean of means is another number


def test_zeros_like_adds_nothing_and_takes_abstract_values() -> None:
    sums = {"loss": weighted(2.0, 4.0)}
    abstract = jax.eval_shape(lambda: sums)
    np.testing.assert_array_equal(add(zeros_like(abstract), sums)["loss"], [2.0, 4.0])


def test_no_weight_is_nan_and_not_zero() -> None:
    result = means({"loss": weighted(0.0, 0.0), "accuracy": weighted(1.0, 2.0)})
    assert math.isnan(result["loss"]) and result["accuracy"] == 0.5
    assert all(type(value) is float for value in result.values())
