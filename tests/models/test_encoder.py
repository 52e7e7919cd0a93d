"""The encoder whole: what one token may know of another, however layers are run and rows are packed."""

# B batch, T tokens, D model

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes
from tests import tiny

# A wide spread of weights: with the usual 0.02 a fresh encoder hardly mixes tokens, and a leak would be too small.
CONFIG = EncoderConfig(
    vocab_size=96, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, max_positions=16, initializer_range=0.3
)
SEGMENTS = np.asarray([[1] * 5 + [2] * 4 + [3] * 7, [1] * 6 + [2] * 5 + [0] * 5, [0] * 16], np.int32)
POSITIONS = np.asarray([[*range(5), *range(4), *range(7)], [*range(6), *range(5), *[0] * 5], [0] * 16], np.int32)
# Every token of the batch is another row of the word embedding, so a gradient with respect to that row is one with
# respect to that one token.
TOKENS = np.random.default_rng(0).permutation(CONFIG.vocab_size)[: SEGMENTS.size].reshape(SEGMENTS.shape)
BATCH = {
    "tokens": TOKENS.astype(np.int32),
    "segment_ids": SEGMENTS,
    "positions": POSITIONS,
    "type_ids": SEGMENTS % 2,
}
KEY = jax.random.key(5)


def parameters(abstract: Any) -> Any:
    """Wide weights, and norms and biases away from 1 and 0, where they would not count."""
    draw = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        noise = draw.normal(size=leaf.shape).astype(np.float32)
        wide = path[-1].key in ("kernel", "embedding")
        return 0.3 * noise if wide else (path[-1].key == "scale") + 0.1 * noise

    return jax.tree_util.tree_map_with_path(value, abstract)


def build(make: Any) -> tuple[Any, Any]:
    """Returns graph definition and parameters without running an initialiser."""
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    return graphdef, parameters(abstract)


@functools.cache
def program(scan: bool = True, dropout: bool = False) -> Any:
    """Compiles (params, batch, chosen_BT) -> (gradients of a sum over the chosen tokens, hidden states)."""
    graphdef, _ = build(lambda: Encoder(CONFIG, Build(scan=scan), nnx.Rngs(0)))

    def output(params: Any, batch: Any, chosen_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden_BTD = nnx.merge(graphdef, params)(batch, key=KEY if dropout else None)
        return jnp.sum(jnp.sin(hidden_BTD) * chosen_BT[..., None]), hidden_BTD

    return jax.jit(jax.grad(output, has_aux=True)).lower(PARAMS, BATCH, EVERYWHERE).compile(tiny.AS_USERS_COMPILE)


def forward(key: jax.Array | None, *, dtype: Any = jnp.float32, rate: float = 0.1) -> Any:
    """Compiles params -> hidden states of BATCH."""
    config = dataclasses.replace(CONFIG, dropout=rate)
    graphdef, _ = build(lambda: Encoder(config, Build(dtype=dtype), nnx.Rngs(0)))
    return jax.jit(lambda params: nnx.merge(graphdef, params)(BATCH, key=key))


def influence(gradients: Any) -> np.ndarray:
    """How much each token of the batch counts, [B, T]."""
    return np.abs(np.asarray(gradients["embeddings"]["word"]["embedding"])[TOKENS]).max(axis=-1)


PARAMS = build(lambda: Encoder(CONFIG, DEFAULT_BUILD, nnx.Rngs(0)))[1]
EVERYWHERE = np.ones(SEGMENTS.shape, bool)
both_ways = pytest.mark.parametrize(
    "scan", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["scan", "unrolled"]
)
with_and_without = pytest.mark.parametrize("dropout", [False, True], ids=["no dropout", "dropout"])


@with_and_without
@both_ways
def test_no_gradient_crosses_a_segment(scan: bool, dropout: bool) -> None:
    for row, segment in [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]:
        chosen = np.zeros(SEGMENTS.shape, bool)
        chosen[row] = SEGMENTS[row] == segment
        found = influence(program(scan, dropout)(PARAMS, BATCH, chosen)[0])
        np.testing.assert_array_equal(found[~chosen], 0.0)
        assert (found[chosen] > 1e-4).all()  # and inside a segment everything depends on everything


def test_the_leak_test_sees_a_leak() -> None:
    joined = BATCH | {"segment_ids": np.ones_like(SEGMENTS)}
    found = influence(program()(PARAMS, joined, SEGMENTS == 2)[0])
    assert (found[:2] > 0).all() and (found[2] == 0).all()


@with_and_without
def test_padding_gives_no_nan_and_takes_no_gradient(dropout: bool) -> None:
    assert (SEGMENTS[2] == 0).all()
    gradients, hidden = program(True, dropout)(PARAMS, BATCH, SEGMENTS > 0)
    assert np.isfinite(hidden).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_array_equal(influence(gradients)[SEGMENTS == 0], 0.0)
    nothing, _ = program(True, dropout)(PARAMS, jax.tree.map(np.zeros_like, BATCH), EVERYWHERE)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing))


@with_and_without
def test_unrolled_equals_scanned(dropout: bool) -> None:
    results = [program(scan, dropout)(PARAMS, BATCH, SEGMENTS > 0) for scan in (True, False)]
    if not dropout:  # with it, the random bits of the unrolled program come from loops of their own
        texts = [program(scan, dropout).as_text() for scan in (True, False)]
        assert "while(" in texts[0] and "while(" not in texts[1]  # they really are two programs
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(results[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * largest), *results)


def test_layers_are_applied_in_order() -> None:
    swapped = PARAMS | {"layers": jax.tree.map(lambda leaf: leaf[::-1], PARAMS["layers"])}
    hidden, other = (program()(params, BATCH, EVERYWHERE)[1] for params in (PARAMS, swapped))
    assert np.abs(np.asarray(hidden) - other).max() > 0.1


def test_fresh_layers_differ_and_are_cut_at_two_deviations() -> None:
    kernel = jax.jit(
        lambda: meshes.initialise(lambda: Encoder(CONFIG, DEFAULT_BUILD, nnx.Rngs(0)))["layers"]["ffn"]["up"]["kernel"]
    )()
    assert kernel.shape == (2, 32, 48) and np.abs(np.asarray(kernel[0]) - kernel[1]).max() > 0.1
    # As in Google's BERT: drawn from N(0, 0.3) and drawn again beyond 0.6, which leaves 0.8796 of the deviation.
    assert 0.55 < np.abs(kernel).max() <= 0.6 and abs(np.std(kernel) / (0.8796 * 0.3) - 1) < 0.05


def test_fresh_kernels_that_write_to_the_stream_are_narrower_the_deeper_the_encoder() -> None:
    deep = dataclasses.replace(CONFIG, num_layers=8)
    layers = jax.jit(lambda: meshes.initialise(lambda: Encoder(deep, DEFAULT_BUILD, nnx.Rngs(0)))["layers"])()
    for kernel in (layers["attention"]["output"]["kernel"], layers["ffn"]["down"]["kernel"]):
        assert abs(np.std(kernel) / (0.8796 * 0.3 / 4) - 1) < 0.05  # sqrt(2 * 8) = 4
    for kernel in (layers["attention"]["value"]["kernel"], layers["ffn"]["up"]["kernel"]):
        assert abs(np.std(kernel) / (0.8796 * 0.3) - 1) < 0.05


def test_each_layer_draws_its_own_mask() -> None:
    run = forward(KEY, rate=0.5)
    # With everything but the biases of the attention's output silenced, a layer adds its mask times that bias.
    layers = jax.tree.map(np.zeros_like, PARAMS["layers"])
    for norm in ("attention_norm", "ffn_norm"):
        layers[norm]["scale"] += 1.0
    masks = []
    for layer in range(2):
        bias = np.zeros((2, 32), np.float32)
        bias[layer] = 100.0
        layers["attention"]["output"]["bias"] = bias
        masks.append(np.asarray(run(PARAMS | {"layers": layers})) > 0)
    assert all(0.3 < mask.mean() < 0.7 for mask in masks)
    assert 0.3 < (masks[0] != masks[1]).mean() < 0.7


def test_bf16_is_close_to_f32() -> None:
    expected = np.asarray(program()(PARAMS, BATCH, EVERYWHERE)[1])
    result = forward(None, dtype=jnp.bfloat16)(PARAMS)
    assert result.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(result, np.float32) - expected) / np.linalg.norm(expected)
    # One rounding is 2^-9 at most; some fifty of them lie on the way (16 a layer, 6 weights, the embeddings), and
    # independent errors add up as the root of their number: 7 * 2^-9.
    assert 2.0**-11 < error < 7 * 2.0**-9
