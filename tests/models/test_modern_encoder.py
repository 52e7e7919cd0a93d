"""ModernBERT's shape of encoder: local and global layers, rotary positions, pre-norm, packed as any other."""

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
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.families.registry import preset
from jaxfm.models.encoder import Encoder
from jaxfm.parallel import mesh as meshes

# Five layers: 0 and 3 global, the others see four tokens on either side; with 24 tokens a row, in chunks.
CONFIG = dataclasses.replace(
    preset("modern_base"), vocab_size=96, hidden_size=32, num_layers=5, num_heads=4, ffn_size=24, max_positions=24,
    local_window=8,
)  # fmt: skip
LOCAL = dataclasses.replace(CONFIG, num_layers=3, global_every=8)  # layer 0 global, 1 and 2 local
LENGTHS = (7, 12, 5, 15, 9)
ROWS = ((0, 1, 2), (3, 4))  # which examples lie in which packed row, both full
KEY = jax.random.key(5)
TOKENS = np.split(np.random.default_rng(0).permutation(96)[: sum(LENGTHS)].astype(np.int32), np.cumsum(LENGTHS)[:-1])


def batch(rows: tuple[tuple[int, ...], ...], length: int = 24) -> dict[str, np.ndarray]:
    """Tokens, segments and positions of the examples laid into rows; there are no types."""
    tokens, segments, positions = np.zeros((3, len(rows), length), np.int32)
    for row, examples in enumerate(rows):
        start = 0
        for number, example in enumerate(examples):
            place = slice(start, start + LENGTHS[example])
            tokens[row, place] = TOKENS[example]
            segments[row, place] = number + 1
            positions[row, place] = np.arange(LENGTHS[example])
            start += LENGTHS[example]
    return {"tokens": tokens, "segment_ids": segments, "positions": positions}


ALONE = tuple((example,) for example in range(5))
PACKED = batch((*ROWS, ()))  # the third row is nothing but padding
SEGMENTS = PACKED["segment_ids"]


@functools.cache
def model(config: EncoderConfig = CONFIG, scan: bool = True) -> tuple[Any, Any]:
    """Returns graph definition and wide random parameters."""
    graphdef, abstract = meshes.build_abstract(
        lambda: Encoder(config, Build(scan=scan), nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    draw = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        return (path[-1].key == "scale") + 0.3 * draw.normal(size=leaf.shape).astype(np.float32)

    return graphdef, jax.tree_util.tree_map_with_path(value, abstract)


@functools.cache
def program(config: EncoderConfig = CONFIG, scan: bool = True, dropout: bool = False, width: int = 3) -> Any:
    """Compiles (params, batch, chosen_BT) -> (gradients of a sum over the chosen tokens, hidden states)."""
    graphdef, params = model(config, scan)

    def output(params: Any, batch: Any, chosen_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden_BTD = nnx.merge(graphdef, params)(batch, key=KEY if dropout else None)
        return jnp.sum(jnp.sin(hidden_BTD) * chosen_BT[..., None]), hidden_BTD

    shapes = dict.fromkeys(PACKED, jax.ShapeDtypeStruct((width, 24), jnp.int32))
    chosen = jax.ShapeDtypeStruct((width, 24), jnp.bool_)
    return jax.jit(jax.grad(output, has_aux=True)).lower(params, shapes, chosen).compile()


def influence(gradients: Any) -> np.ndarray:
    """How much each token of PACKED counts, [B, T]; each is a row of the embedding of its own (0: padding)."""
    return np.abs(np.asarray(gradients["embeddings"]["word"]["embedding"])[PACKED["tokens"]]).max(axis=-1)


def test_parameters_have_no_bias_no_positions_and_none_that_is_not_used() -> None:
    gradients, _ = program()(model()[1], PACKED, SEGMENTS > 0)
    names = {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(gradients)}
    layer = ("query", "key", "value", "output")
    assert names == {
        "embeddings/word/embedding", "embeddings/norm/scale", *(f"layers/attention/{name}/kernel" for name in layer),
        *(f"layers/ffn/{name}/kernel" for name in ("up", "gate", "down")),
        "layers/ffn_norm/scale", "layers/next_norm/scale",
    }  # fmt: skip
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients["layers"]):
        assert leaf.shape[0] == 5 and (np.abs(leaf).reshape(5, -1).max(axis=1) > 1e-3).all(), path


def test_packed_equals_alone() -> None:
    packed = np.asarray(program()(model()[1], PACKED, SEGMENTS > 0)[1])
    alone = np.asarray(program(width=5)(model()[1], batch(ALONE), np.ones((5, 24), bool))[1])
    for row, examples in enumerate(ROWS):
        starts = np.cumsum([0, *(LENGTHS[example] for example in examples)])
        for start, example in zip(starts, examples, strict=False):
            length = LENGTHS[example]
            np.testing.assert_allclose(packed[row, start : start + length], alone[example, :length], atol=2e-5)


@pytest.mark.parametrize("dropout", [False, True], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["scan", "unrolled"])
def test_no_gradient_crosses_a_segment(scan: bool, dropout: bool) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.1, attention_dropout=0.1)
    for row, examples in enumerate(ROWS):
        for segment in range(1, len(examples) + 1):
            chosen = np.zeros(SEGMENTS.shape, bool)
            chosen[row] = SEGMENTS[row] == segment
            found = influence(program(config, scan, dropout)(model(config, scan)[1], PACKED, chosen)[0])
            np.testing.assert_array_equal(found[~chosen & (SEGMENTS > 0)], 0.0)
            assert (found[chosen] > 1e-4).all()


def test_padding_gives_no_nan() -> None:
    gradients, hidden = program()(model()[1], PACKED, np.ones(SEGMENTS.shape, bool))
    assert (SEGMENTS[2] == 0).all() and np.isfinite(hidden).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        *(
            pytest.param(config, marks=pytest.mark.slow)
            for config in (LOCAL, dataclasses.replace(CONFIG, num_layers=6))
        ),
    ],
    ids=["rest", "few", "even"],
)
def test_unrolled_equals_scanned(config: EncoderConfig) -> None:
    results = [program(config, scan)(model(config, scan)[1], PACKED, SEGMENTS > 0) for scan in (True, False)]
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(results[0]))
    assert largest > 1.0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * largest), *results)


def test_how_far_a_local_layer_sees() -> None:
    """With the global layer's attention silenced, two local layers of radius 4 carry 8 tokens far and no farther."""
    graphdef, params = model(LOCAL)
    del graphdef
    kernel = np.array(params["layers"]["attention"]["output"]["kernel"])
    kernel[0] = 0.0
    attention = params["layers"]["attention"] | {"output": {"kernel": kernel}}
    silenced = params | {"layers": params["layers"] | {"attention": attention}}
    chosen = np.zeros(SEGMENTS.shape, bool)
    chosen[1, 2] = True
    found = influence(program(LOCAL)(silenced, PACKED, chosen)[0])[1, :15]
    assert (found[:11] > 1e-6).all() and (found[11:] == 0).all()
    everywhere = influence(program(LOCAL)(params, PACKED, chosen)[0])[1, :15]
    assert (everywhere > 1e-6).all()


def test_layers_are_applied_in_order() -> None:
    params = model()[1]
    hidden = np.asarray(program()(params, PACKED, SEGMENTS > 0)[1])
    for i, j in [(0, 3), (1, 2), (3, 4)]:
        order = np.arange(5)
        order[[i, j]] = j, i
        swapped = params | {"layers": jax.tree.map(lambda leaf, order=order: leaf[order], params["layers"])}
        assert np.abs(np.asarray(program()(swapped, PACKED, SEGMENTS > 0)[1]) - hidden)[:2].max() > 0.1


def test_bf16_is_close_to_f32() -> None:
    # Kernels of 0.1: those of 0.3 make attention so sharp that it multiplies whatever error comes in.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf / 3 if path[-1].key == "kernel" else leaf, model()[1]
    )
    expected = np.asarray(program()(params, PACKED, SEGMENTS > 0)[1])[:2]
    graphdef, _ = meshes.build_abstract(
        lambda: Encoder(CONFIG, Build(dtype=jnp.bfloat16), nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    result = jax.jit(lambda params: nnx.merge(graphdef, params)(PACKED))(params)
    assert result.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(result, np.float32)[:2] - expected) / np.linalg.norm(expected)
    # As in test_encoder: independent roundings of at most 2^-9 each add up as the root of their number.
    assert 2.0**-11 < error < 7 * 2.0**-9
