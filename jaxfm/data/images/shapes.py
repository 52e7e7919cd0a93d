"""`quickstart` of objects: circles, squares and triangles of several sizes and colours on a noisy ground."""

from collections.abc import Mapping

import numpy as np

from jaxfm.data.images.boxes import BoxedSplit, counted, example_of
from jaxfm.data.images.stored import StoredImage

CLASSES = ("circle", "square", "triangle")
SIDE = 64
"""Pixels of an image's side."""
HELD_OUT = 500
"""Images of valid, and of test."""
_MOST = 4  # objects of an image
_SIDES = (8, 44)  # pixels of an object's side: COCO calls those of an area below 32 x 32 small
_TRIES = 20
_OVERLAP = 0.1  # of the smaller of two boxes, at most
_SEEDS: Mapping[str, int] = {"train": 1, "valid": 2, "test": 3}


def draw_split(split: str, count: int) -> BoxedSplit:
    """Returns images that depend on the split and their number alone; the first n are those of a larger split."""
    examples = []
    for number in range(count):
        origin = f"shapes/{split}[{number}]"
        pixels, objects = _draw(np.random.default_rng((_SEEDS[split], number)))
        stored = StoredImage(origin, array=pixels)
        examples.append(example_of(stored, (SIDE, SIDE), objects, origin))
    return BoxedSplit(tuple(examples), CLASSES, f"{split}: {counted(examples)}, drawn ({', '.join(CLASSES)})")


def _draw(draw: np.random.Generator) -> tuple[np.ndarray, list[tuple[tuple[float, ...], str, bool, float]]]:
    """Returns the pixels uint8 [64, 64, 3] of an image, and the box, class, crowd and area of each object."""
    ground = draw.integers(40, 216, 3)
    image = (ground + draw.normal(0, 16, (SIDE, SIDE, 3))).astype(np.float32)
    placed: list[tuple[int, int, int, int]] = []
    objects: list[tuple[tuple[float, ...], str, bool, float]] = []
    for _ in range(draw.integers(1, _MOST + 1)):
        box = _place(draw, placed)
        if box is None:
            continue
        placed.append(box)
        kind = int(draw.integers(len(CLASSES)))
        colour = ground
        while np.abs(colour - ground).sum() < 120:
            colour = draw.integers(0, 256, 3)
        left, top, right, bottom = box
        mask = _mask(kind, right - left)
        inside = image[top:bottom, left:right]
        inside[mask] = colour + draw.normal(0, 8, (int(mask.sum()), 3))
        objects.append(((left, top, right, bottom), CLASSES[kind], False, 0.0))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), objects


def _place(draw: np.random.Generator, placed: list[tuple[int, int, int, int]]) -> tuple[int, int, int, int] | None:
    """Returns a square that hardly overlaps those before it; None where none was found."""
    for _ in range(_TRIES):
        side = int(np.rint(np.exp(draw.uniform(np.log(_SIDES[0]), np.log(_SIDES[1])))))
        left, top = (int(value) for value in draw.integers(0, SIDE - side + 1, 2))
        box = (left, top, left + side, top + side)
        if all(_shared(box, other) <= _OVERLAP for other in placed):
            return box
    return None


def _shared(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Returns the share of the smaller of two squares that lies in the other."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(tall, 0) / min((each[2] - each[0]) ** 2 for each in (one, other))


def _mask(kind: int, side: int) -> np.ndarray:
    """Returns which pixels of a square belong to a shape, bool [side, side]; it touches all four edges."""
    row, column = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5, indexing="ij")
    if kind == 0:
        return (row - side / 2) ** 2 + (column - side / 2) ** 2 <= (side / 2) ** 2
    if kind == 1:
        return np.ones((side, side), bool)
    return np.abs(column - side / 2) <= row / 2 + 0.25
