"""Sheets of small pictures with a line below each, as PNG files."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxfm.observe.plots import INK, WIDTH_INCHES, new_figure, save_figure

_COLUMNS = 6
_LIGHT = (255, 90, 40)
_LINE = 26  # characters of a caption's line that fit below a picture


class Tile(NamedTuple):
    """A picture and what is said of it.

    Attributes:
      pixels: uint8 [H, W, C], C 1 or 3.
      lines: below it; a line that is too long is cut.
    """

    pixels: np.ndarray
    lines: tuple[str, ...]


def draw_sheet(tiles: Sequence[Tile], path: str | os.PathLike[str], *, title: str, columns: int = _COLUMNS) -> None:
    """Draws pictures in rows from the top left; small ones are enlarged without smoothing.

    Raises OSError when the file cannot be written.
    """
    assert tiles, "no pictures to draw"
    rows, lines = math.ceil(len(tiles) / columns), max(len(tile.lines) for tile in tiles)
    side = WIDTH_INCHES / columns
    figure = new_figure(0.5 + rows * (side + 0.17 * lines))
    figure.suptitle(title, color=INK, fontsize=11, x=0.02, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False)
    for place, axes in enumerate(panels.flat):
        axes.set_axis_off()
        if place < len(tiles):
            pixels = tiles[place].pixels
            axes.imshow(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, interpolation="nearest")
            text = "\n".join(_cut(line) for line in tiles[place].lines)
            axes.text(
                0.5, -0.03, text, transform=axes.transAxes, ha="center", va="top", fontsize=7, color=INK,
                parse_math=False,
            )  # fmt: skip
    save_figure(figure, path)


def lit(pixels: np.ndarray, weights: np.ndarray, patch: int) -> np.ndarray:
    """Returns an image, grey and dark where the weights of its patches are lowest, red where they are highest.

    Args:
      pixels: uint8 [H, W, C].
      weights: [rows, columns], at least 0.
      patch: side of a patch.
    """
    above = weights.astype(np.float64) - float(weights.min())
    share = above / max(float(above.max()), 1e-12)
    share = np.repeat(np.repeat(share, patch, axis=0), patch, axis=1)[..., None]
    grey = pixels.mean(axis=-1, keepdims=True) * 0.6
    return np.clip(grey * (1 - share) + (0.5 * grey + np.asarray(_LIGHT) * 0.7) * share, 0, 255).astype(np.uint8)


def _cut(line: str) -> str:
    return line if len(line) <= _LINE else f"{line[: _LINE - 1]}…"
