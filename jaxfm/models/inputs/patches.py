"""Images before the first layer: patches mapped linearly, positions in the plane added (Dosovitskiy et al. 2021)."""

# B batch, T tokens, P side of a patch, C channels, D model, G entries of the position table

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.encoder_config import EncoderConfig, PatchConfig
from jaxfm.models.dropout import DropoutKey, dropout
from jaxfm.models.initializers import kernel_init
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.norms import make_norm
from jaxfm.models.products import add_bias, tensordot
from jaxfm.parallel.mesh import constrain, with_axes

# Of "sine" positions: He et al. 2022 (MAE), in their code.
_SINE_BASE = 10_000.0
# A batch may say which patches the encoder is not to see: bool [B, T].
HIDDEN = "hidden"
# And it may have pixels f32 [B, T, P * P * C] on the scale of the weights in place of bytes.
NORMALIZED = "normalized"


def fields(row_length: int, patches: PatchConfig) -> BatchSpec:
    """Returns the arrays that `PatchInputs` reads, of rows of `row_length` tokens.

    "pixels" are uint8 in the order row in the patch, column in the patch, channel; 0 at tokens without pixels.
    "segment_ids" count the images of a row from 1, 0 is padding; "positions" count the tokens of an image from 0.
    "cells" are row and column of a patch in the grid of its image; (-1, k) of token k of the prefix; (-1, -1) of
    padding. "grids" are height and width, in patches, of the token's image; 0 of padding.
    """
    axes = ("tokens",)
    return {
        "pixels": Field((row_length, patches.values), np.dtype(np.uint8), axes=axes),
        "segment_ids": Field((row_length,), axes=axes),
        "positions": Field((row_length,), axes=axes),
        "cells": Field((row_length, 2), fill=-1, axes=axes),
        "grids": Field((row_length, 2), axes=axes),
    }


class PatchInputs(nnx.Module):
    """Maps patches, puts learned tokens before them, adds positions.

    A batch may have "normalized" pixels f32 [B, T, P * P * C] in place of "pixels" (augmentation makes these); else
    `mean` and `std`, of channels with values from 0 to 1, bring the bytes to the scale that the weights know.
    """

    def __init__(
        self,
        config: EncoderConfig,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        *,
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
    ):
        """Makes the weights; `mean` and `std` of each channel are 0.5 unless they are given."""
        patches, width = config.patches, config.hidden_size
        init = nnx.initializers.truncated_normal(config.initializer_range)

        def param(shape: tuple[int, ...], draw: nnx.Initializer, *axes: str) -> nnx.Param:
            return nnx.Param(with_axes(draw, *axes)(rngs.params(), shape, jnp.float32))

        def tokens(count: int) -> nnx.Param | None:
            return param((count, width), init, "prefix", "embed") if count else None

        shape = (patches.size, patches.span, patches.channels, width)
        self.kernel = param(shape, kernel_init(config, patches.values, width), "patch", "patch", "channels", "embed")
        self.bias = param((width,), nnx.initializers.zeros_init(), "norm") if patches.bias else None
        self.class_token = tokens(int(patches.class_token))
        self.distillation_token = tokens(int(patches.distillation_token))
        self.registers = tokens(patches.registers)
        self.detection_tokens = tokens(patches.detection_tokens)
        self.mask_token = tokens(int(patches.mask_token))
        learned = config.position_embedding == "learned"
        rows = patches.placed_prefix + patches.grid[0] * patches.grid[1] + patches.detection_tokens
        waves = config.initializer == "xavier" and width % 4 == 0
        table = with_axes(functools.partial(_wave_table, patches) if waves else init, "positions", "embed")
        self.position = nnx.Embed(rows, width, dtype=dtype, embedding_init=table, rngs=rngs) if learned else None
        self.norm = make_norm(config, dtype, rngs) if config.embedding_norm else None
        self.config, self.dtype = config, dtype
        half = (0.5,) * patches.channels
        self.mean, self.std = tuple(mean) or half, tuple(std) or half

    @jax.named_scope("patches")
    def __call__(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> Inputs:
        """Returns the inputs of the layers; `key` turns dropout on."""
        cells_BT2 = batch["cells"]
        pixels = batch[NORMALIZED] if NORMALIZED in batch else self.normalize(batch["pixels"])
        x_BTD = tensordot(pixels.astype(self.dtype), self.kernel[...].astype(self.dtype).reshape(-1, self.width), 1)
        x_BTD = x_BTD if self.bias is None else add_bias(x_BTD, self.bias[...])
        if HIDDEN in batch:
            assert self.mask_token is not None, "hidden patches need a mask token"
            x_BTD = jnp.where(batch[HIDDEN][..., None], self.mask_token[...].astype(self.dtype), x_BTD)
        x_BTD = self._with_prefix(x_BTD, cells_BT2) + self._positions(cells_BT2, batch["grids"])
        x_BTD = x_BTD if self.norm is None else self.norm(x_BTD)
        x_BTD = dropout(x_BTD, self.config.dropout, key).astype(self.dtype)
        rotary = self.config.position_embedding == "rope"
        positions = jnp.maximum(cells_BT2, 0) * (cells_BT2[..., :1] >= 0) if rotary else batch["positions"]
        return Inputs(constrain(x_BTD, "batch", "tokens", "features"), batch["segment_ids"], positions)

    @property
    def width(self) -> int:
        """D."""
        return self.config.hidden_size

    def normalize(self, pixels: jax.Array) -> jax.Array:
        """Returns bytes, or real numbers from 0 to 255, as f32 on the scale of the weights."""
        mean_V, std_V = self._statistics()
        return (pixels.astype(jnp.float32) * (1 / 255.0) - mean_V) / std_V

    def denormalize(self, values: jax.Array) -> jax.Array:
        """Returns numbers on the scale of the weights as bytes, what lies outside of them cut off."""
        mean_V, std_V = self._statistics()
        return jnp.clip(jnp.round((values * std_V + mean_V) * 255.0), 0, 255).astype(jnp.uint8)

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and deviation of each value of a patch, f32 [V]."""
        repeats = self.config.patches.size**2
        return np.tile(np.asarray(self.mean, np.float32), repeats), np.tile(np.asarray(self.std, np.float32), repeats)

    def _with_prefix(self, x_BTD: jax.Array, cells_BT2: jax.Array) -> jax.Array:
        """Puts the learned tokens where they belong."""
        every = (self.class_token, self.distillation_token, self.registers, self.detection_tokens)
        parts = [part[...] for part in every if part is not None]
        if not parts:
            return x_BTD
        table = jnp.concatenate(parts).astype(self.dtype)
        of_prefix = (cells_BT2[..., 0] < 0) & (cells_BT2[..., 1] >= 0)
        learned_BTD = _rows(table, jnp.clip(cells_BT2[..., 1], 0, len(table) - 1))
        return jnp.where(of_prefix[..., None], learned_BTD, x_BTD)

    def _positions(self, cells_BT2: jax.Array, grids_BT2: jax.Array) -> jax.Array:
        """Returns what is added for positions [B, T, D]; 0 where nothing is."""
        kind, patches = self.config.position_embedding, self.config.patches
        is_patch_BT1 = cells_BT2[..., :1] >= 0
        if kind == "sine":
            waves_BTD = sine_positions(cells_BT2, self.width)
            return jnp.where(is_patch_BT1, waves_BTD, 0.0).astype(self.dtype)
        if self.position is None:
            return jnp.zeros((), self.dtype)
        table_GD = self.position.embedding[...].astype(self.dtype)
        first, count = patches.placed_prefix, patches.detection_tokens
        last = len(table_GD) - count
        x_BTD = jnp.where(is_patch_BT1, between(table_GD[first:last], patches.grid, cells_BT2, grids_BT2), 0)
        # Of tokens of the prefix: number of the first one, and their rows.
        for start, rows_GD in ((0, table_GD[:first]), (patches.prefix - count, table_GD[last:])):
            if len(rows_GD):
                number_BT = cells_BT2[..., 1] - start
                placed_BT = (cells_BT2[..., 0] < 0) & (number_BT >= 0) & (number_BT < len(rows_GD))
                prefix_BTD = _rows(rows_GD, jnp.clip(number_BT, 0, len(rows_GD) - 1))
                x_BTD = jnp.where(placed_BT[..., None], prefix_BTD, x_BTD)
        return x_BTD


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    """Returns rows of a table as a product with one-hot vectors, which may be cut along tokens; small tables only."""
    one_hot = jax.nn.one_hot(index, len(table), dtype=table.dtype)
    return jnp.einsum("...G,GD->...D", one_hot, table, precision="highest")


def between(table_GD: jax.Array, grid: tuple[int, int], cells_BT2: jax.Array, grids_BT2: jax.Array) -> jax.Array:
    """Returns the entry of each cell [B, T, D]: the table's own where an image has its grid, else between entries.

    An image of another grid is laid over the table, and each cell reads at its centre, linearly between the centres of
    the table's entries (bilinear interpolation without aligned corners).
    """
    weights = []
    for axis, size in enumerate(grid):
        ratio = size / jnp.maximum(grids_BT2[..., axis], 1).astype(jnp.float32)
        place_BT = (jnp.maximum(cells_BT2[..., axis], 0) + 0.5) * ratio - 0.5
        place_BT = jnp.clip(place_BT, 0.0, size - 1.0)
        # The weight of an entry is 1 at its centre and falls to 0 at the centres beside it.
        away_BTG = jnp.abs(place_BT[..., None] - jnp.arange(size, dtype=jnp.float32))
        weights.append(jnp.maximum(1.0 - away_BTG, 0.0).astype(table_GD.dtype))
    weights_BTYX = weights[0][..., :, None] * weights[1][..., None, :]
    weights_BTG = weights_BTYX.reshape(*weights_BTYX.shape[:2], -1)
    return jnp.einsum("BTG,GD->BTD", weights_BTG, table_GD, precision="highest")


def position_table(config: EncoderConfig, table: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray:
    """Returns what an encoder adds to the tokens of an image of one size, f32 [G, D].

    Rows are those of the placed prefix, of the patches, and of the detection tokens.

    Args:
      config: of the encoder, whose positions are "learned" or "sine".
      table: the learned one; None where there is none.
      grid: rows and columns of patches of the image.
    """
    first, (rows, columns) = config.patches.placed_prefix, grid
    cells = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(1, -1, 2)
    prefix = np.zeros((first, config.hidden_size), np.float32)
    after = np.zeros((config.patches.detection_tokens, config.hidden_size), np.float32)
    if config.position_embedding == "sine":
        of_patches = sine_positions(jnp.asarray(cells), config.hidden_size)
    else:
        assert table is not None
        last = len(table) - len(after)
        prefix, after = np.asarray(table[:first], np.float32), np.asarray(table[last:], np.float32)
        grids = jnp.broadcast_to(jnp.asarray(grid), cells.shape)
        of_patches = between(
            jnp.asarray(table[first:last], jnp.float32), config.patches.grid, jnp.asarray(cells), grids
        )
    return np.concatenate([prefix, np.asarray(of_patches[0], np.float32), after])


def _wave_table(patches: PatchConfig, key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Returns a table of positions [rows, D] that begins as the fixed waves, zero for tokens without a place.

    Waves tell patches apart from the first step on; narrow random rows have to grow first. Beyer et al. 2022 ("Better
    plain ViT baselines for ImageNet-1k") find waves no worse than a learned table. Detection tokens begin at places
    spread over the image (anchor points: Wang et al. 2022, Anchor DETR): tokens that begin alike say the same box, the
    mean of all, and it takes long until they differ.
    """
    del key
    rows, columns = patches.grid
    cells_1G2 = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), axis=-1).reshape(1, -1, 2)
    places_1N2 = jnp.concatenate([cells_1G2, _spread_places(patches)[None]], axis=1)
    waves_ND = sine_positions(places_1N2, shape[1])[0]
    return jnp.pad(waves_ND, ((shape[0] - len(waves_ND), 0), (0, 0))).astype(dtype)


def _spread_places(patches: PatchConfig) -> jax.Array:
    """Returns a row and a column of the grid for each detection token, f32 [Q, 2]: middles of equal parts of it."""
    count = patches.detection_tokens
    side = math.ceil(math.sqrt(count))
    place_Q = jnp.arange(count)
    parts_Q2 = jnp.stack([place_Q // max(side, 1), place_Q % max(side, 1)], axis=-1)
    across = jnp.asarray([max(-(-count // max(side, 1)), 1), max(side, 1)], jnp.float32)
    return (parts_Q2 + 0.5) * jnp.asarray(patches.grid, jnp.float32) / across - 0.5


def sine_positions(cells_BT2: jax.Array, width: int) -> jax.Array:
    """Returns fixed waves [B, T, D] over columns (first half of the features) and rows (second half).

    Each half has the sines of its D / 4 frequencies, then their cosines (He et al. 2022, in their code).
    """
    assert width % 4 == 0, "sine positions need a width that is a multiple of 4"
    frequencies = _SINE_BASE ** -(jnp.arange(width // 4, dtype=jnp.float32) / (width // 4))
    halves = []
    for axis in (1, 0):
        angles = cells_BT2[..., axis, None].astype(jnp.float32) * frequencies
        halves += [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(halves, axis=-1)
