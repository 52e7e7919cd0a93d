"""Stored images to pixels by Pillow: every kind of file to uint8 in one number of channels, then to a size."""

# H height, W width, C channels

import functools
import io
import math
from typing import Any, NamedTuple

import numpy as np

from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.errors import UserError

MOST_PIXELS = 89_478_485
"""Of one image: a quarter of a gibibyte in RGB. A small file can claim any size (a decompression bomb)."""
LEAST_TOKENS = 16
"""Patches of an image below which a model sees next to nothing of it."""
RULES = ("squash", "crop", "native")

# Those that Pillow reads by itself. Its other readers start programs (EPS) or are for rare or partial data.
_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_WHITE = 255
# Weights of red, green and blue in brightness (ITU-R 601-2), of 2**16; Pillow's own, rounded alike.
_LUMA, _LUMA_HALF, _LUMA_BITS = (19595, 38470, 7471), 0x8000, 16


class Fitted(NamedTuple):
    """How an image becomes one of a size that is whole patches.

    Attributes:
        height: rows of pixels that it is resized to.
        width: columns of pixels that it is resized to.
        top: rows that are cut off above.
        left: columns that are cut off on the left.
        cut_height: rows that are left.
        cut_width: columns that are left.
    """

    height: int
    width: int
    top: int
    left: int
    cut_height: int
    cut_width: int


def check_patch(side: int, patch: int) -> None:
    """Raises UserError for a patch that does not divide the image, or that leaves fewer than LEAST_TOKENS tokens."""
    least = math.isqrt(LEAST_TOKENS)
    if side < least:
        raise UserError(
            f"task.image_size={side}: gives fewer than {LEAST_TOKENS} patches even with task.patch_size=1; it must be "
            f"at least {least}."
        )
    fitting = [size for size in range(1, side // least + 1) if side % size == 0]
    if patch < 1 or side % patch:
        near = min(fitting, key=lambda size: abs(size - patch))
        other = max(round(side / max(patch, 1)), least) * max(patch, 1)
        raise UserError(
            f"task.patch_size={patch}: does not divide task.image_size={side}. The nearest patch size that does, with "
            f"at least {LEAST_TOKENS} patches, is {near}; or set task.image_size={other}."
        )
    if patch not in fitting:
        raise UserError(
            f"task.patch_size={patch}: cuts an image of task.image_size={side} into {(side // patch) ** 2} patches, "
            f"and fewer than {LEAST_TOKENS} say next to nothing of it. The largest patch size that would do is "
            f"{fitting[-1]}; or set task.image_size={least * patch}, or more."
        )


def fit_size(
    height: int, width: int, *, rule: str, side: int, patch: int, most_patches: int, shorter_side: int = 0
) -> Fitted:
    """Returns how an image of `height` x `width` pixels is resized and cut.

    Args:
      height: of the image.
      width: of the image.
      rule: "squash": to side x side, whatever its shape; "crop": its shorter side to `shorter_side`, then the square in
        the middle; "native": its shape is kept, in whole patches, at most `most_patches`, and it is never enlarged by
        more than it takes to fill its last patches.
      side: of the square, in pixels.
      patch: side of a patch in pixels.
      most_patches: of "native" (NaViT, Dehghani et al. 2023).
      shorter_side: of "crop", at least `side`; 0: `side`.
    """
    if rule == "squash":
        return Fitted(side, side, 0, 0, side, side)
    if rule == "crop":
        shorter = max(shorter_side, side)
        scale = shorter / min(height, width)
        tall, wide = max(round(height * scale), shorter), max(round(width * scale), shorter)
        return Fitted(tall, wide, (tall - side) // 2, (wide - side) // 2, side, side)
    assert rule == "native", rule
    scale = min(1.0, math.sqrt(most_patches / (height * width)) * patch)
    rows = min(max(round(height * scale / patch), 1), most_patches)
    columns = min(max(round(width * scale / patch), 1), most_patches)
    while rows * columns > most_patches:
        rows, columns = (rows - 1, columns) if rows >= columns else (rows, columns - 1)
    return Fitted(rows * patch, columns * patch, 0, 0, rows * patch, columns * patch)


def decode(image: StoredImage, channels: int, content: bytes | None = None) -> np.ndarray:
    """Returns the pixels of an image, uint8 [H, W, C], as a person sees it.

    It is turned as its EXIF data says. What is transparent shows white. 16 bits are scaled to 8, grey becomes three
    equal channels, colour becomes brightness (ITU-R 601-2) where one channel is asked for, and of an animation the
    first picture is taken.

    Args:
      image: where it is kept.
      channels: C, 1 or 3.
      content: its bytes, where they were read already.

    Raises:
      BadImageError: not an image, a damaged or truncated one, one of more than MOST_PIXELS, numbers without a range.
    """
    assert channels in (1, 3)
    if image.array is not None:
        return _in_channels(_as_bytes(image.array, image.origin), channels)
    return _in_channels(_decoded(image.content() if content is None else content, image.origin), channels)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns pixels uint8 [height, width, C] of uint8 [H, W, C]: bicubic, averaged where it shrinks (Pillow)."""
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)


def fit(image: np.ndarray, fitted: Fitted) -> np.ndarray:
    """Returns pixels uint8 [cut_height, cut_width, C] of uint8 [H, W, C]."""
    resized = resize(image, fitted.height, fitted.width)
    return resized[fitted.top :, fitted.left :][: fitted.cut_height, : fitted.cut_width]


def pixels_of(picture: Any, origin: str) -> np.ndarray:
    """Returns an open `PIL.Image` as an array that `StoredImage.array` may be. Raises BadImageError as `decode`."""
    from PIL import Image, ImageOps

    _check_size(picture.width, picture.height, origin)
    kind = picture.format  # a picture that was turned has none
    try:
        picture = ImageOps.exif_transpose(picture)
        if "transparency" in picture.info or picture.mode in ("PA", "La", "RGBa"):
            return np.asarray(picture.convert("RGBA"))
        if picture.mode in ("L", "LA", "RGB", "RGBA"):
            return np.asarray(picture)
        if picture.mode == "1":
            return np.asarray(picture.convert("L"))
        if picture.mode.startswith("I;16"):
            return np.asarray(picture).astype(np.uint16)
        if picture.mode == "I" and kind in ("PNG", "PPM"):  # 16 bits in these formats
            return np.asarray(picture).astype(np.uint16)
        if picture.mode not in ("I", "F"):
            return np.asarray(picture.convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(origin) from None
    except Exception as error:  # Pillow's readers raise nearly anything where data are damaged
        raise BadImageError(f"{origin}: the image is damaged or truncated: {_said(error)}.") from None
    raise BadImageError(
        f"{origin}: its pixels are numbers of 32 bits, which have no fixed range; save it with 8 or 16 bits."
    )


def _decoded(content: bytes, origin: str) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise BadImageError(f"{origin}: the file is empty.")
    try:
        picture = Image.open(io.BytesIO(content), formats=readable_formats())
    except UnidentifiedImageError:
        if content.startswith(_MAGIC):
            raise BadImageError(f"{origin}: the image is damaged or truncated: it ends in its header.") from None
        raise BadImageError(
            f"{origin}: is not an image ({_looks_like(content)}); read are {', '.join(readable_formats())}."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(origin) from None
    except Exception as error:
        raise BadImageError(f"{origin}: the image is damaged or truncated: {_said(error)}.") from None
    with picture:
        return _as_bytes(pixels_of(picture, origin), origin)


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of _FORMATS that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _check_size(width: int, height: int, origin: str) -> None:
    if width * height > MOST_PIXELS:
        raise _too_large(origin)


def _too_large(origin: str) -> BadImageError:
    return BadImageError(f"{origin}: has more than {MOST_PIXELS:,} pixels (or says so, as a decompression bomb does).")


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _looks_like(content: bytes) -> str:
    head = content[:512]
    if head.lstrip()[:5].lower() in (b"<?xml", b"<svg ") or b"<svg" in head:
        return "it looks like SVG"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        return "it looks like a web page"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file: git lfs pull"
    if head.startswith((b"%!PS", b"%PDF")):
        return "it looks like PostScript or PDF"
    try:
        head[:-4].decode("utf-8")
        return "it looks like text"
    except UnicodeDecodeError:
        return f"its first bytes are {head[:8].hex(' ')}"


def _as_bytes(array: np.ndarray, origin: str) -> np.ndarray:
    """Returns uint8 [H, W, 1..4] of an array of pixels. Raises BadImageError for any other array."""
    shaped = array[:, :, None] if array.ndim == 2 else array
    if shaped.ndim != 3 or not 1 <= shaped.shape[2] <= 4 or not shaped.size:
        raise BadImageError(
            f"{origin}: an array of shape {list(array.shape)}; an image is [height, width] or [height, width, "
            "channels] with 1 to 4 channels, and at least one pixel."
        )
    _check_size(shaped.shape[1], shaped.shape[0], origin)
    if shaped.dtype == np.uint8:
        return shaped
    if shaped.dtype == np.bool_:
        return shaped.astype(np.uint8) * np.uint8(255)
    if shaped.dtype == np.uint16:
        return ((shaped.astype(np.uint32) + 128) // 257).astype(np.uint8)
    raise BadImageError(
        f"{origin}: an array of {shaped.dtype}; pixels are uint8 (0 to 255), uint16 or bool. For shares of 1 give "
        "(255 * x).round().astype('uint8')."
    )


def _in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Returns uint8 [H, W, channels] of uint8 [H, W, 1..4]."""
    if pixels.shape[2] in (2, 4):
        colours, opacity = pixels[:, :, :-1].astype(np.int32), pixels[:, :, -1:].astype(np.int32)
        pixels = ((colours * opacity + _WHITE * (255 - opacity) + 127) // 255).astype(np.uint8)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return ((pixels.astype(np.int32) @ np.asarray(_LUMA) + _LUMA_HALF) >> _LUMA_BITS).astype(np.uint8)[:, :, None]
