"""Which patches are hidden, what the encoder sees, and that images of a row are as alone."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.families.vit import image_encoder
from jaxfm.models.masked_images import (
    MaskedAutoencoder,
    decoder_config,
    hidden_patches,
    patch_statistics,
    visible_length,
    visible_rows,
)
from jaxfm.parallel import mesh as meshes
from tests.models.inputs.test_patches import batch_of, pictures

SHAPE = image_encoder(
    family="vit", patches=PatchConfig(2, grid=(4, 4)), num_layers=1, hidden_size=16, num_heads=2, ffn_size=32,
    initializer_range=0.3,
)  # fmt: skip
SIZES = ((8, 8), (4, 6), (6, 6))  # 16, 6 and 9 patches


def slowly(batch: dict[str, np.ndarray], noise: np.ndarray, ratio: float) -> np.ndarray:
    """Which patches are hidden, image by image."""
    hidden = np.zeros(noise.shape, bool)
    for row, segments in enumerate(batch["segment_ids"]):
        for segment in range(1, segments.max() + 1):
            tokens = [t for t in np.flatnonzero(segments == segment) if batch["cells"][row, t, 0] >= 0]
            first = sorted(tokens, key=lambda token: (noise[row, token], token))
            hidden[row, first[: int(len(tokens) * ratio + 1e-9)]] = True
    return hidden


@pytest.mark.parametrize("ratio", [0.5, 0.75, 0.6])
def test_hidden_are_the_patches_with_least_noise(ratio: float) -> None:
    batch = batch_of([pictures(*SIZES), pictures((8, 8))], SHAPE, 40)
    noise = np.random.default_rng(3).integers(0, 12, (2, 40)) / 12  # with ties
    found = hidden_patches(batch, jnp.asarray(noise, jnp.float32), ratio)
    wanted = slowly({name: np.asarray(value) for name, value in batch.items()}, noise.astype(np.float32), ratio)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75, 0.6, 0.95])
def test_no_row_has_more_visible_tokens_than_are_computed(ratio: float) -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        prefix, sizes = int(draw.integers(0, 3)), draw.integers(1, 40, draw.integers(1, 6))
        segments = len(sizes) + int(draw.integers(0, 3))
        row_length = int(sizes.sum() + prefix * segments + draw.integers(0, 5))
        visible = sum(prefix + size - int(size * ratio + 1e-4) for size in sizes.tolist())
        assert visible <= visible_length(row_length, prefix, segments, ratio)
    # One image that fills its row: nothing is computed for naught.
    assert visible_length(1 + 196, 1, 1, 0.75) == 1 + 49


def test_visible_tokens_stand_first_and_know_where_they_were() -> None:
    batch = batch_of([pictures(*SIZES), pictures((8, 8))], SHAPE, 40)
    hidden = hidden_patches(batch, jax.random.uniform(jax.random.key(0), (2, 40)), 0.5)
    length = visible_length(40, 1, 3, 0.5)
    rows = visible_rows(batch, hidden, length)
    for row in range(2):
        tokens = np.flatnonzero((np.asarray(batch["segment_ids"][row]) > 0) & ~np.asarray(hidden[row]))
        for name in ("pixels", "segment_ids", "positions", "cells", "grids"):
            np.testing.assert_array_equal(rows.batch[name][row, : len(tokens)], batch[name][row, tokens])
        assert not rows.batch["segment_ids"][row, len(tokens) :].any()
        np.testing.assert_array_equal(rows.place_BT[row, tokens], np.arange(len(tokens)))


def autoencoder() -> MaskedAutoencoder:
    def make() -> MaskedAutoencoder:
        return MaskedAutoencoder(
            SHAPE,
            DEFAULT_BUILD,
            nnx.Rngs(0),
            decoder=decoder_config(SHAPE, 8, 1),
            visible=visible_length(40, 1, 3, 0.5),
        )

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = flax.traverse_util.flatten_dict(meshes.initialise(make), sep="/")
    tree = {path: nnx.Param(value) for path, value in params.items()}
    return nnx.merge(graphdef, nnx.State(flax.traverse_util.unflatten_dict(tree, sep="/")))


def test_images_that_share_a_row_are_predicted_as_alone() -> None:
    model, images = autoencoder(), pictures(*SIZES)
    batch = batch_of([images], SHAPE, 40)
    hidden = hidden_patches(batch, jax.random.uniform(jax.random.key(1), (1, 40)), 0.5)
    together = model(batch, hidden)[0]
    start = 0
    for image in images:
        count = 1 + image.shape[0] * image.shape[1] // 4
        one = batch_of([[image]], SHAPE, 40)
        alone = model(one, jnp.zeros((1, 40), bool).at[0, :count].set(hidden[0, start : start + count]))[0]
        np.testing.assert_allclose(together[start : start + count], alone[:count], atol=2e-5)
        start += count


def test_hidden_pixels_are_not_seen() -> None:
    model = autoencoder()
    batch = batch_of([pictures((8, 8))], SHAPE, 40)
    hidden = jnp.zeros((1, 40), bool).at[0, jnp.asarray([2, 5, 9])].set(True)
    other = {**batch, "pixels": batch["pixels"].at[0, 5].set(3)}
    seen = {**batch, "pixels": batch["pixels"].at[0, 6].set(3)}
    np.testing.assert_array_equal(model(batch, hidden), model(other, hidden))
    assert not np.allclose(model(batch, hidden), model(seen, hidden))


def test_statistics_of_patches_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    values = np.random.default_rng(0).standard_normal((2, 3, 12)).astype(np.float32)
    found = patch_statistics(jnp.asarray(values))
    target = torch.tensor(values)
    np.testing.assert_allclose(found.mean, target.mean(-1, keepdim=True).numpy(), atol=1e-6)
    deviation = (target.var(-1, keepdim=True) + 1e-6).sqrt()
    np.testing.assert_allclose(found.deviation, deviation.numpy(), rtol=1e-5)


def test_a_decoder_has_heads_that_divide_it() -> None:
    for width in (8, 24, 96, 512):
        found = decoder_config(dataclasses.replace(SHAPE, hidden_size=192, num_heads=3), width, 2)
        assert found.hidden_size == width and width % found.num_heads == 0 and found.num_layers == 2
