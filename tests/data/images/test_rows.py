"""Rows of patches: layout, packing, broken images, memory, fingerprints and statistics."""

import dataclasses

import numpy as np
import pytest

from jaxfm.core.batch import Field
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.data.images import decoding
from jaxfm.data.images import rows as image_rows
from jaxfm.data.images.rows import (
    ImageRows,
    build_image_rows,
    channel_statistics,
    from_patches,
    to_patches,
)
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.data.pipeline import TrainBatches, eval_batches
from jaxfm.errors import UserError
from jaxfm.models.inputs.patches import fields
from tests.data.images.image_files import image_bytes

DRAW = np.random.default_rng(0)


def stored(*sizes, channels=3):
    return [
        StoredImage(f"image {number}", array=DRAW.integers(0, 256, (*size, channels)).astype(np.uint8))
        for number, size in enumerate(sizes)
    ]


def build(images, **options) -> ImageRows:
    settings = {"rule": "squash", "side": 8, "patch": 2, "channels": 3, "prefix": 1, **options}
    return build_image_rows(images, **settings)


def test_patches_and_back():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    patches = to_patches(image, 2)
    assert patches.shape == (6, 12)
    for row in range(2):
        for column in range(3):
            expected = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(patches[3 * row + column].reshape(2, 2, 3), expected)
    np.testing.assert_array_equal(from_patches(patches, (2, 3), 2), image)


def test_one_image_a_row():
    images = stored((8, 8), (8, 8))
    rows = build(images, prefix=2, row_length=20)
    batch = rows.take(np.asarray([1, 0]))
    assert {name: (value.shape[1:], value.dtype) for name, value in batch.items()} == {
        name: (field.shape, field.dtype) for name, field in fields(20, PatchConfig(2, 3)).items()
    }
    np.testing.assert_array_equal(batch["segment_ids"], [[1] * 18 + [0] * 2] * 2)
    np.testing.assert_array_equal(batch["positions"], [[*range(18), 0, 0]] * 2)
    cells = [(-1, 0), (-1, 1), *((row, column) for row in range(4) for column in range(4)), (-1, -1), (-1, -1)]
    np.testing.assert_array_equal(batch["cells"], [cells] * 2)
    np.testing.assert_array_equal(batch["grids"], [[[4, 4]] * 18 + [[0, 0]] * 2] * 2)
    assert not batch["pixels"][:, :2].any() and not batch["pixels"][:, 18:].any()
    for at, image in enumerate((images[1], images[0])):
        np.testing.assert_array_equal(from_patches(batch["pixels"][at, 2:18], (4, 4), 2), image.array)
    np.testing.assert_array_equal(rows.image(0), images[0].array)
    assert rows.volume.per_row == 20 and rows.volume.useful_per_row == 18 and rows.volume.longest == 18


def test_several_images_of_any_size_a_row():
    sizes = [(8, 8), (2, 4), (6, 2), (4, 4), (8, 6)]
    images = stored(*sizes)
    rows = build(images, rule="native", packed=True, row_length=17, max_segments=3)
    assert len(rows) < len(images) and rows.volume.examples_per_row == len(images) / len(rows)
    batch = rows.take(np.arange(len(rows)))
    for example, (row, segment) in enumerate(rows.example_locations.tolist()):
        own = batch["segment_ids"][row] == segment + 1
        np.testing.assert_array_equal(batch["positions"][row][own], np.arange(own.sum()))
        grid = tuple(side // 2 for side in sizes[example])
        assert (batch["grids"][row][own] == grid).all() and own.sum() == 1 + grid[0] * grid[1]
        np.testing.assert_array_equal(from_patches(batch["pixels"][row][own][1:], grid, 2), images[example].array)
    assert int((batch["segment_ids"] > 0).sum()) == int(rows.lengths.sum())
    assert batch["segment_ids"].max() <= 3


def test_training_rows_are_shuffled_by_their_seed_alone():
    images = stored(*[(4, 4)] * 12)
    options = {"rule": "native", "packed": True, "row_length": 17}
    one, again, other = (build(images, seed=seed, **options).example_locations for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_more_arrays_of_rows():
    rows = build(stored((8, 8), (8, 8), (8, 8))).with_fields(
        {"labels": np.asarray([4, 5, 6])}, {"labels": Field((), fill=-1)}
    )
    np.testing.assert_array_equal(rows.take(np.asarray([2, 0]))["labels"], [6, 4])
    *_, last = eval_batches(rows, 2)
    np.testing.assert_array_equal(last["labels"], [6, -1])
    assert (last["cells"][1] == -1).all() and not last["grids"][1].any() and not last["segment_ids"][1].any()


def test_rows_that_do_not_fit_in_memory_are_the_same(tmp_path, monkeypatch):
    paths = []
    for number in range(4):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(image_bytes(number))
    images = [StoredImage(path.name, path=path) for path in paths]
    kept, lazy = build(images), build(images, memory_bytes=500)
    assert kept.decoded is not None and not kept.notes
    assert lazy.decoded is None and "decoded anew in every epoch" in lazy.notes[0]
    decoded = []
    monkeypatch.setattr(image_rows, "decode", lambda *arguments: decoded.append(1) or decoding.decode(*arguments))
    streams = [TrainBatches(rows, batch_size=3, seed=0).iterate(0, 4) for rows in (kept, lazy)]
    for one, two in zip(*streams, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    assert len(decoded) == 12 and kept.fingerprint() == lazy.fingerprint()
    paths[0].write_bytes(image_bytes(0, size=(8, 16)))
    assert lazy.patches(0).shape == (16, 12)  # squashed all the same
    native = build(images[1:], rule="native", memory_bytes=0)
    paths[1].write_bytes(image_bytes(1, size=(4, 4)))
    with pytest.raises(BadImageError, match=r"1\.png: has another size than when the run began"):
        native.take(np.arange(3))


def test_the_fingerprint_is_of_content_and_settings():
    images = stored((8, 8), (8, 8))
    first = build(images)
    again = build([dataclasses.replace(image, origin="elsewhere") for image in images])
    assert first.fingerprint() == again.fingerprint()
    changed = images[1].array.copy()
    changed[0, 0, 0] ^= 1
    others = [
        build([images[0], StoredImage("x", array=changed)]),
        build(images[::-1]),
        build(images[:1]),
        build(images, prefix=0),
        build(images, rule="crop"),
        build(images, side=16),
        build(images, channels=1),
        build(images, row_length=30),
        first.with_fields({"labels": np.asarray([0, 1])}, {"labels": Field(())}),
        first.with_fields({"labels": np.asarray([0, 2])}, {"labels": Field(())}),
    ]
    found = {rows.fingerprint() for rows in [first, *others]}
    assert len(found) == len(others) + 1


def test_broken_images_stop_or_are_left_out():
    good = [StoredImage(f"{number}.png", data=image_bytes(number)) for number in range(3)]
    bad = [StoredImage("bad.jpg", data=b"text"), StoredImage("cut.png", data=image_bytes(9)[:60])]
    mixed = [good[0], bad[0], good[1], bad[1], good[2]]
    with pytest.raises(
        BadImageError,
        match=r"^bad\.jpg: is not an image .* And 1 more of 5 images .*\. Repair .* set task\.broken_images=skip",
    ):
        build(mixed)
    with pytest.raises(BadImageError, match=r"^cut\.png: the image is damaged.*\. Repair"):
        build([good[0], bad[1]])
    rows = build(mixed, broken="skip")
    np.testing.assert_array_equal(rows.kept, [0, 2, 4])
    assert [image.origin for image in rows.images] == ["0.png", "1.png", "2.png"] and len(rows) == 3
    assert rows.notes[0].startswith("2 of 5 images are broken and left out: bad.jpg: is not an image")
    assert "cut.png: " in rows.notes[0]
    assert rows.fingerprint() == build(good).fingerprint()
    with pytest.raises(UserError, match=r"None of the 2 images can be decoded\. The first: bad\.jpg"):
        build(bad, broken="skip")


def test_rows_too_short_and_patches_too_large():
    with pytest.raises(UserError, match=r"^data\.row_length=16: an image needs 17 tokens \(1 \+ 16 patches of 2 x 2"):
        build(stored((8, 8)), row_length=16)
    with pytest.raises(UserError, match=r"task\.patch_size=4: .* largest patch size that would do is 2"):
        build(stored((8, 8)), patch=4)


def test_one_pixel_images_of_every_rule():
    for rule in decoding.RULES:
        rows = build(stored((1, 1)), rule=rule)
        image = rows.image(0)
        assert (image == rows.images[0].array).all()
        assert image.shape == ((2, 2, 3) if rule == "native" else (8, 8, 3))


@pytest.mark.parametrize("packed", [False, True])
def test_channel_statistics_are_those_of_all_pixels(packed):
    images = stored((8, 8), (4, 6), (2, 2))
    rows = build(images, rule="native", packed=packed)
    pixels = np.concatenate([image.array.reshape(-1, 3) for image in images]) / 255
    mean, deviation = channel_statistics(rows)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation, pixels.std(axis=0), rtol=1e-12)
    assert channel_statistics(build([StoredImage("a", array=np.full((4, 4), 51, np.uint8))]))[1] == (0, 0, 0)
