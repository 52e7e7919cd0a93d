"""Image files of noise."""

import io

import numpy as np
from PIL import Image


def image_bytes(seed: int, kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    """An image file of noise; another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
