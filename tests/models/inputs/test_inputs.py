"""A modality is one module: images of 8 x 8 pixels, made here, under the layers and heads of text."""

# B batch, Y X pixels of an image, T patches, D model

import dataclasses
from collections.abc import Mapping

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.batch import BatchSpec, Field, axes_of
from jaxfm.core.build import DEFAULT_BUILD, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import SequenceClassifier, TokenClassifier
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.norms import make_norm
from jaxfm.models.products import dot_general
from jaxfm.parallel import mesh as meshes

SIDE, PATCH = 8, 2
TOKENS = (SIDE // PATCH) ** 2
CONFIG = EncoderConfig(hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, initializer_range=0.3)
KEY = jax.random.key(1)


def fields() -> BatchSpec:
    return {"pixels": Field((SIDE, SIDE), np.dtype(np.float32))}


class PatchInputs(nnx.Module):
    """Squares of 2 x 2 pixels, each mapped to a vector, with a learned vector for each place in the image."""

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        draw = nnx.initializers.truncated_normal(config.initializer_range)
        self.patch = nnx.Linear(
            PATCH * PATCH,
            config.hidden_size,
            dtype=dtype,
            dot_general=dot_general,
            kernel_init=meshes.with_axes(draw, "norm", "embed"),
            bias_init=meshes.with_axes(nnx.initializers.zeros_init(), "norm"),
            rngs=rngs,
        )
        table = meshes.with_axes(draw, "positions", "embed")
        self.position = nnx.Embed(TOKENS, config.hidden_size, dtype=dtype, embedding_init=table, rngs=rngs)
        self.norm = make_norm(config, dtype, rngs)

    def __call__(self, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> Inputs:
        pixels_BYX = batch["pixels"]
        count = SIDE // PATCH
        x = pixels_BYX.reshape(-1, count, PATCH, count, PATCH).swapaxes(2, 3).reshape(-1, TOKENS, PATCH * PATCH)
        positions_BT = jnp.broadcast_to(jnp.arange(TOKENS, dtype=jnp.int32), x.shape[:2])
        x_BTD = meshes.constrain(self.patch(x) + self.position(positions_BT), "batch", "tokens", "features")
        return Inputs(self.norm(x_BTD), jnp.ones_like(positions_BT), positions_BT)


def images(rows: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images with a bright quarter in noise, and which quarter that is."""
    draw = np.random.default_rng(0)
    quarter = np.arange(rows) % 4
    pixels = draw.normal(size=(rows, 2, 4, 2, 4)) * 0.3
    pixels[np.arange(rows), quarter // 2, :, quarter % 2] += 1.0
    return {"pixels": pixels.reshape(rows, SIDE, SIDE).astype(np.float32)}, quarter


def classifier(build: Build = DEFAULT_BUILD) -> SequenceClassifier:
    rngs = nnx.Rngs(0)
    inputs = PatchInputs(CONFIG, build.dtype, rngs)
    return SequenceClassifier(CONFIG, 4, build, rngs, pooling="mean", segments=1, inputs=inputs)


def test_the_parameters_are_those_of_the_modality_and_of_the_layers_of_text() -> None:
    mesh = meshes.make_mesh(MeshConfig())
    _, images = meshes.build_abstract(classifier, mesh)
    text_model = lambda: SequenceClassifier(  # noqa: E731
        dataclasses.replace(CONFIG, vocab_size=64), 4, DEFAULT_BUILD, nnx.Rngs(0), pooling="mean", segments=1
    )
    _, text = meshes.build_abstract(text_model, mesh)
    names, words = (set(flax.traverse_util.flatten_dict(params, sep="/")) for params in (images, text))
    inside = "encoder/embeddings/"
    assert {name for name in names if not name.startswith(inside)} == {n for n in words if not n.startswith(inside)}
    assert {name.removeprefix(inside) for name in names if name.startswith(inside)} == {
        "patch/kernel", "patch/bias", "position/embedding", "norm/scale", "norm/bias",
    }  # fmt: skip


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["scan", "unrolled"])
def test_images_are_learned(scan: bool) -> None:
    batch, quarter = images()
    graphdef, _ = meshes.build_abstract(lambda: classifier(Build(scan=scan)), meshes.make_mesh(MeshConfig()))
    params = meshes.initialise(lambda: classifier(Build(scan=scan)))

    def loss(params: dict, key: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, params)(batch, key=key)[:, 0]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), quarter[:, None], axis=1).mean()

    @jax.jit
    def step(params: dict, key: jax.Array) -> tuple[jax.Array, dict]:
        value, grads = jax.value_and_grad(loss)(params, key)
        return value, jax.tree.map(lambda leaf, grad: leaf - 0.05 * grad, params, grads)

    losses = []
    for index in range(30):
        value, params = step(params, jax.random.fold_in(KEY, index))
        losses.append(float(value))
    assert losses[0] > 1.0 > 0.5 > losses[-1]


def test_a_patch_depends_on_every_pixel_of_its_image_and_on_no_other_image() -> None:
    batch, _ = images(2)
    rngs = nnx.Rngs(0)
    with nnx.use_eager_sharding(False):
        model = TokenClassifier(CONFIG, 3, DEFAULT_BUILD, rngs, inputs=PatchInputs(CONFIG, DEFAULT_BUILD.dtype, rngs))
    graphdef, params = nnx.split(model)
    first = jax.jit(jax.grad(lambda pixels: nnx.merge(graphdef, params)({"pixels": pixels})[0, 0].sum()))
    found = np.asarray(first(batch["pixels"]))
    assert (np.abs(found[0]) > 1e-6).all() and (found[1] == 0).all()


@pytest.mark.slow
def test_on_a_mesh_images_compute_the_same() -> None:
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    batch, _ = images()
    results = []
    for config, count in ((MeshConfig(), 1), (MeshConfig(data=2, tensor=2), 4)):
        mesh = meshes.make_mesh(config, jax.devices()[:count])
        graphdef, abstract = meshes.build_abstract(classifier, mesh)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        with jax.set_mesh(mesh):
            params = jax.jit(lambda: meshes.initialise(classifier), out_shardings=shardings)()
            arrays = meshes.shard_batch(batch, axes_of(fields()), mesh)
            apply = jax.jit(lambda params, arrays, graphdef=graphdef: nnx.merge(graphdef, params)(arrays, key=KEY))
            results.append(np.asarray(apply(params, arrays)))
    assert results[0].std() > 0.1
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)


def test_an_encoder_says_what_its_hidden_states_are_of() -> None:
    rngs = nnx.Rngs(0)
    with nnx.use_eager_sharding(False):
        encoder = Encoder(CONFIG, DEFAULT_BUILD, rngs, PatchInputs(CONFIG, DEFAULT_BUILD.dtype, rngs))
    batch = jax.tree.map(jnp.asarray, images(2)[0])
    hidden = encoder.encode(batch)
    assert hidden.x_BTD.shape == (2, TOKENS, 32) and (hidden.segment_ids_BT == 1).all()
    np.testing.assert_array_equal(hidden.positions_BT[1], np.arange(TOKENS))
    np.testing.assert_array_equal(encoder(batch), hidden.x_BTD)
