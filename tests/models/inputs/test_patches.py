"""Patches, positions in the plane, tokens before them."""

# B batch, T tokens, D model

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.families.vit import image_encoder
from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.patches import PatchInputs, between, position_table, sine_positions
from jaxfm.models.rotary import rotation
from jaxfm.parallel import mesh as meshes

PATCHES = PatchConfig(2, channels=3, grid=(3, 4), registers=2)
SHAPE = image_encoder(
    family="vit", patches=PATCHES, num_layers=2, hidden_size=16, num_heads=2, ffn_size=32, initializer_range=0.2
)


def batch_of(images: list[list[np.ndarray]], config: EncoderConfig, tokens: int) -> dict[str, jax.Array]:
    """Rows of images [H, W, C], laid out by hand."""
    patches = config.patches
    size, prefix = patches.size, patches.prefix
    batch = {
        "pixels": np.zeros((len(images), tokens, patches.values), np.uint8),
        "segment_ids": np.zeros((len(images), tokens), np.int32),
        "positions": np.zeros((len(images), tokens), np.int32),
        "cells": np.full((len(images), tokens, 2), -1, np.int32),
        "grids": np.zeros((len(images), tokens, 2), np.int32),
    }
    for row, some in enumerate(images):
        start = 0
        for number, image in enumerate(some, 1):
            grid = image.shape[0] // size, image.shape[1] // size
            count = prefix + grid[0] * grid[1]
            here = slice(start, start + count)
            batch["segment_ids"][row, here], batch["grids"][row, here] = number, grid
            batch["positions"][row, here] = np.arange(count)
            for token in range(prefix):
                batch["cells"][row, start + token] = (-1, token)
            for place in range(grid[0] * grid[1]):
                y, x = divmod(place, grid[1])
                batch["cells"][row, start + prefix + place] = (y, x)
                cut = image[y * size : (y + 1) * size, x * size : (x + 1) * size]
                batch["pixels"][row, start + prefix + place] = cut.reshape(-1)
            start += count
    return {name: jnp.asarray(values) for name, values in batch.items()}


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3)).astype(np.uint8) for size in sizes]


def model(config: EncoderConfig) -> Encoder:
    graphdef, _ = meshes.build_abstract(
        lambda: Encoder(config, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig())
    )
    params = meshes.initialise(lambda: Encoder(config, DEFAULT_BUILD, nnx.Rngs(0)))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    return nnx.merge(graphdef, nnx.State(flax.traverse_util.unflatten_dict(
        {path: nnx.Param(value) for path, value in flat.items()}, sep="/")))  # fmt: skip


@pytest.mark.parametrize("positions", ["learned", "sine", "rope", "none"])
def test_images_that_share_a_row_are_as_alone(positions: str) -> None:
    config = dataclasses.replace(SHAPE, position_embedding=positions)
    encoder = model(config)
    images = pictures((6, 8), (4, 6), (2, 10))
    prefix = config.patches.prefix
    together = encoder(batch_of([images], config, 40))[0]
    start = 0
    for image in images:
        count = prefix + image.shape[0] * image.shape[1] // 4
        alone = encoder(batch_of([[image]], config, count))[0]
        np.testing.assert_allclose(together[start : start + count], alone, atol=2e-6)
        start += count


def test_inputs_are_the_map_of_patches_and_what_is_added() -> None:
    inputs = model(SHAPE).embeddings
    assert isinstance(inputs, PatchInputs) and inputs.position is not None
    (image,) = pictures((6, 8))
    x_TD = np.asarray(inputs(batch_of([[image]], SHAPE, 16)).x_BTD[0], np.float64)
    table = np.asarray(inputs.position.embedding[...], np.float64)
    kernel = np.asarray(inputs.kernel[...], np.float64)
    assert inputs.class_token is not None and inputs.registers is not None
    np.testing.assert_allclose(x_TD[0], np.asarray(inputs.class_token[...])[0] + table[0], atol=1e-6)
    # Registers have no position: the second row of the table is that of the first patch.
    np.testing.assert_allclose(x_TD[1:3], inputs.registers[...], atol=1e-6)
    scaled = (image / 255.0 - 0.5) / 0.5
    for place in range(12):
        y, x = divmod(place, 4)
        patch = scaled[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        wanted = np.einsum("yxc,yxcd->d", patch, kernel) + table[1 + place]
        np.testing.assert_allclose(x_TD[3 + place], wanted, atol=1e-5)


def test_mean_and_deviation_are_those_of_each_channel() -> None:
    pixels = np.arange(12, dtype=np.uint8)[None, None] * 20

    class Bare(PatchInputs):
        def __init__(self) -> None:
            self.config, self.mean, self.std = SHAPE, (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)

    normalized = Bare().normalize(jnp.asarray(pixels))
    found = normalized.reshape(4, 3)
    wanted = (pixels.reshape(4, 3) / 255 - np.asarray([0.1, 0.2, 0.3])) / np.asarray([0.5, 1.0, 2.0])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(Bare().denormalize(normalized), pixels, strict=True)
    np.testing.assert_array_equal(Bare().denormalize(jnp.full((12,), 9.0)), 255)


def test_a_table_of_another_grid_is_read_between_its_entries() -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle of interpolation")
    table = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    rows, columns = 5, 7
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(1, -1, 2)
    found = between(jnp.asarray(table), (3, 4), jnp.asarray(cells), jnp.full(cells.shape, 1) * jnp.asarray([5, 7]))
    picture = torch.tensor(table.reshape(1, 3, 4, 5).transpose(0, 3, 1, 2))
    wanted = torch.nn.functional.interpolate(picture, size=(rows, columns), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(found[0], wanted[0].permute(1, 2, 0).reshape(-1, 5).numpy(), atol=1e-6)


def test_a_table_of_the_own_grid_is_read_exactly() -> None:
    table = np.random.default_rng(0).standard_normal((1 + 12, 16)).astype(np.float32)
    config = dataclasses.replace(SHAPE, patches=dataclasses.replace(PATCHES, registers=0))
    np.testing.assert_array_equal(position_table(config, table, (3, 4)), table)


def test_waves_are_those_of_masked_autoencoders() -> None:
    """Columns fill the first half, rows the second; each has its sines before its cosines."""
    waves = np.asarray(sine_positions(jnp.asarray([[[2, 5]]]), 8))[0, 0]
    frequencies = np.asarray([1.0, 10_000.0**-0.5])
    wanted = [np.sin(5 * frequencies), np.cos(5 * frequencies), np.sin(2 * frequencies), np.cos(2 * frequencies)]
    np.testing.assert_allclose(waves, np.concatenate(wanted), atol=1e-6)


def test_rotations_are_of_rows_and_columns() -> None:
    positions = jnp.asarray([[[3, 1], [0, 2]]])
    cosines, sines = rotation(positions, 16, 100.0)
    assert cosines.shape == sines.shape == (1, 2, 1, 8)
    of_rows = rotation(positions[..., 0], 8, 100.0)
    of_columns = rotation(positions[..., 1], 8, 100.0)
    np.testing.assert_array_equal(cosines[..., :4], of_rows[0])
    np.testing.assert_array_equal(sines[..., 4:], of_columns[1])


def test_hidden_patches_are_one_vector() -> None:
    config = dataclasses.replace(SHAPE, patches=dataclasses.replace(PATCHES, mask_token=True))
    encoder = model(config)
    batch = batch_of([pictures((6, 8))], config, 15)
    hidden = jnp.zeros((1, 15), bool).at[0, 5].set(True)
    other = {**batch, "pixels": batch["pixels"].at[0, 5].set(7)}
    np.testing.assert_array_equal(encoder({**batch, "hidden": hidden}), encoder({**other, "hidden": hidden}))
    assert not np.array_equal(encoder(batch), encoder(other))
