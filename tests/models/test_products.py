"""Products with narrow inputs and wide sums, against numpy's einsum in f64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models import products
from jaxfm.models.products import add_bias, einsum, tensordot
from jaxfm.parallel import target

SIZES = {"b": 2, "n": 3, "t": 8, "s": 6, "h": 4, "d": 12, "f": 10}
# Those of an encoder: linear maps of one and of two axes, scores, mixtures, a vocabulary, keys that all rows share.
SPECS = [
    "btd,df->btf",
    "btd,dnh->btnh",
    "btnh,nhd->btd",
    "btnh,bsnh->bnts",
    "bnts,bsnh->btnh",
    "btd,fd->btf",
    "btnh,snh->bnts",
    "bnts,snh->btnh",
]


def operands(spec: str, dtype=jnp.float32) -> tuple[jax.Array, jax.Array]:
    shapes = [[SIZES[index] for index in of] for of in spec.split("->")[0].split(",")]
    draw = np.random.default_rng(7).normal
    # Quarters: exact in bf16, and so are their products in f32.
    x, y = (jnp.asarray(np.round(draw(size=shape) * 4) / 4, dtype) for shape in shapes)
    return x, y


@pytest.fixture(params=["this platform", "matrix units", "no matrix units", "elsewhere"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way in which a product is written for some machine, run on this one."""
    if request.param == "elsewhere":  # as for TPU and GPU
        monkeypatch.setattr(target, "platform", lambda: "tpu")
    elif request.param != "this platform":
        if request.param == "matrix units" and not target.cpu_multiplies_bf16():
            pytest.skip("this CPU has no matrix units for bf16")
        monkeypatch.setattr(target, "cpu_multiplies_bf16", lambda: request.param == "matrix units")
    return request.param


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients(spec: str, dtype, way: str) -> None:
    x, y = operands(spec, dtype)
    ops, result = spec.split("->")
    of_x, of_y = ops.split(",")
    wide = [np.asarray(operand, np.float64) for operand in (x, y)]
    expected = np.einsum(spec, *wide)
    weights = np.round(np.random.default_rng(8).normal(size=expected.shape) * 4) / 4

    def total(x, y):
        return (einsum(spec, x, y, jnp.float32) * jnp.asarray(weights, jnp.float32)).sum()

    found = jax.jit(lambda x, y: einsum(spec, x, y, jnp.float32))(x, y)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    of_operands = jax.jit(jax.grad(total, argnums=(0, 1)))(x, y)
    wanted = (
        np.einsum(f"{result},{of_y}->{of_x}", weights, wide[1]),
        np.einsum(f"{of_x},{result}->{of_y}", wide[0], weights),
    )
    for gradient, exact in zip(of_operands, wanted, strict=True):
        assert gradient.dtype == dtype
        np.testing.assert_allclose(gradient, jnp.asarray(exact, jnp.float32).astype(dtype), rtol=1e-6, atol=1e-6)


def test_an_ellipsis_stands_for_any_leading_axes() -> None:
    x, y = operands("btnh,bsnh->bnts")
    found = einsum("...tnh,...snh->...nts", x, y)
    np.testing.assert_allclose(found, np.einsum("btnh,bsnh->bnts", x, y), rtol=1e-5, atol=1e-6)


def test_sums_are_wide_and_rounded_once() -> None:
    """4,096 ones and one: bf16 sums would stay at 256."""
    x, y = jnp.ones((1, 1, 4096), jnp.bfloat16), jnp.ones((4096, 1), jnp.bfloat16)
    assert tensordot(x, y, 1).dtype == jnp.bfloat16
    assert float(jax.jit(tensordot, static_argnums=2)(x, y, 1)[0, 0, 0]) == 4096.0
    gradient = jax.jit(jax.grad(lambda y: tensordot(jnp.ones((1, 4096, 1), jnp.bfloat16), y, 1).astype(float).sum()))
    assert float(gradient(jnp.ones((1, 1), jnp.bfloat16))[0, 0]) == 4096.0


def test_the_gradient_of_an_f32_result_is_multiplied_in_the_dtype_of_the_operands() -> None:
    x, y = operands("btd,df->btf", jnp.bfloat16)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x, y: (einsum("btd,df->btf", x, y, jnp.float32) ** 2).sum(), (0, 1)))(x, y)
    dots = [line for line in str(jaxpr).splitlines() if "dot_general" in line and "preferred" in str(jaxpr)]
    assert len(dots) == 3
    assert str(jaxpr).count("preferred_element_type=float32") == 3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bias(dtype, way: str) -> None:
    y, _ = operands("btnh,d->b", dtype)
    bias = jnp.asarray(np.arange(12).reshape(3, 4) / 4, jnp.float32)
    weights = jnp.asarray(np.round(np.random.default_rng(9).normal(size=y.shape) * 4) / 4, jnp.float32)
    np.testing.assert_array_equal(add_bias(y, bias), y + bias.astype(dtype))
    of_y, of_bias = jax.jit(jax.grad(lambda y, bias: (add_bias(y, bias) * weights).sum(), argnums=(0, 1)))(y, bias)
    np.testing.assert_array_equal(of_y, weights.astype(dtype))
    assert of_bias.dtype == jnp.float32
    np.testing.assert_allclose(of_bias, weights.sum(axis=(0, 1)), rtol=1e-2 if dtype == jnp.bfloat16 else 1e-6)


def test_linear_maps_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """flax hands its dimension numbers over: a layer equals the einsum."""
    from flax import nnx

    layer = nnx.LinearGeneral((3, 4), (5, 2), axis=(-2, -1), dot_general=products.dot_general, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 3, 4)), jnp.float32)
    np.testing.assert_allclose(layer(x), np.einsum("btnh,nhof->btof", x, layer.kernel[...]), rtol=1e-5, atol=1e-6)
