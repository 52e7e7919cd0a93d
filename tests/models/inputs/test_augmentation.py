"""Changes of images on the device against NumPy, SciPy and Pillow; draws that depend on row and segment alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image, ImageEnhance, ImageOps

from jaxfm.data.images.rows import ImageRows, build_image_rows, from_patches
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.models.dropout import RowsKey
from jaxfm.models.inputs import augmentation as augmenting
from jaxfm.models.inputs import image_moves
from jaxfm.models.inputs.augmentation import Augmentation, augment, check_augmentation, mix

PATCH = 2
KEY = jax.random.key(3)
EVERYTHING = Augmentation(crop=0.5, pad_crop=1, flip=True, rand_augment=(2, 9.0), erase=0.5)


def rows_of(*sizes: tuple[int, int], channels: int = 3, packed: bool = False, row_length: int = 0, prefix: int = 1):
    draw = np.random.default_rng(len(sizes))
    images = [
        StoredImage(str(number), array=draw.integers(0, 256, (*size, channels)).astype(np.uint8))
        for number, size in enumerate(sizes)
    ]
    return build_image_rows(
        images,
        rule="native",
        side=16,
        patch=PATCH,
        channels=channels,
        prefix=prefix,
        packed=packed,
        row_length=row_length,
    )


def batch_of(rows: ImageRows) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}


def images_of(rows: ImageRows, batch, pixels) -> list[np.ndarray]:
    """The images [H, W, C] of changed pixels [B, T, P * P * C]."""
    found = []
    for example, (row, segment) in enumerate(rows.example_locations):
        own = (np.asarray(batch["segment_ids"][row]) == segment + 1) & (np.asarray(batch["cells"][row])[:, 0] >= 0)
        found.append(from_patches(np.asarray(pixels)[row][own], tuple(rows.grids[example]), PATCH))
    return found


def originals(rows: ImageRows) -> list[np.ndarray]:
    return [rows.image(example) for example in range(len(rows.images))]


@functools.partial(jax.jit, static_argnums=(2, 3))
def sampled_pixels(batch, numbers, border, channels):
    def one(pixels, ids, cells, grids):
        segments = len(ids)
        row = image_moves.ImageRow(pixels.reshape(-1, PATCH, PATCH, channels), ids, cells, grids, PATCH, segments)
        moved = image_moves.Affine(*(jnp.full(segments, number) for number in numbers))
        return image_moves.sample(row, moved, border).reshape(pixels.shape)

    return jax.vmap(one)(batch["pixels"], batch["segment_ids"], batch["cells"], batch["grids"])


def sampled(rows: ImageRows, moved: image_moves.Affine, border: str = "reflect") -> list[np.ndarray]:
    """Every image moved by one map, that of the first segment."""
    batch = batch_of(rows)
    numbers = jnp.stack([values[0] for values in moved])
    pixels = sampled_pixels(batch, numbers, border, rows.settings.channels)
    assert not np.asarray(pixels)[np.asarray(batch["cells"])[..., 0] < 0].any()
    return images_of(rows, batch, pixels)


ONE = jnp.ones(1)
PACKED = functools.partial(rows_of, (16, 16), (6, 10), (2, 2), (12, 4), (8, 8), packed=True, row_length=90)


def test_no_augmentation_is_the_input_bit_for_bit():
    rows = PACKED()
    batch = batch_of(rows)
    assert not Augmentation().changes_pixels
    found = augment(batch, Augmentation(), PATCH, 3, KEY)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.asarray(batch["pixels"]))


@pytest.mark.parametrize("border", augmenting.BORDERS)
def test_the_map_that_moves_nothing_is_exact(border):
    rows = PACKED()
    assert len(rows) < len(rows.images)
    for found, image in zip(sampled(rows, image_moves.identity(ONE), border), originals(rows), strict=True):
        np.testing.assert_array_equal(found, image)


def test_a_flip_is_numpys():
    rows = PACKED()
    moved = sampled(rows, image_moves.flipped(ONE > 0))
    for found, image in zip(moved, originals(rows), strict=True):
        np.testing.assert_array_equal(found, image[:, ::-1])


@pytest.mark.parametrize(("down", "right"), [(1, 0), (-2, 3), (3, -1), (40, 0)])
def test_shifts_are_numpys_for_both_borders(down, right):
    rows = PACKED()
    for border, mode in (("zero", "constant"), ("reflect", "reflect")):
        moved = sampled(rows, image_moves.moved_by(down * ONE, right * ONE), border)
        for found, image in zip(moved, originals(rows), strict=True):
            height, width = image.shape[:2]
            padded = np.pad(image, ((40, 40), (40, 40), (0, 0)), mode=mode)
            expected = padded[40 - down : 40 - down + height, 40 - right : 40 - right + width]
            np.testing.assert_array_equal(found, expected)


def test_any_affine_map_is_scipys():
    rows = PACKED()
    draw = np.random.default_rng(5)
    for _ in range(4):
        numbers = draw.normal(0, 1, 6) * [0.4, 0.4, 3, 0.4, 0.4, 3] + [1, 0, 0, 0, 1, 0]
        moved = sampled(rows, image_moves.Affine(*(ONE * each for each in numbers)))
        for found, image in zip(moved, originals(rows), strict=True):
            expected = np.stack([scipy_layer(image[..., channel], numbers) for channel in range(3)], axis=-1)
            np.testing.assert_allclose(found, expected, atol=2e-2)


def scipy_layer(layer, numbers) -> np.ndarray:
    a, b, c, d, e, f = numbers
    middle = (np.asarray(layer.shape) - 1) / 2
    y, x = np.indices(layer.shape) - middle[:, None, None]
    places = np.stack([a * y + b * x + c, d * y + e * x + f]) + middle[:, None, None]
    return scipy.ndimage.map_coordinates(layer, places, np.float64, order=1, mode="mirror")


def test_turning_is_pillows_inside_the_image():
    rows = rows_of((16, 16), channels=1)
    (found,) = sampled(rows, image_moves.rotated(25.0 * ONE))
    image = originals(rows)[0][..., 0]
    expected = np.asarray(Image.fromarray(image).rotate(25, Image.Resampling.BILINEAR))
    y, x = np.indices((16, 16)) - 7.5
    inside = np.hypot(y, x) < 7
    assert np.abs(found[..., 0] - expected)[inside].max() <= 1.5  # Pillow's numbers are whole, its weights of 16 bits
    assert np.abs(image.astype(float) - expected)[inside].mean() > 20  # it is turned


def test_a_crop_is_pillows_resizing_of_a_box():
    rows = rows_of((16, 12), channels=1)
    draws = [jnp.asarray([value]) for value in (0.4, 0.8, 0.3, 0.9)]
    moved = augmenting._crop(0.3, draws, jnp.asarray([16.0]), jnp.asarray([12.0]))
    area = 0.3 + 0.7 * 0.4
    tall, wide = float(moved.a[0]), float(moved.e[0])
    assert tall * wide == pytest.approx(area, rel=1e-5) and 3 / 4 < tall / wide < 4 / 3
    top, left = 0.3 * (1 - tall) * 16, 0.9 * (1 - wide) * 12
    (found,) = sampled(rows, moved)
    picture = Image.fromarray(originals(rows)[0][..., 0])
    box = (left, top, left + 12 * wide, top + 16 * tall)
    # Pillow's transform reads at the middle of pixels of the box, as bilinear enlargement does.
    expected = np.asarray(
        picture.transform((12, 16), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR), np.float64
    )
    assert np.abs(found[..., 0] - expected).max() <= 1.5


def test_crops_stay_in_the_image_and_have_the_area_asked_for():
    draws = list(jax.random.uniform(KEY, (4, 2000)))
    size = jnp.full(2000, 32.0)
    moved = augmenting._crop(0.2, draws, size, size)
    tall, wide = moved.a, moved.e
    assert float((tall * wide).min()) >= 0.2 - 1e-5 and float(jnp.maximum(tall, wide).max()) <= 1
    assert float((tall * wide).mean()) == pytest.approx(0.6, abs=0.02)
    ratio = tall / wide
    assert 0.74 < float(ratio.min()) < 0.78 and 1.30 < float(ratio.max()) < 1.34
    for part, middle in ((tall, moved.c), (wide, moved.f)):
        edges = jnp.abs(middle) + part * 16
        assert float(edges.max()) <= 16 + 1e-3 and float(jnp.abs(middle).max()) > 5


def test_maps_are_composed_in_their_order():
    """Shifted, then flipped: the shift to the right is one to the left in the result."""
    rows = rows_of((8, 8))
    both = image_moves.after(image_moves.moved_by(0 * ONE, 2 * ONE), image_moves.flipped(ONE > 0))
    (found,) = sampled(rows, both, "zero")
    image = originals(rows)[0]
    shifted = np.zeros_like(image)
    shifted[:, 2:] = image[:, :-2]
    np.testing.assert_array_equal(found, shifted[:, ::-1])


PILLOW = {
    "brightness": lambda picture, factor: ImageEnhance.Brightness(picture).enhance(factor),
    "contrast": lambda picture, factor: ImageEnhance.Contrast(picture).enhance(factor),
    "colour": lambda picture, factor: ImageEnhance.Color(picture).enhance(factor),
    "posterise": lambda picture, factor: ImageOps.posterize(picture, 6),
    "solarise": lambda picture, factor: ImageOps.solarize(picture, 128),
    "invert": lambda picture, factor: ImageOps.invert(picture),
    "auto_contrast": lambda picture, factor: ImageOps.autocontrast(picture),
    "identity": lambda picture, factor: picture,
    "rotate": lambda picture, factor: picture,
}


@jax.jit
def coloured_pixels(batch, operation, sign):
    def one(pixels, ids, cells, grids):
        row = image_moves.ImageRow(pixels.reshape(-1, 2, 2, 3), ids, cells, grids, 2, 2)
        both = jnp.ones(2, jnp.int32)
        changed = augmenting._coloured(row, row.pixels.astype(jnp.float32), operation * both, sign * both, 0.5)
        return changed.reshape(pixels.shape)

    return jax.vmap(one)(*(batch[field] for field in ("pixels", "segment_ids", "cells", "grids")))


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_colours_are_pillows(name, sign):
    """Of each image by itself, at half of the largest magnitude."""
    draw = np.random.default_rng(1)
    images = [
        StoredImage("a", array=draw.integers(*limits, (8, 8, 3)).astype(np.uint8)) for limits in ((40, 150), (9, 250))
    ]
    rows = build_image_rows(images, rule="squash", side=8, patch=2, channels=3, prefix=1, packed=True, row_length=40)
    batch = batch_of(rows)
    assert len(rows) == 1

    pixels = coloured_pixels(batch, augmenting.OPERATIONS.index(name), sign)
    for found, image in zip(images_of(rows, batch, pixels), originals(rows), strict=True):
        expected = np.asarray(PILLOW[name](Image.fromarray(image), 1 + 0.45 * sign), np.float64)
        # Pillow cuts the result to whole numbers (1), and what it blends with (brightness of pixels, its mean) was
        # rounded before, which counts 0.45 times.
        assert np.abs(found - expected).max() < 1 + 0.45 * (name in ("contrast", "colour")) + 1e-3


def drawn_like(augmentation: Augmentation, rows: ImageRows, key=KEY, batch=None) -> list[np.ndarray]:
    batch = batch or batch_of(rows)
    pixels = augmented(batch, augmentation, PATCH, rows.settings.channels, key)
    assert pixels.shape == batch["pixels"].shape and np.isfinite(np.asarray(pixels)).all()
    assert 0 <= float(pixels.min()) and float(pixels.max()) <= 255.001
    return images_of(rows, batch, pixels)


def test_half_of_the_images_are_flipped():
    rows = rows_of(*[(4, 4)] * 64)
    found = drawn_like(Augmentation(flip=True), rows)
    flipped = [np.array_equal(one, image[:, ::-1]) for one, image in zip(found, originals(rows), strict=True)]
    same = [np.array_equal(one, image) for one, image in zip(found, originals(rows), strict=True)]
    assert 20 <= sum(flipped) <= 44 and sum(flipped) + sum(same) == 64


def test_shifts_are_whole_pixels_up_to_the_limit():
    rows = rows_of(*[(8, 8)] * 64)
    found = drawn_like(Augmentation(pad_crop=2, border="zero"), rows)
    seen = set()
    for one, image in zip(found, originals(rows), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        fitting = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(one, padded[4 - down : 12 - down, 4 - right : 12 - right])
        ]
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert {down for down, _ in seen} == {right for _, right in seen} == set(range(-2, 3))


def test_erasing_fills_a_rectangle_in_a_share_of_the_images():
    rows = rows_of(*[(16, 16)] * 64)
    erased = 0
    for one, image in zip(drawn_like(Augmentation(erase=0.5), rows), originals(rows), strict=True):
        changed = (one != image).any(axis=-1)
        if changed.any():
            erased += 1
            y, x = np.nonzero(changed)
            box = changed[y.min() : y.max() + 1, x.min() : x.max() + 1]
            assert box.mean() > 0.9 and 0.005 < changed.mean() < 0.4  # noise may equal a pixel, never all of them
    assert 20 <= erased <= 44


def test_every_operation_of_rand_augment_occurs_and_changes_images():
    rows = rows_of(*[(8, 8)] * 64)
    for magnitude, changed in ((0.0, 30), (10.0, 50)):
        found = drawn_like(Augmentation(rand_augment=(1, magnitude)), rows)
        different = [not np.allclose(one, image, atol=1e-3) for one, image in zip(found, originals(rows), strict=True)]
        # Without magnitude inversion and automatic contrast are left.
        assert (sum(different) < changed) == (magnitude == 0), sum(different)


augmented = jax.jit(augment, static_argnums=(1, 2, 3))
mixed_of = jax.jit(mix, static_argnums=(2, 3, 4))


def changed(batch, key=KEY):
    return augmented(batch, EVERYTHING, PATCH, 3, key)


def test_draws_depend_on_key_row_and_segment_alone():
    packed = PACKED()
    batch = batch_of(packed)
    one = changed(batch)
    np.testing.assert_array_equal(one, changed(batch))
    assert (np.asarray(one) != np.asarray(changed(batch, jax.random.key(4)))).any()
    # Some rows of a batch, by their number in it.
    rows = rows_of(*[(8, 8)] * 6)
    whole = changed(batch_of(rows))
    part = {name: values[1::2] for name, values in batch_of(rows).items()}
    some = changed(part, RowsKey(KEY, jnp.uint32(1), jnp.uint32(2)))
    np.testing.assert_allclose(some, whole[1::2], atol=1e-4)
    # The same image in every row is another picture in each.
    first = {name: jnp.repeat(values[:1], 6, axis=0) for name, values in batch_of(rows).items()}
    pictures = np.asarray(changed(first))
    assert len({picture.tobytes() for picture in pictures}) == 6


def test_rows_of_one_image_need_one_segment():
    rows = rows_of(*[(8, 8)] * 4)
    batch = batch_of(rows)
    every = changed(batch)
    np.testing.assert_allclose(
        jax.jit(functools.partial(augment, segments=1), static_argnums=(1, 2, 3))(batch, EVERYTHING, PATCH, 3, KEY),
        every,
        atol=1e-4,
    )


def test_an_image_is_changed_alike_wherever_it_lies_in_its_row():
    """Erasing aside, whose noise is drawn for a row: two packed images, each as it is alone under its draws."""
    augmentation = Augmentation(crop=0.5, pad_crop=1, flip=True, rand_augment=(2, 9.0))
    together = PACKED()
    found = drawn_like(augmentation, together)
    first = [number for number, (_, segment) in enumerate(together.example_locations) if segment == 0]
    for number in first:
        row = int(together.example_locations[number, 0])
        alone = build_image_rows(
            [together.images[number]], rule="native", side=16, patch=PATCH, channels=3, prefix=1
        )  # fmt: skip
        key = RowsKey(KEY, jnp.uint32(row), jnp.uint32(1))
        (one,) = drawn_like(augmentation, alone, key)
        np.testing.assert_allclose(one, found[number], atol=1e-3)


def test_mixup_mixes_both_rows_of_a_pair():
    rows = rows_of(*[(8, 8)] * 32)
    batch = batch_of(rows)
    pixels = batch["pixels"].astype(jnp.float32)
    mixed = mixed_of(batch, pixels, Augmentation(mixup=0.8), PATCH, 3, KEY)
    weight = np.asarray(mixed.partner_weight_B)
    np.testing.assert_array_equal(weight[::2], weight[1::2])
    assert len(set(weight.tolist())) == 16 and 0.3 < weight.mean() < 0.7 and weight.min() >= 0 and weight.max() <= 1
    partner = np.asarray(pixels).reshape(16, 2, *pixels.shape[1:])[:, ::-1].reshape(pixels.shape)
    share = weight[:, None, None]
    np.testing.assert_allclose(mixed.pixels, np.asarray(pixels) * (1 - share) + partner * share, atol=1e-3)


def test_cutmix_takes_a_rectangle_and_says_its_share():
    rows = rows_of(*[(16, 16)] * 64)
    batch = batch_of(rows)
    pixels = batch["pixels"].astype(jnp.float32)
    mixed = mixed_of(batch, pixels, Augmentation(cutmix=1.0), PATCH, 3, KEY)
    before, after = images_of(rows, batch, pixels), images_of(rows, batch, mixed.pixels)
    weights = np.asarray(mixed.partner_weight_B)
    for row, weight in enumerate(weights):
        own = (after[row] == before[row]).all(axis=-1)
        other = (after[row] == before[row ^ 1]).all(axis=-1)
        assert (own | other).all() and abs((~own).mean() - weight) < 1e-6
        if weight:
            y, x = np.nonzero(~own)
            assert (~own)[y.min() : y.max() + 1, x.min() : x.max() + 1].all()
    assert (weights > 0).mean() > 0.8 and weights.max() < 1.0 and weights.std() > 0.1


def test_with_both_a_pair_has_one_of_them_and_unlike_pairs_stay():
    rows = rows_of(*[(16, 16)] * 40, (8, 16), (16, 8))
    batch = batch_of(rows)
    pixels = batch["pixels"].astype(jnp.float32)
    mixed = mixed_of(batch, pixels, Augmentation(mixup=1.0, cutmix=1.0), PATCH, 3, KEY)
    equal = np.asarray(mixed.pixels[:40:2, 1:] == pixels[:40:2, 1:]).mean(axis=(1, 2))
    cut = equal > 0.05  # pixels of noise are equal by chance in one of 256
    assert 4 <= sum(cut) <= 16
    np.testing.assert_array_equal(mixed.pixels[40:], pixels[40:])
    assert not np.asarray(mixed.partner_weight_B[40:]).any() and np.asarray(mixed.partner_weight_B[:40]).any()
    unmixed = mix(batch, pixels, Augmentation(), PATCH, 3, KEY)
    assert unmixed.pixels is pixels and not np.asarray(unmixed.partner_weight_B).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 1.5}, r"task\.augmentation\.crop=1\.5: must be between 0\.0 and 1\.0"),
        ({"pad_crop": -1}, "pad_crop=-1: must be at least 0"),
        ({"rand_augment": (1, 11.0)}, r"rand_augment\[1\]=11\.0: must be between"),
        ({"border": "reflekt"}, "border='reflekt': Did you mean 'reflect'"),
        ({"mixup": 0.2, "one_size": False}, r"mixup=0\.2: mixes the images of two rows .* Pack no images"),
        ({"cutmix": 1.0, "batch_size": 7}, r"cutmix=1\.0: mixes images in pairs, but a batch has 7 rows"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    one_size, batch_size = options.pop("one_size", True), options.pop("batch_size", 8)
    check_augmentation(EVERYTHING, one_size=False, batch_size=7)
    with pytest.raises(UserError, match=message):
        check_augmentation(Augmentation(**options), one_size=one_size, batch_size=batch_size)
