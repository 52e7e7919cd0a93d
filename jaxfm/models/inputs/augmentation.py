"""Random changes of training images on the device: crops, flips, RandAugment, erasing, mixup and cutmix.

They read rows of patches as they are, packed or not, and no image is ever laid out on a canvas. All that moves pixels
is one affine map an image: each pixel of the result is read (bilinearly) where the map leads, straight from the patches
of its own image. So an image keeps its size and its grid, whatever sizes lie beside it in its row.

Everything is a pure function of the batch and a key. The draws of an image depend on the key, the number of its row in
the batch and its segment alone, so a resumed run draws what an uninterrupted one draws, on any mesh.
"""

# B batch, T tokens, S segments (images in a row), P patch side, C channels, N pixels of a row (T * P * P)

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.dropout import DropoutKey, row_keys
from jaxfm.models.inputs.image_moves import (
    Affine,
    ImageRow,
    after,
    flipped,
    identity,
    moved_by,
    places,
    rotated,
    sample,
)

BORDERS = ("reflect", "zero")
MAGNITUDES = 10.0
"""RandAugment's largest magnitude; what it means for each operation stands at `_geometric` and `_coloured`."""
OPERATIONS = (
    *("identity", "rotate", "shear_x", "shear_y", "translate_x", "translate_y", "brightness", "contrast", "colour"),
    *("posterise", "solarise", "invert", "auto_contrast"),
)
_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_ASPECT = math.log(4 / 3)  # of a crop: between 3/4 and 4/3 of the image's own
_ERASED_AREA, _ERASED_ASPECT = (0.02, 1 / 3), math.log(1 / 0.3)  # Zhong et al. 2020
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in brightness (ITU-R 601-2)
_NOISE, _MIX = 2**31 - 1, 2**31 - 2  # what keys are folded with, beside segments and rows


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is changed at random in training images. Each part is off at 0.

    Attributes:
      crop: a random part of the image with at least this share of its area, enlarged to the image's size (its aspect
        within 3/4 and 4/3 of the image's own).
      pad_crop: shifted by up to this many pixels, up or down and left or right.
      flip: left and right are exchanged in half of the images.
      rand_augment: how many of OPERATIONS are drawn, and their magnitude, 0 to 10 (Cubuk et al. 2020, without
        sharpness and equalisation).
      erase: the probability that a rectangle is filled with noise (Zhong et al. 2020).
      mixup: both parameters of the beta distribution by which two images and their labels are mixed (Zhang et al.
        2018).
      cutmix: the same, of the area of a rectangle that an image takes from another (Yun et al. 2019). With mixup too,
        each pair of images has one of both.
      border: what lies outside of a moved image: "reflect" (mirrored at its outermost pixels) or "zero".
    """

    crop: float = 0.0
    pad_crop: int = 0
    flip: bool = False
    rand_augment: tuple[int, float] = (0, 0.0)
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    border: str = "reflect"

    @property
    def changes_pixels(self) -> bool:
        """Whether anything is changed within an image."""
        return self.moves or self.rand_augment[0] > 0 or self.erase > 0

    @property
    def moves(self) -> bool:
        """Whether anything moves pixels."""
        return self.crop > 0 or self.pad_crop > 0 or self.flip or self.rand_augment[0] > 0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


class Mixed(NamedTuple):
    """Images mixed in pairs.

    Attributes:
      pixels: f32 [B, T, P * P * C].
      partner_weight_B: f32 [B]: the label of row b counts 1 - w, that of its neighbour, row b ^ 1, counts w.
    """

    pixels: jax.Array
    partner_weight_B: jax.Array


def check_augmentation(
    augmentation: Augmentation, *, one_size: bool, batch_size: int, option: str = "task.augmentation"
) -> None:
    """Raises UserError naming the key `option`.* for values out of range, and for mixing where it cannot be done.

    Args:
      augmentation: what is asked for.
      one_size: whether every row is one image and all have one size.
      batch_size: rows of a step, or of a micro-batch.
      option: the key that holds it.
    """
    ranges = {
        "crop": (augmentation.crop, 0.0, 1.0),
        "pad_crop": (augmentation.pad_crop, 0, math.inf),
        "rand_augment[0]": (augmentation.rand_augment[0], 0, math.inf),
        "rand_augment[1]": (augmentation.rand_augment[1], 0.0, MAGNITUDES),
        "erase": (augmentation.erase, 0.0, 1.0),
        "mixup": (augmentation.mixup, 0.0, math.inf),
        "cutmix": (augmentation.cutmix, 0.0, math.inf),
    }
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            limit = f"at least {least}" if most == math.inf else f"between {least} and {most}"
            raise UserError(f"{option}.{name}={value}: must be {limit}.")
    if augmentation.border not in BORDERS:
        hint = did_you_mean(augmentation.border, BORDERS)
        raise UserError(f"{option}.border={augmentation.border!r}: {hint}")
    if not augmentation.mixes:
        return
    name = "mixup" if augmentation.mixup else "cutmix"
    value = getattr(augmentation, name)
    if not one_size:
        raise UserError(
            f"{option}.{name}={value}: mixes the images of two rows patch by patch, so each row must be one image, all "
            "of one size. Pack no images and squash or crop them, or set it to 0."
        )
    if batch_size % 2:
        raise UserError(
            f"{option}.{name}={value}: mixes images in pairs, but a batch has {batch_size} rows. Set an even number."
        )


def augment(
    batch: Mapping[str, jax.Array],
    augmentation: Augmentation,
    patch: int,
    channels: int,
    key: DropoutKey,
    *,
    segments: int | None = None,
) -> jax.Array:
    """Returns the pixels of a batch, each image changed at random, f32 [B, T, P * P * C] in 0..255.

    Colour operations of RandAugment follow all that moves pixels, in the order drawn. Values are not rounded. Tokens
    without pixels stay 0. Without any part that changes pixels, these are the pixels as they are.

    Args:
      batch: the fields "pixels", "segment_ids", "cells" and "grids" of rows of patches.
      augmentation: what to do; mixing is left to `mix`.
      patch: P.
      channels: C, 1 or 3.
      key: of the step; with a `RowsKey` these are some rows of a batch, changed as they would be in it.
      segments: the most images a row, S; None: as many as it has tokens. 1, for rows of one image, costs least.
    """
    if not augmentation.changes_pixels:
        return batch["pixels"].astype(jnp.float32)
    rows = batch["pixels"].shape[0]

    def one(pixels: jax.Array, ids: jax.Array, cells: jax.Array, grids: jax.Array, key: jax.Array) -> jax.Array:
        row = ImageRow(pixels.reshape(-1, patch, patch, channels), ids, cells, grids, patch, segments or len(ids))
        return _augment_row(row, augmentation, key).reshape(pixels.shape)

    keys = row_keys(key, rows)
    return jax.vmap(one)(batch["pixels"], batch["segment_ids"], batch["cells"], batch["grids"], keys)


class Moves(NamedTuple):
    """How images of a batch are moved: where each pixel of a result is read, and their sides in pixels, all [B, S]."""

    moved: Affine
    height: jax.Array
    width: jax.Array


def image_moves(
    batch: Mapping[str, jax.Array],
    augmentation: Augmentation,
    patch: int,
    channels: int,
    key: DropoutKey,
    *,
    segments: int | None = None,
) -> Moves:
    """Returns how `augment`, given the same arguments, moves each image: for targets that lie in it."""

    def one(pixels: jax.Array, ids: jax.Array, cells: jax.Array, grids: jax.Array, key: jax.Array) -> Moves:
        row = ImageRow(pixels.reshape(-1, patch, patch, channels), ids, cells, grids, patch, segments or len(ids))
        return Moves(*_draw(row, augmentation, key)[:3])

    keys = row_keys(key, batch["pixels"].shape[0])
    return jax.vmap(one)(batch["pixels"], batch["segment_ids"], batch["cells"], batch["grids"], keys)


@jax.named_scope("mix_images")
def mix(
    batch: Mapping[str, jax.Array],
    pixels: jax.Array,
    augmentation: Augmentation,
    patch: int,
    channels: int,
    key: jax.Array,
) -> Mixed:
    """Returns the images of neighbouring rows (2i, 2i + 1) mixed with each other, and the weights of the labels.

    Both rows of a pair have one draw, in both directions. Rows must be one image each, and an even number
    (`check_augmentation`); a pair of different sizes is not mixed, its weight is 0.

    Args:
      batch: as for `augment`.
      pixels: f32 [B, T, P * P * C], what `augment` returns.
      augmentation: mixup and cutmix of it.
      patch: P.
      channels: C.
      key: of the step; may be that of `augment`.
    """
    rows = len(pixels)
    if not augmentation.mixes:
        return Mixed(pixels, jnp.zeros(rows, jnp.float32))
    assert rows % 2 == 0, "images are mixed in pairs"
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.fold_in(key, _MIX), number))(jnp.arange(rows // 2))
    grids_B2 = batch["grids"].max(axis=1)
    same_B = jnp.all(grids_B2 == _partner(grids_B2), axis=-1)
    mask_B, weight_B = _mixing(augmentation, keys, grids_B2 * patch)  # cutmix's rectangles; mixup's weights
    y_BTPP, x_BTPP = places(batch["cells"], patch)
    top, bottom, left, right = (edge_B[:, None, None, None] for edge_B in mask_B)
    inside_BTPP = (y_BTPP >= top) & (y_BTPP < bottom) & (x_BTPP >= left) & (x_BTPP < right)
    share = jnp.where(inside_BTPP, 1.0, weight_B[:, None, None, None]) * same_B[:, None, None, None]
    share = jnp.repeat(share.reshape(*pixels.shape[:2], -1), channels, axis=-1)
    area_B = ((mask_B[1] - mask_B[0]) * (mask_B[3] - mask_B[2])) / jnp.maximum(grids_B2.prod(axis=-1) * patch**2, 1)
    partner_weight_B = jnp.where(same_B, weight_B + area_B, 0.0)
    return Mixed(pixels * (1 - share) + _partner(pixels) * share, partner_weight_B)


def _mixing(
    augmentation: Augmentation, keys: jax.Array, sizes_B2: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """The rectangle (top, bottom, left, right) of each row that comes from its neighbour, and the weight elsewhere."""

    def pair(key: jax.Array, size: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array]:
        where, amount = jax.random.split(key)
        choice, *middle = jax.random.uniform(where, (3,))
        share = 0.5 if augmentation.mixup and augmentation.cutmix else float(augmentation.cutmix > 0)
        cuts = choice < share
        shape = jnp.where(cuts, augmentation.cutmix or 1.0, augmentation.mixup or 1.0)
        weight = jax.random.beta(amount, shape, shape)
        # Yun et al.: sides are the root of the area, the middle lies anywhere, what hangs over is cut off.
        middle = jnp.floor(jnp.stack(middle) * size)
        half = jnp.floor(size * jnp.sqrt(weight) / 2) * cuts
        first, last = jnp.clip(middle - half, 0, size), jnp.clip(middle + half, 0, size)
        return (first[0], last[0], first[1], last[1]), jnp.where(cuts, 0.0, weight)

    edges, weights = jax.vmap(pair)(keys, sizes_B2[::2].astype(jnp.float32))
    return tuple(jnp.repeat(edge, 2) for edge in edges), jnp.repeat(weights, 2)


def _partner(rows: jax.Array) -> jax.Array:
    """Row b ^ 1 in place of row b."""
    return rows.reshape(-1, 2, *rows.shape[1:])[:, ::-1].reshape(rows.shape)


# --- one row ---------------------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    """What is drawn for the images of a row: where their pixels go, sizes in pixels, operations, erased parts."""

    moved: Affine
    height_S: jax.Array
    width_S: jax.Array
    operations: list[tuple[jax.Array, jax.Array]]
    erased: list[jax.Array]


def _draw(row: ImageRow, augmentation: Augmentation, key: jax.Array) -> _Drawn:
    count, magnitude = augmentation.rand_augment
    keys_S = jax.vmap(lambda segment: jax.random.fold_in(key, segment))(jnp.arange(row.segments))
    draws = iter(jax.vmap(lambda each: jax.random.uniform(each, (12 + 2 * count,)))(keys_S).T)
    sizes_S2 = row.reduced("max", row.grids) * row.patch
    height_S, width_S = (jnp.maximum(size, 1).astype(jnp.float32) for size in sizes_S2.T)
    crop, shift = [next(draws) for _ in range(4)], [next(draws) for _ in range(2)]
    flip, erase = next(draws), [next(draws) for _ in range(5)]
    drawn = [(_chosen(next(draws)), 1 - 2 * (next(draws) < 0.5).astype(jnp.float32)) for _ in range(count)]

    moved = identity(height_S)
    if augmentation.crop:
        moved = after(moved, _crop(augmentation.crop, crop, height_S, width_S))
    if augmentation.pad_crop:
        most = augmentation.pad_crop
        down, right = (jnp.floor(draw * (2 * most + 1)) - most for draw in shift)
        moved = after(moved, moved_by(down, right))
    if augmentation.flip:
        moved = after(moved, flipped(flip < 0.5))
    level = magnitude / MAGNITUDES
    for operation, sign in drawn:
        moved = after(moved, _geometric(operation, sign * level, height_S, width_S))
    return _Drawn(moved, height_S, width_S, drawn, erase)


def _augment_row(row: ImageRow, augmentation: Augmentation, key: jax.Array) -> jax.Array:
    """The pixels of a row, f32 [T, P, P, C]."""
    moved, height_S, width_S, drawn, erase = _draw(row, augmentation, key)
    level = augmentation.rand_augment[1] / MAGNITUDES
    pixels = sample(row, moved, augmentation.border) if augmentation.moves else row.pixels.astype(jnp.float32)
    for operation, sign in drawn:
        # Stored before it is read several times; the compiler would rather compute it anew for each.
        pixels = _coloured(row, jax.lax.optimization_barrier(pixels), operation, sign, level)
    if augmentation.erase:
        inside = _erased(row, augmentation.erase, erase, height_S, width_S)
        noise = jax.random.uniform(jax.random.fold_in(key, _NOISE), pixels.shape, maxval=255.0)
        pixels = jnp.where(inside[..., None], noise, pixels)
    return jnp.where(row.has_pixels[:, None, None, None], pixels, 0.0)


def _chosen(draw_S: jax.Array) -> jax.Array:
    """The number of an operation."""
    return jnp.minimum((draw_S * len(OPERATIONS)).astype(jnp.int32), len(OPERATIONS) - 1)


# --- what moves pixels -----------------------------------------------------------------------------------------------


def _crop(least: float, draws: list[jax.Array], height_S: jax.Array, width_S: jax.Array) -> Affine:
    """A part of at least this share of the area at a random place (Szegedy et al. 2015), at the size of the image."""
    area = least + (1 - least) * draws[0]
    aspect = jnp.exp((2 * draws[1] - 1) * _ASPECT / 2)  # of both sides, so their ratio is within 3/4 and 4/3
    tall, wide = jnp.minimum(jnp.sqrt(area) * aspect, 1.0), jnp.minimum(jnp.sqrt(area) / aspect, 1.0)
    top, left = (draws[2] - 0.5) * (1 - tall) * height_S, (draws[3] - 0.5) * (1 - wide) * width_S
    return identity(tall)._replace(a=tall, c=top, e=wide, f=left)


def _geometric(operation_S: jax.Array, level_S: jax.Array, height_S: jax.Array, width_S: jax.Array) -> Affine:
    """The map of RandAugment's operation; `level_S` is -1 to 1.

    Largest magnitudes: 30 degrees, a shear of 0.3, a shift by 0.45 of the size. Colour operations move nothing.
    """

    def amount(name: str, most: float | jax.Array) -> jax.Array:
        return jnp.where(operation_S == _NUMBER[name], level_S * most, 0.0)

    turned = rotated(amount("rotate", 30.0))
    return turned._replace(
        b=turned.b + amount("shear_y", 0.3),
        c=amount("translate_y", 0.45 * height_S),
        d=turned.d + amount("shear_x", 0.3),
        f=amount("translate_x", 0.45 * width_S),
    )


# --- what changes colours --------------------------------------------------------------------------------------------


def _grey(pixels: jax.Array) -> jax.Array:
    """Brightness [..., 1] of pixels [..., C]."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = (weight * pixels[..., c : c + 1] for c, weight in enumerate(_LUMA))
    return red + green + blue


@jax.named_scope("colour_images")
def _coloured(row: ImageRow, pixels: jax.Array, operation_S: jax.Array, sign_S: jax.Array, level: float) -> jax.Array:
    """Pixels [T, P, P, C] after RandAugment's operation, those of images of which it changes no colour as they were.

    Largest magnitudes: brightness, contrast and colour are multiplied by 0.1 or 1.9; 4 bits are left; everything is
    solarised.
    """
    factor = row.of_tokens(1 + 0.9 * level * sign_S)[..., None]
    count_S = row.reduced("sum", jnp.ones(len(row.cells))) * row.patch**2
    means_S = row.reduced("sum", _grey(pixels).sum(axis=(1, 2, 3))) / jnp.maximum(count_S, 1)
    low_SC = row.reduced("min", pixels.min(axis=(1, 2)))
    high_SC = row.reduced("max", pixels.max(axis=(1, 2)))
    own = row.own_segment
    low, high = (jnp.take(each, own, axis=0, mode="clip")[:, None, None] for each in (low_SC, high_SC))
    step = 2.0 ** round(4 * level)
    threshold = 256.0 * (1 - level)

    def blend(base: jax.Array) -> jax.Array:
        return jnp.clip(base + (pixels - base) * factor, 0.0, 255.0)

    changed = {
        "brightness": blend(jnp.zeros_like(pixels)),
        "contrast": blend(row.of_tokens(means_S)[..., None]),
        "colour": blend(_grey(pixels)),
        "posterise": jnp.floor(pixels / step) * step,
        "solarise": jnp.where(pixels < threshold, pixels, 255.0 - pixels),
        "invert": 255.0 - pixels,
        "auto_contrast": jnp.where(high > low, (pixels - low) * (255.0 / jnp.maximum(high - low, 1e-6)), pixels),
    }
    operation = row.of_tokens(operation_S)[..., None]
    for name, values in changed.items():
        pixels = jnp.where(operation == _NUMBER[name], values, pixels)
    return pixels


def _erased(
    row: ImageRow, probability: float, draws: list[jax.Array], height_S: jax.Array, width_S: jax.Array
) -> jax.Array:
    """[T, P, P] whether a pixel lies in the rectangle of its image that is erased."""
    least, most = _ERASED_AREA
    area = least + (most - least) * draws[1]
    aspect = jnp.exp((2 * draws[2] - 1) * _ERASED_ASPECT / 2)
    tall = jnp.round(jnp.minimum(jnp.sqrt(area) * aspect, 1.0) * height_S)
    wide = jnp.round(jnp.minimum(jnp.sqrt(area) / aspect, 1.0) * width_S)
    top, left = jnp.floor(draws[3] * (height_S - tall + 1)), jnp.floor(draws[4] * (width_S - wide + 1))
    y, x = places(row.cells, row.patch)
    inside = (y >= row.of_tokens(top)) & (y < row.of_tokens(top + tall))
    inside &= (x >= row.of_tokens(left)) & (x < row.of_tokens(left + wide))
    return inside & row.of_tokens(draws[0] < probability)
