"""Changes of pixels, uint8 [H, W, C], by severity 1 to 5, with Pillow's own operations."""

# H height, W width, C channels

from collections.abc import Callable

import numpy as np

PixelChange = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
# Sizes of blur and angles are those of an image whose shorter side is 224 pixels; noise is of 0 to 255.
BLUR_RADII = (0.7, 1.3, 2.0, 3.0, 4.5)
NOISE_DEVIATIONS = (8.0, 16.0, 26.0, 38.0, 52.0)
CONTRASTS = (0.75, 0.55, 0.4, 0.25, 0.15)
ANGLES = (5.0, 10.0, 18.0, 28.0, 40.0)
_USUAL_SIDE = 224


def blur(pixels: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Gaussian blur; the radius grows with the image."""
    from PIL import ImageFilter

    del generator
    radius = BLUR_RADII[severity - 1] * max(min(pixels.shape[:2]) / _USUAL_SIDE, 0.25)
    return _array(_picture(pixels).filter(ImageFilter.GaussianBlur(radius)), pixels)


def noise(pixels: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise of each channel of each pixel by itself."""
    drawn = pixels + NOISE_DEVIATIONS[severity - 1] * generator.standard_normal(pixels.shape)
    return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def contrast(pixels: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Less contrast: towards the grey of the image's mean brightness."""
    from PIL import ImageEnhance

    del generator
    return _array(ImageEnhance.Contrast(_picture(pixels)).enhance(CONTRASTS[severity - 1]), pixels)


def rotation(pixels: np.ndarray, severity: int, generator: np.random.Generator) -> np.ndarray:
    """Turned around the middle, to the left or right by chance; corners have the mean colour of the image."""
    from PIL import Image

    angle = ANGLES[severity - 1] * (1 if generator.random() < 0.5 else -1)
    mean = tuple(int(each) for each in np.rint(pixels.mean(axis=(0, 1))))
    turned = _picture(pixels).rotate(
        angle,
        Image.Resampling.BILINEAR,
        fillcolor=mean if len(mean) > 1 else mean[0],  # type: ignore[arg-type]
    )
    return _array(turned, pixels)


def _picture(pixels: np.ndarray):  # noqa: ANN202  of Pillow, which is imported late
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _array(picture, like: np.ndarray) -> np.ndarray:  # noqa: ANN001
    return np.asarray(picture, np.uint8).reshape(like.shape)
