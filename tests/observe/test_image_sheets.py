"""Sheets of pictures: where they stand, and that small ones are not smoothed."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxfm.observe.image_sheets import Tile, draw_sheet, lit


def test_pictures_stand_in_rows(tmp_path: pathlib.Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    tiles = [Tile(np.full((2, 2, 3), colour, np.uint8), ("a", "b")) for colour in colours]
    draw_sheet(tiles, tmp_path / "sheet.png", title="Colours", columns=2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    centres = []
    for colour in colours:
        ys, xs = np.nonzero(np.abs(pixels - colour).sum(axis=-1) < 10)
        centres.append((ys.mean() / len(pixels), xs.mean() / len(pixels[0])))
    (top, left), (top2, right), (bottom, left2) = centres
    assert abs(top - top2) < 0.02 and abs(left - left2) < 0.02 and left < 0.5 < right and top < bottom


def test_grey_and_small_pictures_keep_their_pixels(tmp_path: pathlib.Path) -> None:
    board = np.asarray([[0, 255], [255, 0]], np.uint8)[..., None]
    draw_sheet([Tile(board, ("x" * 60,))], tmp_path / "sheet.png", title="", columns=1)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    dark = (pixels < 30).mean()
    between = ((pixels > 60) & (pixels < 200)).mean()
    assert dark > 0.3 and between < 0.02  # a smoothed board would be grey between its fields


def test_patches_are_lit_by_their_weights() -> None:
    pixels = np.full((4, 6, 3), 100, np.uint8)
    shown = lit(pixels, np.asarray([[0.1, 0.2, 0.3], [0.1, 0.1, 0.2]]), 2).astype(int)
    assert shown.shape == (4, 6, 3)
    assert (shown[0, 0] == 60).all() and (shown[2:, :4] == 60).all()  # the least: grey, darker
    redness = shown[..., 0] - shown[..., 2]
    assert (redness[:2, 4:] == redness.max()).all() and 0 < redness[0, 2] < redness[0, 4]
    # Weights that are all equal light nothing.
    assert (lit(pixels, np.full((2, 3), 0.4), 2) == 60).all()


def test_no_pictures_are_no_sheet(tmp_path: pathlib.Path) -> None:
    with pytest.raises(AssertionError):
        draw_sheet([], tmp_path / "sheet.png", title="")
