"""What a model of hidden patches predicts, as pictures: the image, what was seen of it, what was made of that."""

# N rows, T tokens, V values of a patch

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.data.images.rows import ImageRows, from_patches
from jaxfm.observe.image_sheets import Tile, draw_sheet

SHOWN_IMAGES = 8
_GREY = 128


def draw_reconstructions(
    rows: ImageRows, outputs: Mapping[str, np.ndarray], images: Sequence[int], path: pathlib.Path
) -> None:
    """Draws a sheet: of each image itself, its visible patches, and these with the predicted ones between them.

    Args:
      rows: of the images.
      outputs: "predicted" uint8 [N, T, V] and "hidden" bool [N, T] of all rows.
      images: numbers of those to draw.
      path: of the PNG file.
    """
    tiles = []
    for image in images:
        for heading, pixels in reconstruction(rows, outputs, image).items():
            tiles.append(Tile(pixels, (heading,)))
    draw_sheet(tiles, path, title="Hidden patches: the image, what the encoder saw, what was predicted", columns=6)


def reconstruction(rows: ImageRows, outputs: Mapping[str, np.ndarray], image: int) -> dict[str, np.ndarray]:
    """Returns pixels uint8 [H, W, C]: of the "image", what was "seen" of it, and what was "predicted"."""
    row, segment = rows.example_locations[image].tolist()
    ids = rows.take(np.asarray([row]))["segment_ids"][0]
    (tokens,) = np.nonzero(ids == segment + 1)
    tokens = tokens[rows.settings.prefix :]
    patches, hidden = rows.patches(image), outputs["hidden"][row][tokens][:, None]
    grid = (int(rows.grids[image, 0]), int(rows.grids[image, 1]))
    side = rows.settings.patch
    seen = np.where(hidden, np.uint8(_GREY), patches)
    made = np.where(hidden, outputs["predicted"][row][tokens], patches)
    return {
        name: from_patches(values, grid, side)
        for name, values in (("image", patches), ("seen", seen), ("predicted", made))
    }
