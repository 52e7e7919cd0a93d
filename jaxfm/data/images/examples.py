"""Images of a source with their labels or texts: one URI, one shape of example, whatever the source is."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.data.images import decoding, shards
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.data.images.suffixes import SUFFIXES
from jaxfm.data.media import folders
from jaxfm.data.media.examples import MediaColumns, read_media, stored_media
from jaxfm.data.media.medium import Medium
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys
from jaxfm.data.records.table import Tables

__all__ = ["BadImageError", "ImageColumns", "ImageExample", "ImageSplit", "StoredImage", "read_images"]

SURE_COLUMNS = ("image", "img")
IMAGE_COLUMNS = tuple(
    "picture image_path img_path path file_path filepath file_name filename file png jpg jpeg webp bytes".split()
)


@dataclasses.dataclass(frozen=True, slots=True)
class ImageExample:
    """One image.

    Attributes:
        image: where it is kept; it is not decoded yet.
        labels: its class ("single"), its classes ("multi", in the order of the source), () where none are read.
        text: its caption; "" where none is read.
        origin: where it was read: "photos/train/cat/1.png", "dir/train.csv:12" or "tfds:cifar10/train[17]".
    """

    image: StoredImage
    labels: tuple[str, ...]
    text: str
    origin: str


@dataclasses.dataclass(frozen=True)
class ImageSplit:
    """One split.

    Attributes:
        examples: in the order of the source.
        note: one line for the log.
        classes: those that the source declares, in its order, where an example has a 0 or 1 for each of them; otherwise
            empty: the classes are those that occur.
    """

    examples: tuple[ImageExample, ...]
    note: str
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ImageColumns:
    """Which columns hold what (`data.{image,label,text}_column`); empty finds the usual ones.

    Attributes:
        image: paths (relative to the folder of the table), bytes of image files, or {"bytes", "path"}.
        label: the class or classes. With "multi" it may be several columns, A,B,C, each 0 or 1.
        text: the caption.
    """

    image: str = ""
    label: str = ""
    text: str = ""


def read_images(
    source: str,
    splits: Sequence[str] | None,
    *,
    columns: ImageColumns | None = None,
    holdout: float | None = 0.0,
    labels: str = "none",
    texts: bool = False,
    by: SplitKeys = NO_KEYS,
) -> dict[str, ImageSplit]:
    """Reads the splits asked for (train, valid, test, or another usual name of them) of a source; decodes nothing.

    Sources: quickstart (scikit-learn's digits), `images:DIR`, `webdataset:DIR`, and all of
    `jaxfm/data/records/formats/`: tables with a column of paths or of bytes. In a file every record must have all that
    is asked for; in a published set (tfds:, hf:), which the user cannot repair, those without are left out and counted.
    A split without labels counts as absent where labels are asked for.

    Args:
      source: the URI.
      splits: what to read; None: all that the source has.
      columns: which columns to read; None: the usual ones.
      holdout: this share of train becomes valid where the source has no valid, None: a share by size (`holdout_share`).
        A hash of the image's file chooses, so equal images are on one side.
      labels: "none", "single" (each image has a class) or "multi" (any number of classes).
      texts: whether each image has a text.
      by: columns of groups and times, by which splits are kept apart and what is held out is chosen; see
        `divide_by_keys`.

    Raises:
      UserError: unknown source, split or column, an empty split, a damaged record, a path that is absent or leads out
        of its folder, a missing image, label or text, training classes that are all the same.
    """
    named = columns or ImageColumns()
    read = read_media(
        IMAGES,
        source,
        splits,
        columns=MediaColumns(named.image, named.label, named.text),
        holdout=holdout,
        labels=labels,
        texts=texts,
        by=by,
    )
    return {
        split: ImageSplit(
            tuple(ImageExample(each.stored, each.labels, each.text, each.origin) for each in found.examples),
            found.note,
            found.classes,
        )
        for split, found in read.items()
    }


def stored_image(value: Any, column: str, origin: str, folder: pathlib.Path | None) -> StoredImage:
    """Returns an image that a record holds: see `stored_media`; it may be an array, a picture of Pillow, a StoredImage.

    Raises BadImageError as `decoding.pixels_of`, UserError as `stored_media`.
    """
    return stored_media(IMAGES, value, column, origin, folder)


def _of_value(value: Any, origin: str) -> StoredImage | None:
    if isinstance(value, StoredImage):
        return value
    if isinstance(value, bytes | bytearray):
        return StoredImage(origin, data=bytes(value))
    if isinstance(value, np.ndarray):
        return StoredImage(origin, array=value)
    if hasattr(value, "mode") and hasattr(value, "tobytes"):
        return StoredImage(origin, array=decoding.pixels_of(value, origin))
    return None


def _of_path(origin: str, path: pathlib.Path) -> StoredImage:
    return StoredImage(origin, path=path)


def _open_quickstart(rest: str, kind: str, texts: bool) -> Tables:
    del rest, kind, texts
    from jaxfm.data.images.digits import find_digits

    return find_digits()


def _open_folders(rest: str, kind: str, texts: bool) -> Tables:
    return folders.open_folders(IMAGES, rest, kind=kind, captions=texts)


def _open_shards(rest: str, kind: str, texts: bool) -> Tables:
    del kind, texts
    return shards.open_shards(rest)


IMAGES = Medium(
    name="image",
    one="an image",
    many="images",
    scheme="images",
    suffixes=SUFFIXES,
    sure_columns=SURE_COLUMNS,
    columns=IMAGE_COLUMNS,
    forms=("images:DIR", shards.FORM),
    open_own={"quickstart": _open_quickstart, "images": _open_folders, "webdataset": _open_shards},
    of_path=_of_path,
    of_value=_of_value,
    values="the bytes of a file, an array of uint8 or a picture of Pillow",
)
