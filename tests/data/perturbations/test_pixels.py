"""Changes of pixels: beside Pillow's own, by closed forms, and more of them at each severity."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from jaxfm.data.perturbations import pixels

CHANGES = (pixels.blur, pixels.noise, pixels.contrast, pixels.rotation)


def picture(height: int = 40, width: int = 56, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(5)
    small = generator.integers(40, 216, (height // 4, width // 4, channels))
    return np.repeat(np.repeat(small, 4, axis=0), 4, axis=1).astype(np.uint8)


def test_blur_and_contrast_are_those_of_pillow() -> None:
    image = picture(448, 448)
    expected = Image.fromarray(image).filter(ImageFilter.GaussianBlur(2 * pixels.BLUR_RADII[2]))
    assert np.array_equal(pixels.blur(image, 3, np.random.default_rng(0)), np.asarray(expected))
    expected = ImageEnhance.Contrast(Image.fromarray(image)).enhance(pixels.CONTRASTS[2])
    assert np.array_equal(pixels.contrast(image, 3, np.random.default_rng(0)), np.asarray(expected))


def test_noise_has_its_deviation() -> None:
    grey = np.full((200, 200, 1), 128, np.uint8)
    for severity, deviation in enumerate(pixels.NOISE_DEVIATIONS[:3], start=1):
        drawn = pixels.noise(grey, severity, np.random.default_rng(0)).astype(float) - 128
        assert drawn.mean() == pytest.approx(0, abs=0.3) and drawn.std() == pytest.approx(deviation, rel=0.02)


def test_a_turned_point_lies_where_it_should() -> None:
    image = np.zeros((101, 101, 1), np.uint8)
    image[48:53, 88:93] = 255  # 40 to the right of the middle
    turned = pixels.rotation(image, 5, np.random.default_rng(0))[..., 0].astype(float)
    down, right = (np.indices(turned.shape) * turned).sum(axis=(1, 2)) / turned.sum()
    angle = np.degrees(np.arctan2(50 - down, right - 50))
    assert abs(angle) == pytest.approx(pixels.ANGLES[4], abs=1.0)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type_stay_and_more_changes(change: pixels.PixelChange, channels: int) -> None:
    image = picture(channels=channels)
    apart = []
    for severity in range(1, 6):
        found = change(image, severity, np.random.default_rng(1))
        assert found.shape == image.shape and found.dtype == np.uint8
        apart.append(float(np.abs(found.astype(float) - image).mean()))
    assert 0 < apart[0] < apart[4] and (
        apart == sorted(apart) or change is pixels.rotation
    )  # of blocks: a turn is a turn
