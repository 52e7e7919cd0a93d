"""Images that a trained model is asked about: files, folders and tables of the command line, objects of Python."""

import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxfm.data.images.examples import IMAGE_COLUMNS, IMAGES, SURE_COLUMNS, stored_image
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.media.folders import media_files
from jaxfm.data.records.registry import file_formats, open_file
from jaxfm.data.records.table import choose_column
from jaxfm.errors import UserError

COLUMN = "image_column"
_ID = "id"


def find_images(path: pathlib.Path, argument: str) -> list[StoredImage]:
    """Returns an image file, or those of a folder and of the folders in it, in the order of their names.

    Raises UserError, which names the `argument`, where there is none.
    """
    if path.is_dir():
        found = media_files(IMAGES, path)
        if not found:
            raise UserError(f"{argument}: holds no image.")
        return [StoredImage(str(each), path=each) for each in found]
    if not path.exists():
        raise UserError(f"{argument}: there is no such file or folder.")
    return [StoredImage(str(path), path=path)]


def read_images_of(source: pathlib.Path, column: str = "") -> Iterator[dict[str, Any]]:
    """Yields {"image": StoredImage}, with "id" where a table has one, of a folder, a table or an image file.

    Args:
      source: a folder of images; a table (csv, tsv, jsonl, parquet) with a column of paths or bytes; one image.
      column: of the table; "": the one with a usual name.

    Raises:
      UserError: no image, no such column, a path that is absent or leads out of the table's folder.
    """
    suffix = pathlib.PurePath(source.name.lower().removesuffix(".gz")).suffix
    if source.is_dir() or suffix not in file_formats():
        yield from ({"image": image} for image in find_images(source, f"--input={source}"))
        return
    table = open_file(source)
    usual = SURE_COLUMNS if set(SURE_COLUMNS) & set(table.columns) else IMAGE_COLUMNS
    name = choose_column(table.columns, column, usual, "image", table.source, f"--{COLUMN}")
    wanted = [name, *([_ID] if _ID in table.columns else [])]
    for origin, (value, *named) in table.values(wanted):
        record = {"image": stored_image(value, name, origin, source.parent)}
        yield {_ID: named[0], **record} if named else record


def image_record(value: Any, origin: str) -> dict[str, Any]:
    """Returns {"image": StoredImage} of what a person may call an image.

    Args:
      value: a path, the bytes of a file, an array [H, W] or [H, W, C], a PIL image, or {"image": one of these}.
      origin: what messages call it.

    Raises:
      UserError: anything else.
    """
    if isinstance(value, Mapping):
        if "image" not in value:
            raise UserError(f'{origin}: has no "image".')
        named = {_ID: value[_ID]} if _ID in value else {}
        return named | image_record(value["image"], origin)
    if isinstance(value, str | os.PathLike):
        path = pathlib.Path(value)
        if not path.is_file():
            raise UserError(f"{origin}: {str(path)!r} is not a file.")
        return {"image": StoredImage(str(path), path=path)}
    return {"image": stored_image(value, "image", origin, None)}


def is_one_image(value: Any) -> bool:
    """Whether a value is one image: an array of pixels, a path that is not a text, bytes, a picture."""
    if hasattr(value, "ndim") and hasattr(value, "shape"):
        return value.ndim in (2, 3)
    return isinstance(value, StoredImage | os.PathLike | bytes) or hasattr(value, "getbands")


def argument_records(arguments: list[str], *, texts: bool) -> list[dict[str, Any]]:
    """Returns records of the words of a command line: files and folders, else texts where a model reads these.

    Raises UserError for a word that is no file where a model reads images alone.
    """

    def records(word: str) -> list[dict[str, Any]]:
        if texts and not pathlib.Path(word).exists():
            return [{"text": word}]
        return [{"image": image} for image in find_images(pathlib.Path(word), word)]

    return list(itertools.chain.from_iterable(map(records, arguments)))
