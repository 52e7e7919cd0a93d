"""Rounded products against plain integer arithmetic, their gradients against closed forms, and what inputs measure."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import DYNAMIC, NONE, OBSERVED, STATIC, STORED, TRAINED, EncoderConfig, Quantisation
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.quantised import (
    BINS,
    integer_product,
    observe,
    quantised_product,
    round_inputs,
    round_weights,
    scaled_weights,
    simulate_inputs,
    simulate_weights,
    token_scales,
    weight_scales,
)
from jaxfm.parallel.mesh import build_abstract, initialise, make_mesh
from jaxfm.training.paths import flat
from tests import tiny

RNG = np.random.default_rng(0)
KERNEL_KO = RNG.normal(size=(40, 6)).astype(np.float32)
X_TK = RNG.normal(size=(7, 40)).astype(np.float32)
MAPS = ("query", "key", "value", "output", "up", "down")


def typed(array: Any) -> jax.Array:
    """What a function with a gradient of its own returns."""
    return array


def of_numpy(kernel_KO: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales, column by column and group by group."""
    count, outputs = kernel_KO.shape
    size, limit = group or count, 2 ** (bits - 1) - 1
    whole_KO, scale_GO = np.zeros((count, outputs), np.int64), np.ones((-(-count // size), outputs), np.float32)
    for column in range(outputs):
        for number, first in enumerate(range(0, count, size)):
            part = kernel_KO[first : first + size, column]
            if np.abs(part).max() > 0:
                scale_GO[number, column] = np.abs(part).max() * np.float32(1 / limit)
            whole_KO[first : first + size, column] = np.rint(part / scale_GO[number, column])
    return whole_KO, scale_GO


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 16), (4, 32)])
def test_weights_are_the_nearest_integers_times_scales(bits: int, group: int) -> None:
    kernel_KO = KERNEL_KO.copy()
    kernel_KO[:, 2] = 0  # its scale must not be 0
    expected, scale_GO = of_numpy(kernel_KO, bits, group)
    scale = weight_scales(kernel_KO, bits, group)
    whole = round_weights(kernel_KO, scale, bits, group)
    np.testing.assert_array_equal(scale, scale_GO)
    np.testing.assert_array_equal(whole, expected)
    assert np.abs(whole).max() == 2 ** (bits - 1) - 1
    scaled = scaled_weights(whole, scale, group)
    rows = np.arange(40) // (group or 40)
    np.testing.assert_array_equal(scaled, expected.astype(np.float32) * scale_GO[rows])
    assert 0 < np.abs(scaled - kernel_KO).max() <= scale_GO.max() / 2 * 1.001
    # Rounding twice changes nothing: what is stored is what was trained.
    np.testing.assert_allclose(simulate_weights(scaled, bits, group), scaled, rtol=1e-6)
    grad = jax.grad(lambda kernel: jnp.sum(jnp.square(typed(simulate_weights(kernel, bits, group)))))(kernel_KO)
    np.testing.assert_allclose(grad, 2 * np.asarray(scaled), rtol=1e-6)


@pytest.mark.parametrize("inputs", [STATIC, DYNAMIC])
@pytest.mark.parametrize("axes", [1, 2])
def test_products_of_integers_are_those_of_numpy(inputs: str, axes: int) -> None:
    whole_KO, scale_GO = of_numpy(KERNEL_KO, 8, 0)
    scale = np.float32(0.02) if inputs == STATIC else np.abs(X_TK).max(axis=1, keepdims=True) * np.float32(1 / 127)
    whole_TK = np.clip(np.rint(X_TK / scale), -128, 127).astype(np.int64)
    assert inputs == DYNAMIC or (whole_TK == 127).any()  # some are cut
    expected = (whole_TK @ whole_KO).astype(np.float32) * (scale * scale_GO[0])
    x, whole = (X_TK, whole_KO) if axes == 1 else (X_TK.reshape(7, 4, 10), whole_KO.reshape(4, 10, 6))
    given = jnp.asarray(scale) if inputs == STATIC else token_scales(jnp.asarray(x), axes)
    found = integer_product(x, jnp.asarray(whole, jnp.int8), scale_GO[0], given, axes)
    np.testing.assert_array_equal(found, expected)
    # Of outputs with two axes, as queries have them.
    two: Any = integer_product(
        x, jnp.asarray(whole, jnp.int8).reshape(*whole.shape[:-1], 2, 3), scale_GO[0].reshape(2, 3), given, axes
    )
    np.testing.assert_array_equal(np.reshape(two, (7, 6)), expected)
    # Straight through: the gradient of the product in floats.
    gradient = jax.grad(
        lambda x: jnp.sum(integer_product(x, jnp.asarray(whole, jnp.int8), scale_GO[0], given, axes) * expected)
    )(jnp.asarray(x))
    np.testing.assert_allclose(
        np.reshape(gradient, (7, 40)), expected @ (whole_KO * scale_GO[0]).T, rtol=1e-4, atol=1e-4
    )


def test_simulated_inputs_and_the_gradient_of_their_range() -> None:
    x = np.asarray([-9.0, -4.01, -0.4, 0.26, 1.0, 3.99, 4.0, 50.0], np.float32).reshape(1, 2, 4)
    log2_range, upstream = jnp.float32(2.0), RNG.normal(size=(1, 2, 4)).astype(np.float32)
    scale = 4 / 127
    steps = x / scale
    whole = np.clip(np.rint(steps), -128, 127)
    np.testing.assert_allclose(simulate_inputs(x, log2_range), whole * scale, rtol=1e-6)
    of_x, of_range = jax.grad(lambda x, r: jnp.sum(simulate_inputs(x, r) * upstream), argnums=(0, 1))(x, log2_range)
    within = np.rint(steps) == whole
    assert 0 < within.sum() < 8
    np.testing.assert_array_equal(of_x, upstream * within)
    # Jain et al. 2020, equation 6: s ln 2 times (round(x/s) - x/s) within, the bound outside.
    slope = scale * math.log(2) * np.where(within, whole - steps, whole)
    slope /= math.sqrt(4 * 127)  # Esser et al. 2020: features times the largest integer
    np.testing.assert_allclose(of_range, np.sum(upstream * slope), rtol=1e-4)


def test_trained_and_stored_forms_are_one_function() -> None:
    """What training simulates in floats, integers compute, to the rounding of f32 sums."""
    whole_KO, scale_GO = of_numpy(KERNEL_KO, 8, 0)
    for inputs in (STATIC, DYNAMIC):
        of_training = Quantisation(8, inputs, maps=("up",), form=TRAINED)
        stored = dataclasses.replace(of_training, form=STORED)
        log2_range = jnp.float32(1.0) if inputs == STATIC else None
        trained = quantised_product(jnp.asarray(X_TK), jnp.asarray(KERNEL_KO), 1, of_training, log2_range=log2_range)
        scale = jnp.float32(2 / 127) if inputs == STATIC else None
        integers = quantised_product(
            jnp.asarray(X_TK),
            jnp.asarray(whole_KO, jnp.int8),
            1,
            stored,
            kernel_scale=jnp.asarray(scale_GO[0]),
            input_scale=scale,
        )
        np.testing.assert_allclose(trained, integers, rtol=1e-5, atol=1e-5)
        assert np.abs(integers - X_TK @ KERNEL_KO).max() > 1e-3
        # A layer whose scale is infinite is left in floats, another one of the same program is not.
        for switch, expected in ((scale if scale is not None else jnp.float32(1), integers), (jnp.inf, None)):
            kernel = np.asarray(whole_KO * scale_GO[0], np.float32) if expected is not None else KERNEL_KO
            found = quantised_product(
                jnp.asarray(X_TK),
                jnp.asarray(kernel),
                1,
                dataclasses.replace(stored, switched=True),
                kernel_scale=jnp.asarray(scale_GO[0]),
                input_scale=jnp.float32(switch),
            )
            np.testing.assert_allclose(found, X_TK @ KERNEL_KO if expected is None else expected, rtol=1e-5, atol=1e-5)


def test_dynamic_training_has_the_gradient_of_floats() -> None:
    of_training = Quantisation(8, DYNAMIC, maps=("up",))
    gradient = jax.grad(lambda x: jnp.sum(quantised_product(x, jnp.asarray(KERNEL_KO), 1, of_training)))(X_TK)
    rounded = np.asarray(simulate_weights(KERNEL_KO, 8, 0))
    np.testing.assert_allclose(gradient, np.broadcast_to(rounded.sum(1), X_TK.shape), rtol=1e-4, atol=1e-5)


def test_measurements_leave_padding_out() -> None:
    x_BTD = RNG.normal(size=(2, 5, 3)).astype(np.float32)
    x_BTD[0, 4] = 100.0
    read_BT1 = np.ones((2, 5, 1), np.float32)
    read_BT1[0, 4] = 0
    largest, counts = jnp.float32(2.0), jnp.zeros(8)

    def loss(largest: jax.Array, counts: jax.Array) -> jax.Array:
        return jnp.sum(observe(jnp.asarray(x_BTD), largest, counts) * read_BT1 * 0.3)

    of_largest, of_counts = jax.grad(loss, argnums=(0, 1))(largest, counts)
    values = np.abs(x_BTD[read_BT1[..., 0] > 0]).ravel()
    assert of_largest == values.max() < 100
    expected = np.bincount(np.minimum((values / 2 * 8).astype(int), 7), minlength=8)
    np.testing.assert_array_equal(of_counts, expected)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("remat", ["none", "full"])
def test_each_layer_of_a_loop_measures_its_own_inputs(scan: bool, remat: str) -> None:
    """By the inputs of the first layer's query, which are the embeddings, and sums over all tokens."""
    config = dataclasses.replace(tiny.ENCODER, quantisation=Quantisation(8, maps=MAPS, form=OBSERVED))
    mesh = make_mesh(MeshConfig())
    make = lambda: TokenClassifier(config, 3, Build(scan=scan, remat=remat), nnx.Rngs(0))  # noqa: E731
    graphdef, _ = build_abstract(make, mesh)
    params = jax.jit(lambda: initialise(make))()
    tokens_BT = RNG.integers(1, 90, size=(2, 9))
    segments_BT = np.ones((2, 9), np.int32)
    segments_BT[1, 5:] = 0
    batch = {"tokens": tokens_BT, "segment_ids": segments_BT, "positions": np.tile(np.arange(9), (2, 1))}
    noise_BTD = RNG.normal(size=(2, 9, 32)) * (segments_BT > 0)[..., None]

    def loss(params: Any) -> jax.Array:
        return jnp.sum(nnx.merge(graphdef, params).encoder(batch) * noise_BTD)

    with jax.set_mesh(mesh):
        found = jax.jit(jax.grad(loss))(params)["encoder"]["layers"]
        embedded = jax.jit(lambda params: nnx.merge(graphdef, params).encoder.embeddings(batch).x_BTD)(params)
    counts_LN = found["attention"]["query"]["input_counts"]
    assert counts_LN.shape == (2, BINS)
    np.testing.assert_array_equal(counts_LN.sum(1), 14 * 32)
    np.testing.assert_array_equal(found["ffn"]["down"]["input_counts"].sum(1), 14 * 64)
    embedded_BTD = np.asarray(embedded)
    largest_L = found["attention"]["query"]["input_largest"]
    np.testing.assert_allclose(largest_L[0], np.abs(embedded_BTD[segments_BT > 0]).max(), rtol=1e-6)
    assert largest_L[1] != largest_L[0]


def test_an_encoder_without_rounding_has_the_parameters_that_it_had() -> None:
    def paths(encoder: EncoderConfig) -> set[str]:
        make = lambda: TokenClassifier(encoder, 3, Build(), nnx.Rngs(0))  # noqa: E731
        return set(flat(build_abstract(make, make_mesh(MeshConfig()))[1]))

    plain = paths(tiny.ENCODER)
    assert not any("scale" in path.split("/")[-1] and "norm" not in path for path in plain)
    for quantisation, added in (
        (Quantisation(8, maps=MAPS), set()),
        (Quantisation(4, NONE, 32, MAPS, STORED), set()),
        (Quantisation(8, STATIC, maps=("down",)), {"log2_input_range"}),
        (Quantisation(8, STATIC, maps=("down",), form=STORED), {"kernel_scale", "input_scale"}),
        (Quantisation(8, DYNAMIC, maps=("down",), form=STORED), {"kernel_scale"}),
    ):
        found = paths(dataclasses.replace(tiny.ENCODER, quantisation=quantisation)) - plain
        assert found == {f"encoder/layers/ffn/down/{name}" for name in added}


def test_a_description_that_is_impossible_has_a_problem() -> None:
    assert not Quantisation(8, STATIC, maps=MAPS).problem
    assert "3 bits" in Quantisation(3).problem.replace("3 bits", "3 bits")
    for wrong in (
        Quantisation(3),
        Quantisation(8, "often"),
        Quantisation(4, STATIC),
        Quantisation(8, group=-1),
        Quantisation(8, form="solid"),
    ):
        assert wrong.problem
        with pytest.raises(AssertionError, match="quantisation"):
            dataclasses.replace(tiny.ENCODER, quantisation=wrong)


def test_inputs_round_to_even_and_are_cut() -> None:
    found = round_inputs(jnp.asarray([0.5, 1.5, -0.5, 500.0, -500.0]), jnp.float32(1))
    np.testing.assert_array_equal(found, [0, 2, 0, 127, -128])
