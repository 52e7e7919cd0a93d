"""onnxruntime computes what JAX computes: functions of every kind that models are made of, for several sizes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxfm.errors import UserError
from jaxfm.formats.onnx_lowering import to_onnx
from jaxfm.models.activations import gelu
from jaxfm.models.norms import normalise
from jaxfm.models.rotary import rotate, rotation

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = ((1, 1), (2, 5), (3, 8))
DRAW = np.random.default_rng(0)
W_DNH = DRAW.standard_normal((8, 2, 4)).astype(np.float32)
W_NHD = DRAW.standard_normal((2, 4, 8)).astype(np.float32)
TABLE_VD = DRAW.standard_normal((11, 8)).astype(np.float32)
SCALE_D, BIAS_D = DRAW.standard_normal((2, 8)).astype(np.float32)


def session(model: Any) -> Any:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def check(function: Callable[..., jax.Array], params: Any = (), tolerance: float = 2e-6) -> Any:
    """Compares both for several sizes of "ids" [b, t]; returns the ModelProto."""

    def named(params: Any, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"out": function(*params, given["ids"])}

    model = to_onnx(named, params, {"ids": (("b", "t"), np.int64)})
    run = session(model)
    for shape in SIZES:
        ids = np.random.default_rng(shape).integers(0, 11, shape)
        (found,) = run.run(["out"], {"ids": ids})
        expected = np.asarray(jax.jit(named)(params, {"ids": jnp.asarray(ids, jnp.int32)})["out"])
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    return model


def ops(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


def states(table: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.take(table, ids, axis=0)


def numbers(ids: jax.Array) -> jax.Array:
    """Floats [b, t], some negative, none 0."""
    return ids.astype(jnp.float32) - 4.5


ELEMENTWISE = {
    "arithmetic": lambda ids: (numbers(ids) * 3.0 - 1.0) / (2.0 + abs(numbers(ids))),
    "functions": lambda ids: jnp.exp(-jnp.abs(numbers(ids))) + jnp.tanh(numbers(ids)) + jax.nn.sigmoid(numbers(ids)),
    "logs": lambda ids: jnp.log(abs(numbers(ids))) + jnp.log1p(abs(numbers(ids))) + jnp.expm1(-abs(numbers(ids))),
    "powers": lambda ids: numbers(ids) ** 3 + jnp.sqrt(abs(numbers(ids))) + lax.rsqrt(abs(numbers(ids))),
    "real_power": lambda ids: abs(numbers(ids)) ** jnp.float32(1.5),
    "trigonometry": lambda ids: jnp.sin(numbers(ids)) * jnp.cos(numbers(ids)),
    "rounding": lambda ids: jnp.floor(numbers(ids)) + jnp.ceil(numbers(ids) / 3) + jnp.round(numbers(ids)),
    "bounds": lambda ids: jnp.clip(numbers(ids), -2.0, 3.0) + jnp.maximum(numbers(ids), 0) + jnp.minimum(ids, 3),
    "swiglu": lambda ids: jax.nn.silu(numbers(ids)) * numbers(ids),
    "relu": lambda ids: jax.nn.relu(numbers(ids)),
    "tanh_gelu": lambda ids: jax.nn.gelu(numbers(ids), approximate=True),
    "gelu": lambda ids: gelu(numbers(ids)),
    "integers": lambda ids: (ids - 5) // 3 + (ids - 5) % 3 + lax.rem(ids - 5, jnp.int32(3)) + jnp.sign(ids - 5),
    "comparisons": lambda ids: (ids > 3) & (ids <= 7) | ~(ids != 9) ^ (ids == 2),
    "where": lambda ids: jnp.where(ids > 4, numbers(ids), -1e30),
    "where_of_booleans": lambda ids: jnp.where(ids > 4, ids < 7, ids == 1),
    "select_of_three": lambda ids: lax.select_n(ids % 3, ids, ids * 10, ids * 100),
}  # fmt: skip

SHAPES = {
    "positions": lambda ids: jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape),
    "columns": lambda ids: lax.broadcasted_iota(jnp.int32, (ids.shape[0], ids.shape[1], 3), 2),
    "size_as_value": lambda ids: numbers(ids) / ids.shape[1],
    "constant_of_a_size": lambda ids: jnp.zeros((ids.shape[0], 4, ids.shape[1])) + 2.0,
    "mask": lambda ids: (ids[:, :, None] == ids[:, None, :])[:, None],
    "relative": lambda ids: jnp.arange(ids.shape[1])[:, None] - jnp.arange(ids.shape[1])[None],
    "concatenate": lambda ids: jnp.concatenate([numbers(ids), jnp.zeros((ids.shape[0], 2)), -numbers(ids)], axis=1),
    "halves": lambda ids: jnp.concatenate(jnp.split(jnp.tile(numbers(ids)[..., None], 6), 2, axis=-1)[::-1], axis=-1),
    "strides": lambda ids: jnp.tile(numbers(ids)[..., None], 6)[:, :, 1:6:2],
    "first": lambda ids: numbers(ids)[:, 0],
    "last": lambda ids: numbers(ids)[:, -1:],
    "flip": lambda ids: jnp.flip(numbers(ids), axis=1),
    "pad": lambda ids: jnp.pad(numbers(ids), ((0, 0), (1, 2)), constant_values=7.0),
    "pad_of_a_size": lambda ids: jnp.pad(ids, ((0, 0), (0, -ids.shape[1] % 4))),
    "pad_of_booleans": lambda ids: jnp.pad(ids > 4, ((0, 0), (1, 0)), constant_values=True),
    "shift": lambda ids: lax.pad(numbers(ids), jnp.float32(0), [(0, 0, 0), (1, -1, 0)]),
    "flatten": lambda ids: jnp.tile(numbers(ids)[..., None], 6).reshape(-1, 3),
    "one_row": lambda ids: numbers(ids).reshape(-1),
    "transposed": lambda ids: jnp.tile(numbers(ids)[..., None], 6).transpose(2, 0, 1).transpose(1, 0, 2),
    "swap": lambda ids: jnp.swapaxes(numbers(ids), 0, 1),
    "squeeze": lambda ids: jnp.expand_dims(numbers(ids), 1).squeeze(1)[..., None, None],
}  # fmt: skip

REDUCTIONS = {
    "sum": lambda ids: numbers(ids).sum(axis=-1),
    "mean_of_all": lambda ids: numbers(ids).mean(),
    "extremes": lambda ids: numbers(ids).max(axis=0) + numbers(ids).min(axis=0),
    "product": lambda ids: numbers(ids).prod(axis=1, keepdims=True),
    "any": lambda ids: (ids > 8).any(axis=1) | (ids > 0).all(axis=1),
    "counts": lambda ids: (ids > 4).sum(axis=1),
    "cumulative": lambda ids: jnp.cumsum(ids, axis=-1) - 1,
    "cumulative_from_the_end": lambda ids: lax.cumsum(numbers(ids), axis=1, reverse=True),
    "argmax": lambda ids: jnp.argmax(numbers(ids), axis=-1) + 10 * jnp.argmin(ids, axis=1),
    "repeated": lambda ids: jnp.broadcast_to(numbers(ids)[..., None], (*ids.shape, 4)).sum(axis=2),
    "softmax": lambda ids: jax.nn.softmax(numbers(ids)[:, None, :] * numbers(ids)[:, :, None], axis=-1),
    "softmax_over_rows": lambda ids: jax.nn.softmax(numbers(ids), axis=0),
    "log_softmax": lambda ids: jax.nn.log_softmax(numbers(ids), axis=-1),
}  # fmt: skip


@pytest.mark.parametrize("name", [*ELEMENTWISE, *SHAPES, *REDUCTIONS])
def test_functions_without_parameters(name: str) -> None:
    # Sines and products of large numbers differ by a few units of the last place between libraries.
    check({**ELEMENTWISE, **SHAPES, **REDUCTIONS}[name], tolerance=1e-5)


PRODUCTS = {
    "weights": lambda w, ids: jnp.einsum("btd,dnh->btnh", states(TABLE_VD, ids), w),
    "two_summed_axes": lambda w, ids: jnp.einsum("btnh,dnh->btd", heads(w, ids), w),
    "weights_on_the_left": lambda w, ids: jnp.einsum("dnh,btd->nbth", w, states(TABLE_VD, ids)),
    "scores": lambda w, ids: jnp.einsum("btnh,bsnh->bnts", heads(w, ids), heads(w, ids)),
    "context": lambda w, ids: jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(scores(w, ids)), heads(w, ids)),
    "outer": lambda w, ids: jnp.einsum("bt,bs->bts", numbers(ids), numbers(ids)),
    "inner": lambda w, ids: jnp.einsum("bt,bt->b", numbers(ids), numbers(ids)),
    "batch_of_weights": lambda w, ids: jnp.einsum("btnh,nhk->btnk", heads(w, ids), jnp.asarray(W_NHD)),
    "pooled": lambda w, ids: jnp.einsum(
        "bst,btd->bsd", (ids[:, None] == jnp.arange(3)[None, :, None]) * 1.0, states(TABLE_VD, ids)
    ),
    "grouped_keys": lambda w, ids: jnp.einsum(
        "btnh,bsnh->bnts", heads(w, ids), jnp.repeat(heads(w, ids)[:, :, :1], 2, 2)
    ),
}  # fmt: skip


def heads(w_DNH: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.einsum("btd,dnh->btnh", states(TABLE_VD, ids), w_DNH)


def scores(w_DNH: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.einsum("btnh,bsnh->bnts", heads(w_DNH, ids), heads(w_DNH, ids)) / 10


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    check(lambda w, ids: PRODUCTS[name](w, ids), (W_DNH,), tolerance=1e-5)


def buckets(ids: jax.Array) -> jax.Array:
    """Distances in buckets, wider the farther (T5's): logarithms of integers, with a bias a bucket."""
    tokens = ids.shape[1]
    distance = jnp.arange(tokens)[None] - jnp.arange(tokens)[:, None]
    far = 2 + (jnp.log(jnp.maximum(abs(distance), 1) / 2 + 1e-6) / np.log(4) * 2).astype(jnp.int32)
    return (distance > 0) * 4 + jnp.where(abs(distance) < 2, abs(distance), jnp.minimum(far, 3))


GATHERS = {
    "rows": lambda table, ids: jnp.take(table, ids, axis=0),
    "columns": lambda table, ids: jnp.take(table, ids % 8, axis=1),
    "one_row": lambda table, ids: table[3] + numbers(ids)[..., None],
    "bias_by_buckets": lambda table, ids: table[buckets(ids)].transpose(2, 0, 1)[None],
    "along_the_last_axis": lambda table, ids: jnp.take_along_axis(table[ids], (ids % 8)[..., None], axis=-1),
    "disentangled": lambda table, ids: jnp.take_along_axis(
        jnp.einsum("btd,vd->btv", table[ids], table),
        jnp.broadcast_to(
            jnp.clip(jnp.arange(ids.shape[1])[:, None] - jnp.arange(ids.shape[1])[None] + 5, 0, 10),
            (ids.shape[0], ids.shape[1], ids.shape[1]),
        ),
        axis=-1,
    ),
    "chosen_tokens": lambda table, ids: jnp.take_along_axis(table[ids], (ids % ids.shape[1])[..., None], axis=1),
    "kept_axis": lambda table, ids: lax.dynamic_slice_in_dim(states(table, ids), 2, 3, axis=2),
    "last_token": lambda table, ids: states(table, ids)[:, -1:],
    "pairs": lambda table, ids: table[ids, ids % 8],
}  # fmt: skip


@pytest.mark.parametrize("name", GATHERS)
def test_gathers(name: str) -> None:
    check(lambda table, ids: GATHERS[name](table, ids), (TABLE_VD,), tolerance=1e-5)


def test_layer_norm_gelu_and_softmax_are_one_operator() -> None:
    def norm(table: jax.Array, scale: jax.Array, bias: jax.Array, ids: jax.Array) -> jax.Array:
        return normalise(states(table, ids), scale, bias, 1e-6)

    model = check(norm, (TABLE_VD, SCALE_D, BIAS_D), tolerance=1e-5)
    assert "LayerNormalization" in ops(model) and "ReduceSum" not in ops(model)
    model = check(lambda table, scale, ids: normalise(states(table, ids), scale, None, 1e-6), (TABLE_VD, SCALE_D))
    assert "LayerNormalization" in ops(model)
    model = check(lambda ids: jax.nn.softmax(numbers(ids)[:, None], axis=-1))
    assert "Softmax" in ops(model) and "Exp" not in ops(model)
    assert ops(check(lambda ids: gelu(numbers(ids))))[-5:] == ["Erf", "Add", "Mul", "Mul", "Identity"]


def test_a_norm_that_no_operator_has_is_written_out() -> None:
    def rms_norm(scale: jax.Array, ids: jax.Array) -> jax.Array:
        x = states(TABLE_VD, ids)
        return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * scale

    check(rms_norm, (SCALE_D,))


def test_rotary_positions() -> None:
    def rotated(w: jax.Array, ids: jax.Array) -> jax.Array:
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        return rotate(heads(w, ids), rotation(positions, 4, 100.0))

    check(rotated, (W_DNH,), tolerance=1e-5)


def test_loops_over_layers_are_unrolled() -> None:
    stacked = DRAW.standard_normal((3, 8, 8)).astype(np.float32)

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jnp.tanh(x @ w)
        return y, y.mean(axis=-1)

    for reverse in (False, True):

        def loop(w: jax.Array, ids: jax.Array, reverse: bool = reverse) -> jax.Array:
            x, means = lax.scan(layer, states(TABLE_VD, ids), w, reverse=reverse)
            return x.sum() + means  # noqa: B023

        model = check(loop, (stacked,), tolerance=1e-5)
        assert "Loop" not in ops(model) and ops(model).count("MatMul") == 3


def test_what_depends_on_parameters_alone_is_computed_now() -> None:
    model = check(lambda w, ids: numbers(ids) * jnp.sum(jnp.exp(w)) / jnp.sqrt(jnp.float32(w.size)), (W_DNH,))
    assert not {"Exp", "ReduceSum", "Sqrt"} & set(ops(model))


def test_a_table_that_is_used_twice_is_kept_once() -> None:
    def tied(table: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.einsum("btd,vd->btv", jnp.tanh(states(table, ids)), table)

    model = check(tied, (TABLE_VD,), tolerance=1e-5)
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) == TABLE_VD.nbytes]
    assert len(large) == 1


def test_sizes_are_symbols_in_the_file() -> None:
    model = check(lambda table, ids: states(table, ids), (TABLE_VD,))
    (given,), (out,) = model.graph.input, model.graph.output
    sizes = [dim.dim_param or dim.dim_value for dim in out.type.tensor_type.shape.dim]
    assert sizes == ["b", "t", 8]
    assert [dim.dim_param for dim in given.type.tensor_type.shape.dim] == ["b", "t"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda ids: jnp.sort(ids), "computes sort, a primitive of JAX that has no form in ONNX here"),
        (lambda ids: lax.shift_left(ids, 2), "computes shift_left"),
        (lambda ids: ids & 3, "computes and of bits"),
        (lambda ids: states(TABLE_VD, ids)[:, -1:, 2:4], "gathers slices that are not whole axes"),
        (lambda ids: lax.scan(lambda c, x: (c + x, x), ids[0, 0], ids.reshape(-1))[0][None], "loops over its tokens"),
    ],
)
def test_what_onnx_cannot_say_is_refused(function: Callable[..., jax.Array], message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_onnx(lambda _, given: {"out": function(given["ids"])}, (), {"ids": (("b", "t"), np.int64)})


def test_a_module_of_flax_is_a_function_too() -> None:
    linear = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(linear)
    params = nnx.to_pure_dict(state)

    def apply(params: Any, ids: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params)(states(TABLE_VD, ids))

    check(apply, (jax.tree.map(np.asarray, params),), tolerance=1e-5)
