"""Every kind of image file gives the right pixels or one message; sizes and cuts are as their rule says."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxfm.data.images import decoding
from jaxfm.data.images.decoding import check_patch, decode, fit, fit_size, pixels_of, resize
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.errors import UserError

DRAW = np.random.default_rng(0)
COLOUR = DRAW.integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = DRAW.integers(0, 256, (6, 9)).astype(np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options) -> StoredImage:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return StoredImage("a.png", data=file.getvalue())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_colour_of_every_lossless_format(kind):
    image = saved(Image.fromarray(COLOUR), kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(decode(image, 3), COLOUR)
    np.testing.assert_array_equal(decode(image, 1)[..., 0], np.asarray(Image.fromarray(COLOUR).convert("L")))


def test_jpeg_is_what_pillow_reads():
    image = saved(Image.fromarray(COLOUR), "JPEG")
    assert image.data is not None
    np.testing.assert_array_equal(decode(image, 3), np.asarray(Image.open(io.BytesIO(image.data))))


def test_grey_becomes_three_equal_channels():
    image = saved(Image.fromarray(GREY))
    np.testing.assert_array_equal(decode(image, 1)[..., 0], GREY)
    np.testing.assert_array_equal(decode(image, 3), np.stack([GREY] * 3, axis=-1))


def test_bits_become_black_and_white():
    image = saved(Image.fromarray(GREY > 100))
    np.testing.assert_array_equal(decode(image, 1)[..., 0], (GREY > 100) * 255)


def test_sixteen_bits_are_scaled_to_eight():
    deep = np.asarray([[0, 128, 129, 257], [32768, 65535, 65407, 65406]], np.uint16)
    image = saved(Image.fromarray(deep))
    expected = np.round(deep.astype(np.float64) / 257).astype(np.uint8)
    np.testing.assert_array_equal(decode(image, 1)[..., 0], expected)
    np.testing.assert_array_equal(decode(StoredImage("a", array=deep), 1)[..., 0], expected)
    header = b"P5 4 2 65535\n" + deep.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(StoredImage("a.pgm", data=header), 1)[..., 0], expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(mode):
    bands = 4 if mode == "RGBA" else 2
    pixels = DRAW.integers(0, 256, (5, 4, bands)).astype(np.uint8)
    image = saved(Image.fromarray(pixels))
    alpha = pixels[..., -1:] / 255
    expected = pixels[..., :-1] * alpha + 255 * (1 - alpha)
    found = decode(image, 3)
    assert np.abs(found - np.broadcast_to(expected, found.shape)).max() <= 0.51
    np.testing.assert_array_equal(found, decode(StoredImage("a", array=pixels), 3))
    over = Image.alpha_composite(Image.new("RGBA", (4, 5), "white"), Image.fromarray(pixels).convert("RGBA"))
    assert np.abs(found.astype(int) - np.asarray(over)[..., :3]).max() <= 1


def test_a_palette_with_and_without_a_transparent_colour():
    picture = Image.fromarray(np.asarray([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    plain = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(decode(saved(picture), 3), plain)
    plain[0][1] = plain[1][1] = [255, 255, 255]
    np.testing.assert_array_equal(decode(saved(picture, transparency=1), 3), plain)
    np.testing.assert_array_equal(decode(saved(picture, transparency=b"\xff\x00\xff"), 3), plain)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image(orientation):
    """Each orientation by its meaning: which side of the stored picture row 0 and column 0 are."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.swapaxes(0, 1),
        6: np.rot90(COLOUR, -1),
        7: COLOUR[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(COLOUR, 1),
    }[orientation]
    np.testing.assert_array_equal(decode(saved(Image.fromarray(COLOUR), exif=exif), 3), shown)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_picture(kind):
    first, then = (Image.new("RGB", (5, 4), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    image = saved(first, kind, save_all=True, append_images=[then], **options)
    assert image.data is not None and getattr(Image.open(io.BytesIO(image.data)), "n_frames", 1) == 2
    np.testing.assert_array_equal(decode(image, 3), np.asarray(first))


def test_cmyk_becomes_rgb():
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = decode(saved(picture, "JPEG", quality=95), 3)
    assert found[..., 0].min() > 245 and found[..., 1:].max() < 12


def test_one_pixel():
    image = saved(Image.new("RGB", (1, 1), (1, 2, 3)))
    pixels = decode(image, 3)
    assert pixels.tolist() == [[[1, 2, 3]]]
    assert resize(pixels, 8, 8).shape == (8, 8, 3) and (resize(pixels, 8, 8) == [1, 2, 3]).all()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    chunk = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\1IDAT0"
    )


def cut(kind: str, share: float) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    data = saved(Image.fromarray(noise), kind).data
    assert data is not None
    return data[: int(len(data) * share)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (cut("JPEG", 0.5), "damaged or truncated: image file is truncated"),
        (cut("PNG", 0.5), "damaged or truncated"),
        (cut("WEBP", 0.5), "damaged or truncated"),
        (cut("BMP", 0.5), "damaged or truncated"),
        (cut("TIFF", 0.5), "(damaged or truncated|is not an image)"),
        (cut("GIF", 0.5), "damaged or truncated"),
        (b"just some text, not an image at all", r"is not an image \(it looks like text\); read are PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "looks like SVG"),
        (b"<!DOCTYPE html><html>404</html>", "looks like a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"\xff\x00\xfe\x01\x02\x03\x04\x05\x06\x07", "its first bytes are ff 00 fe 01"),
        (b"", "the file is empty"),
        (png_of(5, 5)[:33], "damaged or truncated: it ends in its header"),
        (png_of(20_000, 5_000), "more than 89,478,485 pixels"),
        (png_of(60_000, 60_000), "more than 89,478,485 pixels"),
    ],
)
def test_what_is_not_an_image_or_damaged(data, message):
    with pytest.raises(BadImageError, match=rf"^dir/a\.jpg: .*{message}"):
        decode(StoredImage("dir/a.jpg", data=data), 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.float32), r"an array of float32; pixels are uint8"),
        (np.zeros((2, 2, 5), np.uint8), r"shape \[2, 2, 5\]"),
        (np.zeros(4, np.uint8), r"shape \[4\]"),
        (np.zeros((0, 3, 3), np.uint8), "at least one pixel"),
    ],
)
def test_arrays_that_are_not_images(array, message):
    with pytest.raises(BadImageError, match=message):
        decode(StoredImage("train row 3", array=array), 3)


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(BadImageError, match=r"x\.png: cannot be read: No such file"):
        decode(StoredImage("x.png", path=tmp_path / "x.png"), 3)


def test_a_part_of_a_file(tmp_path):
    data = saved(Image.fromarray(COLOUR)).data
    assert data is not None
    (tmp_path / "shard").write_bytes(b"before" + data + b"after")
    image = StoredImage("a", path=tmp_path / "shard", offset=6, size=len(data))
    np.testing.assert_array_equal(decode(image, 3), COLOUR)


def test_numbers_of_32_bits_are_refused():
    with pytest.raises(BadImageError, match="32 bits, which have no fixed range"):
        decode(saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), 1)


def test_pictures_in_memory():
    np.testing.assert_array_equal(pixels_of(Image.fromarray(COLOUR), "row"), COLOUR)
    assert pixels_of(Image.new("CMYK", (2, 2)), "row").tolist() == [[[255] * 3] * 2] * 2


def test_resizing_is_pillow_s_bicubic_and_the_mean_of_a_flat_image_stays():
    expected = np.asarray(Image.fromarray(COLOUR).resize((4, 3), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(COLOUR, 3, 4), expected)
    assert (resize(np.full((7, 5, 1), 93, np.uint8), 20, 3) == 93).all()
    assert resize(COLOUR, 6, 9) is COLOUR


def test_squash_and_crop():
    assert fit_size(10, 40, rule="squash", side=8, patch=2, most_patches=16)[:2] == (8, 8)
    fitted = fit_size(10, 40, rule="crop", side=8, patch=2, most_patches=16)
    assert fitted == (8, 32, 0, 12, 8, 8)
    image = np.arange(8 * 32, dtype=np.uint8).reshape(8, 32, 1)
    np.testing.assert_array_equal(fit(image, fitted), image[:, 12:20])
    assert fit_size(1, 1000, rule="crop", side=8, patch=2, most_patches=16) == (8, 8000, 0, 3996, 8, 8)


@pytest.mark.parametrize("height", [1, 3, 16, 17, 100, 4000])
@pytest.mark.parametrize("width", [1, 7, 16, 90, 5000])
def test_native_sizes_are_whole_patches_of_the_same_shape(height, width):
    fitted = fit_size(height, width, rule="native", side=64, patch=8, most_patches=64)
    rows, columns = fitted.cut_height // 8, fitted.cut_width // 8
    assert (fitted.height, fitted.width) == (rows * 8, columns * 8)
    assert 1 <= rows * columns <= 64
    assert fitted.height <= max(8, height + 4) and fitted.width <= max(8, width + 4)  # never enlarged by a patch
    if 4 <= height / width * 8 <= 16 and height * width > 64 * 64:
        assert rows * columns > 40  # the budget is used
        assert abs(np.log(rows / columns) - np.log(height / width)) < 0.3


def test_patches_that_leave_too_little():
    check_patch(8, 2)
    check_patch(32, 8)
    with pytest.raises(UserError, match=r"^task\.patch_size=16: .*task\.image_size=32 into 4 patches.* would do is 8;"):
        check_patch(32, 16)
    with pytest.raises(UserError, match=r"task\.patch_size=5: does not divide task\.image_size=32.* is 4; .*=30\."):
        check_patch(32, 5)
    with pytest.raises(UserError, match=r"task\.image_size=3: gives fewer than 16"):
        check_patch(3, 1)
    with pytest.raises(UserError, match=r"task\.patch_size=7: .* is 1; or set task\.image_size=28"):
        check_patch(29, 7)


def test_the_formats_that_are_read_start_no_program():
    assert {"PNG", "JPEG", "GIF", "WEBP"} <= set(decoding.readable_formats())
    assert "EPS" not in decoding.readable_formats()
