"""What a token of text is before the first layer, and that types may be left out."""

# B batch, T tokens, D model

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.heads import SequenceClassifier, TokenClassifier
from jaxfm.models.inputs.text import TextInputs, fields, word_table
from jaxfm.parallel import mesh as meshes
from tests import tiny

CONFIG = EncoderConfig(
    vocab_size=96, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, max_positions=16, initializer_range=0.3
)
SEGMENTS = np.asarray([[1] * 5 + [2] * 4 + [3] * 7, [1] * 6 + [2] * 5 + [0] * 5, [0] * 16], np.int32)
POSITIONS = np.asarray([[*range(5), *range(4), *range(7)], [*range(6), *range(5), *[0] * 5], [0] * 16], np.int32)
TOKENS = np.random.default_rng(0).permutation(96)[: SEGMENTS.size].reshape(SEGMENTS.shape).astype(np.int32)
BATCH = {"tokens": TOKENS, "segment_ids": SEGMENTS, "positions": POSITIONS, "type_ids": SEGMENTS % 2}
KEY = jax.random.key(5)


def build(make: Any, devices: int = 1) -> tuple[Any, Any]:
    """Returns the graph definition and wide random parameters, with norms and biases away from 1 and 0."""
    graphdef, abstract = meshes.build_abstract(make, mesh_of(devices))
    draw = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> np.ndarray:
        noise = draw.normal(size=leaf.shape).astype(np.float32)
        wide = path[-1].key in ("kernel", "embedding")
        return 0.3 * noise if wide else (path[-1].key == "scale") + 0.1 * noise

    return graphdef, jax.tree_util.tree_map_with_path(value, abstract)


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return meshes.make_mesh(MeshConfig(data=1, sequence=devices), jax.devices()[:devices])


def text_inputs(config: EncoderConfig) -> tuple[Any, Any]:
    graphdef, params = build(lambda: TextInputs(config, jnp.dtype(jnp.float32), nnx.Rngs(0)))
    return jax.jit(lambda params, key: nnx.merge(graphdef, params)(BATCH, key)), params


def normalised(rows: np.ndarray, eps: float) -> np.ndarray:
    centred = rows - rows.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)


def test_text_is_the_normalised_sum_of_three_rows() -> None:
    apply, params = text_inputs(dataclasses.replace(CONFIG, position_offset=2, norm_eps=1e-3))
    tables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    assert tables["position"]["embedding"].shape == (18, 32)
    total = (
        tables["word"]["embedding"][TOKENS]
        + tables["position"]["embedding"][POSITIONS + 2]
        + tables["type"]["embedding"][SEGMENTS % 2]
    )
    expected = normalised(total, 1e-3) * tables["norm"]["scale"] + tables["norm"]["bias"]
    inputs = apply(params, None)
    np.testing.assert_allclose(inputs.x_BTD, expected, atol=1e-5)
    np.testing.assert_array_equal(inputs.segment_ids_BT, SEGMENTS)
    np.testing.assert_array_equal(inputs.positions_BT, POSITIONS)
    dropped = np.asarray(apply(params, KEY).x_BTD) == 0
    assert 0.05 < dropped.mean() < 0.15  # after the norm: before it, hardly a zero would be left
    np.testing.assert_allclose(
        np.asarray(apply(params, KEY).x_BTD)[~dropped], expected[~dropped] / 0.9, rtol=1e-3, atol=1e-5
    )


def test_layer_norm_keeps_its_digits_far_from_zero() -> None:
    """The usual one-pass variance, E[x^2] - E[x]^2, loses all of them when the mean is large."""
    apply, params = text_inputs(CONFIG)
    params = jax.tree.map(np.zeros_like, params)
    params["norm"]["scale"] += 1.0
    noise = np.round(np.random.default_rng(1).normal(size=(96, 32)) * 64) / 64
    params["word"]["embedding"] = np.zeros((128, 32), np.float32)
    params["word"]["embedding"][:96] = 4096.0 + noise  # exact
    np.testing.assert_allclose(apply(params, None).x_BTD, normalised(noise[TOKENS], 0.0), atol=2e-3)


def test_the_fields_are_those_it_reads() -> None:
    single, pairs = fields(16), fields(16, type_ids=True)
    assert list(single) == ["tokens", "segment_ids", "positions"] and list(pairs) == [*single, "type_ids"]
    for field in pairs.values():
        assert (field.shape, field.dtype, field.fill, field.axes) == ((16,), np.int32, 0, ("tokens",))


MODELS = {
    "tokens": lambda build: TokenClassifier(CONFIG, 5, build, nnx.Rngs(0)),
    "sequences": lambda build: SequenceClassifier(CONFIG, 5, build, nnx.Rngs(0), segments=3),
    "replaced": lambda build: ReplacedTokenModel(CONFIG, 1, build, nnx.Rngs(0)),
}


CASES = list(itertools.product(MODELS, (True, False), (1, 4)))
QUICK = (("sequences", True, 4),)


@pytest.mark.parametrize(
    ("name", "scan", "devices"),
    [case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_without_types_it_is_bit_for_bit_as_with_types_of_zero(name: str, scan: bool, devices: int) -> None:
    if jax.device_count() < devices:
        pytest.skip("needs four devices")
    graphdef, params = build(lambda: MODELS[name](Build(scan=scan)), devices)

    def loss(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        model = nnx.merge(graphdef, params)
        if name == "replaced":
            return jnp.sin(model.logits(model.hidden(batch, KEY))).sum() + jnp.sin(model.replaced(batch, KEY)).sum()
        return jnp.sin(model(batch, key=KEY)).sum()

    without = {field: BATCH[field] for field in ("tokens", "segment_ids", "positions")}
    with jax.set_mesh(mesh_of(devices)):
        run = jax.jit(jax.value_and_grad(loss), compiler_options=tiny.AS_USERS_COMPILE)
        zeros = run(params, without | {"type_ids": np.zeros_like(TOKENS)})
        absent = run(params, without)
        other = run(params, BATCH)
    assert np.asarray(other[0]) != np.asarray(zeros[0])  # types do count
    assert np.abs(zeros[1]["encoder"]["embeddings"]["type"]["embedding"][0]).max() > 0.1
    jax.tree.map(np.testing.assert_array_equal, absent, zeros)


def test_only_text_has_a_word_table() -> None:
    graphdef, params = build(lambda: TextInputs(CONFIG, jnp.dtype(jnp.float32), nnx.Rngs(0)))
    assert word_table(nnx.merge(graphdef, params)).shape == (128, 32)
    with pytest.raises(AssertionError, match="only text"):
        word_table(object())
