"""Boxes drawn on pictures."""

# H height, W width, C channels, n boxes

from collections.abc import Sequence

import numpy as np

GOLD, RIGHT, WRONG = (255, 255, 255), (40, 220, 90), (255, 60, 40)
_LEAST_SIDE = 256  # pixels that a picture is enlarged to, so that thin lines are seen


def with_boxes(pixels: np.ndarray, boxes: Sequence[tuple[np.ndarray, tuple[int, int, int]]]) -> np.ndarray:
    """Returns a picture uint8 [H', W', 3], enlarged where it is small, with the outlines of boxes.

    Args:
      pixels: uint8 [H, W, C].
      boxes: left, top, right and bottom [4] in shares of the sides, and a colour; later ones lie above.
    """
    from PIL import Image, ImageDraw

    times = max(1, round(_LEAST_SIDE / max(pixels.shape[:2])))
    large = np.repeat(np.repeat(pixels, times, axis=0), times, axis=1)
    picture = Image.fromarray(np.repeat(large, 3, axis=2) if pixels.shape[2] == 1 else large)
    draw, (height, width) = ImageDraw.Draw(picture), large.shape[:2]
    line = max(1, max(height, width) // 100)
    for box, colour in boxes:
        left, top, right, bottom = np.clip(box, 0.0, 1.0) * [width, height, width, height]
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=line)
    return np.asarray(picture)
