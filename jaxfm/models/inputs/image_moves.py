"""Images in rows of patches moved by an affine map each: every pixel of the result is read where the map leads."""

# T tokens, S segments (images in a row), P patch side, C channels

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class ImageRow(NamedTuple):
    """One row: pixels [T, P, P, C], segments [T], cells [T, 2], grids [T, 2]; patch side and S."""

    pixels: jax.Array
    segment_ids: jax.Array
    cells: jax.Array
    grids: jax.Array
    patch: int
    segments: int

    @property
    def has_pixels(self) -> jax.Array:
        """[T] whether a token has pixels."""
        return self.cells[:, 0] >= 0

    @property
    def own_segment(self) -> jax.Array:
        """[T] the segment of each token with pixels from 0; S for all others, which no array of segments has."""
        return jnp.where(self.has_pixels, self.segment_ids - 1, self.segments)

    def of_tokens(self, values_S: jax.Array) -> jax.Array:
        """[T, 1, 1] of a number of each segment: for each token that of its image."""
        return jnp.take(values_S, self.own_segment, mode="clip")[:, None, None]

    def reduced(self, how: str, values_T: jax.Array) -> jax.Array:
        """[S, ...] of tokens' values [T, ...]: the sum, min or max over the tokens of each image that have pixels."""
        if self.segments == 1:  # without a scatter, which is slow
            has = self.has_pixels.reshape(-1, *[1] * (values_T.ndim - 1))
            whole = jnp.issubdtype(values_T.dtype, jnp.integer)
            limits = jnp.iinfo(values_T.dtype) if whole else jnp.finfo(values_T.dtype)
            empty = {"sum": 0, "min": limits.max, "max": limits.min}[how]
            return getattr(jnp, how)(jnp.where(has, values_T, empty), axis=0, keepdims=True)
        reduce: Callable[..., jax.Array] = getattr(jax.ops, f"segment_{how}")
        return reduce(values_T, self.own_segment, num_segments=self.segments + 1)[:-1]


class Affine(NamedTuple):
    """Where each pixel of a result is read: row = a y + b x + c and column = d y + e x + f, each [S].

    y and x count pixels from the middle of the image, on both sides, so that sizes of images do not matter and halves
    are exact.
    """

    a: jax.Array
    b: jax.Array
    c: jax.Array
    d: jax.Array
    e: jax.Array
    f: jax.Array


def identity(like_S: jax.Array) -> Affine:
    """Returns the map that moves nothing, of as many segments as an array has."""
    one, zero = jnp.ones_like(like_S), jnp.zeros_like(like_S)
    return Affine(one, zero, zero, zero, one, zero)


def after(first: Affine, then: Affine) -> Affine:
    """Returns the map of two changes: the result is read where `then` leads, and what is there where `first` leads.

    Written out, as a matrix product may run in bfloat16.
    """
    a, b, c, d, e, f = first
    return Affine(
        a * then.a + b * then.d,
        a * then.b + b * then.e,
        a * then.c + b * then.f + c,
        d * then.a + e * then.d,
        d * then.b + e * then.e,
        d * then.c + e * then.f + f,
    )


def moved_by(down_S: jax.Array, right_S: jax.Array) -> Affine:
    """Returns the map that moves an image down and to the right, in pixels."""
    same = identity(down_S)
    return same._replace(c=-down_S, f=-right_S)


def flipped(is_flipped_S: jax.Array) -> Affine:
    """Returns the map that exchanges left and right where `is_flipped_S` is True."""
    same = identity(is_flipped_S.astype(jnp.float32))
    return same._replace(e=jnp.where(is_flipped_S, -1.0, 1.0))


def rotated(degrees_S: jax.Array) -> Affine:
    """Returns the map that turns an image counterclockwise around its middle, as Pillow does."""
    angle_S = degrees_S * (math.pi / 180)
    cosine, sine, zero = jnp.cos(angle_S), jnp.sin(angle_S), jnp.zeros_like(angle_S)
    return Affine(cosine, sine, zero, -sine, cosine, zero)


def places(cells: jax.Array, patch: int) -> tuple[jax.Array, jax.Array]:
    """Returns row and column in its image of each pixel of tokens, int32 [..., T, P, P]."""
    inside = jnp.arange(patch)
    y = cells[..., 0, None, None] * patch + inside[:, None]
    x = cells[..., 1, None, None] * patch + inside
    shape = jnp.broadcast_shapes(y.shape, x.shape)
    return jnp.broadcast_to(y, shape), jnp.broadcast_to(x, shape)


@jax.named_scope("sample_images")
def sample(row: ImageRow, moved: Affine, border: str) -> jax.Array:
    """Returns the pixels of a row, f32 [T, P, P, C], each read where the map of its image leads, bilinearly.

    "zero": what lies more than half a pixel outside is 0. "reflect": outside lies the image mirrored at its outermost
    pixels.
    """
    patch, channels = row.patch, row.pixels.shape[-1]
    index_T = jnp.arange(len(row.cells))
    start_S = row.reduced("min", index_T)
    grid_S2 = row.reduced("max", row.grids)
    start, columns = row.of_tokens(start_S), row.of_tokens(grid_S2[:, 1])
    last_y, last_x = (row.of_tokens(jnp.maximum(side * patch - 1, 0)) for side in grid_S2.T)
    a, b, c, d, e, f = (row.of_tokens(values) for values in moved)
    y, x = (
        place.astype(jnp.float32) - last.astype(jnp.float32) / 2
        for place, last in zip(places(row.cells, patch), (last_y, last_x), strict=True)
    )
    y, x = a * y + b * x + c + last_y / 2, d * y + e * x + f + last_x / 2
    valid = row.has_pixels[:, None, None]
    if border == "zero":
        valid &= (y >= -0.5) & (y <= last_y + 0.5) & (x >= -0.5) & (x <= last_x + 0.5)
        y, x = jnp.clip(y, 0, last_y), jnp.clip(x, 0, last_x)
    else:
        y, x = _mirrored(y, last_y), _mirrored(x, last_x)
    flat = row.pixels.reshape(-1, channels)

    def at(row_y: jax.Array, column_x: jax.Array) -> jax.Array:
        token = start + (row_y // patch) * columns + column_x // patch
        place = (token * patch + row_y % patch) * patch + column_x % patch
        return jnp.take(flat, place, axis=0, mode="clip").astype(jnp.float32)

    above, before = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    below, after = jnp.minimum(above + 1, last_y), jnp.minimum(before + 1, last_x)
    down, right = (y - above)[..., None], (x - before)[..., None]
    upper = at(above, before) * (1 - right) + at(above, after) * right
    lower = at(below, before) * (1 - right) + at(below, after) * right
    return jnp.where(valid[..., None], upper * (1 - down) + lower * down, 0.0)


def _mirrored(place: jax.Array, last: jax.Array) -> jax.Array:
    """A place brought into 0..last by mirrors at both; 0 where the image is one pixel wide."""
    period = jnp.maximum(2 * last, 1).astype(jnp.float32)
    within = jnp.mod(place, period)
    return jnp.clip(jnp.minimum(within, period - within), 0, last)
