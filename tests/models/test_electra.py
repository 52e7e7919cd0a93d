"""Generator and discriminator: what they compute, what they share, and which gradients reach what."""

# B batch, T tokens, D model, V vocabulary

import dataclasses
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.heads import MaskedLM
from jaxfm.parallel import mesh as meshes

CONFIG = EncoderConfig(
    vocab_size=40, hidden_size=32, num_layers=1, num_heads=4, ffn_size=48, max_positions=8, initializer_range=0.3
)
DRAW = np.random.default_rng(0)
BATCH = {
    "tokens": DRAW.integers(0, 40, (4, 8)).astype(np.int32),
    "segment_ids": np.repeat([[1, 1, 1, 2, 2, 2, 2, 0]], 4, axis=0).astype(np.int32),
    "positions": np.repeat([[0, 1, 2, 0, 1, 2, 3, 0]], 4, axis=0).astype(np.int32),
    "type_ids": np.zeros((4, 8), np.int32),
}
SHARED = {f"encoder/embeddings/{name}" for name in ("word/embedding", "position/embedding", "type/embedding")}
SHARED |= {f"encoder/embeddings/norm/{name}" for name in ("scale", "bias")}


def built(make: Any, seed: int = 1) -> tuple[Any, dict[str, np.ndarray]]:
    """Returns the graph definition and wide random parameters, path -> array."""
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    draw = np.random.default_rng(seed)
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(abstract, sep="/")
    return graphdef, {name: 0.3 * draw.normal(size=leaf.shape).astype(np.float32) for name, leaf in flat.items()}


def merged(graphdef: Any, params: Any) -> Any:
    return nnx.merge(graphdef, flax.traverse_util.unflatten_dict(params, sep="/"))


def test_there_is_one_copy_of_what_is_shared() -> None:
    config = dataclasses.replace(CONFIG, num_layers=3)
    graphdef, params = built(lambda: ReplacedTokenModel(config, 2, DEFAULT_BUILD, nnx.Rngs(0)))
    assert {name for name in params if "embedding" in name.split("/")[1]} == SHARED
    depths = {name.partition("/")[0]: len(value) for name, value in params.items() if "/layers/" in name}
    assert depths == {"encoder": 3, "generator": 2}
    # And it stays one through split and merge.
    again = flax.traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(merged(graphdef, params), nnx.Param)), sep="/")
    assert set(again) == set(params)


def test_the_generator_is_a_masked_lm_over_the_encoders_embeddings() -> None:
    graphdef, params = built(lambda: ReplacedTokenModel(CONFIG, 2, DEFAULT_BUILD, nnx.Rngs(0)))
    small = dataclasses.replace(CONFIG, num_layers=2)
    oracle, _ = built(lambda: MaskedLM(small, DEFAULT_BUILD, nnx.Rngs(0)))
    own = {name: value for name, value in params.items() if name.startswith("encoder/embeddings/")}
    for name, value in params.items():
        if name.startswith("generator/"):
            ours = name.removeprefix("generator/")
            own[f"encoder/{ours}" if ours.startswith("layers/") else ours] = value

    run = jax.jit(lambda graphdef, params: _logits(merged(graphdef, params), None), static_argnums=0)
    logits = run(graphdef, params)
    assert logits.shape == (4, 8, 128) and np.std(logits[..., :40]) > 0.1
    np.testing.assert_allclose(logits, run(oracle, own), atol=1e-5)


def _logits(model: Any, key: jax.Array | None) -> jax.Array:
    return model.logits(model.hidden(BATCH, key))


def test_the_detector_over_the_encoders_hidden_states() -> None:
    torch = pytest.importorskip("torch")
    graphdef, params = built(lambda: ReplacedTokenModel(CONFIG, 1, Build(dtype=jnp.float32), nnx.Rngs(0)))
    hidden, logits = jax.jit(
        lambda params: (merged(graphdef, params).encoder(BATCH), merged(graphdef, params).replaced(BATCH))
    )(params)
    own = {name: torch.from_numpy(value).double() for name, value in params.items() if name.startswith("detector/")}
    inner = torch.from_numpy(np.array(hidden)).double() @ own["detector/dense/kernel"] + own["detector/dense/bias"]
    expected = torch.nn.functional.gelu(inner) @ own["detector/head/kernel"] + own["detector/head/bias"]
    np.testing.assert_allclose(logits, expected[..., 0].numpy(), atol=1e-4)
    assert logits.shape == (4, 8) and logits.dtype == jnp.float32


def test_which_gradients_reach_what() -> None:
    graphdef, params = built(lambda: ReplacedTokenModel(CONFIG, 1, DEFAULT_BUILD, nnx.Rngs(0)))

    @jax.jit
    @jax.grad
    def gradient(params: Any, weights: tuple[float, float]) -> jax.Array:
        model = merged(graphdef, params)
        generator, discriminator = jnp.sin(_logits(model, None)[..., :40]).sum(), jnp.sin(model.replaced(BATCH)).sum()
        return weights[0] * generator + weights[1] * discriminator

    first, second, whole = (
        {name: np.asarray(leaf) for name, leaf in gradient(params, weights).items()}
        for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    )
    for name in params:
        part = name.partition("/")[0]
        # A key's bias moves all scores of a query alike: its gradient is 0 but for rounding.
        wanted = {True} if not name.endswith("key/bias") else {True, False}
        assert (np.abs(first[name]).max() > 1e-4) in (wanted if name in SHARED or part == "generator" else {False})
        assert (np.abs(second[name]).max() > 1e-4) in (wanted if part != "generator" else {False})
        scale = max(np.abs(whole[name]).max(), 1.0)
        np.testing.assert_allclose(whole[name], first[name] + second[name], atol=1e-4 * scale, err_msg=name)


def test_dropout_falls_on_both_by_the_key() -> None:
    graphdef, params = built(lambda: ReplacedTokenModel(CONFIG, 1, DEFAULT_BUILD, nnx.Rngs(0)))

    @jax.jit
    def run(params: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        model = merged(graphdef, params)
        return model.hidden(BATCH, key), model.replaced(BATCH, key)

    first, second, third = (run(params, jax.random.key(seed)) for seed in (1, 2, 1))
    for a, b, c in zip(first, second, third, strict=True):
        assert np.abs(a - b).max() > 0.01
        np.testing.assert_array_equal(a, c)


def test_the_dtype_is_that_of_activations() -> None:
    graphdef, params = built(lambda: ReplacedTokenModel(CONFIG, 1, Build(dtype=jnp.bfloat16), nnx.Rngs(0)))
    model = merged(graphdef, params)
    shapes = jax.eval_shape(lambda: (model.hidden(BATCH), _logits(model, None), model.replaced(BATCH)))
    assert [shape.dtype for shape in shapes] == [jnp.bfloat16, jnp.float32, jnp.float32]
