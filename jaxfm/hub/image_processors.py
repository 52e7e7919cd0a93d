"""preprocessor_config.json: what transformers' image processors do to an image before a model reads it."""

import pathlib
from typing import Any

from jaxfm import files
from jaxfm.core.initial import ImageLayout
from jaxfm.errors import UserError
from jaxfm.families.config_values import is_integer, is_number
from jaxfm.hub.directory import json_object

FILE = "preprocessor_config.json"
_BICUBIC = 3  # Pillow's number of it, which the file has


def read_image_processor(directory: pathlib.Path) -> ImageLayout | None:
    """Returns what the file beside weights says of images; None without one.

    Raises:
      UserError: the file is no JSON object, or asks for what is not computed here (pixels on another scale).
    """
    path = directory / FILE
    if not path.is_file():
        return None
    values = json_object(path)
    factor = values.get("rescale_factor", 1 / 255)
    if not values.get("do_rescale", True) or not is_number(factor) or abs(factor * 255 - 1) > 1e-3:
        raise UserError(f"{path}: rescale_factor {factor!r}; pixels are scaled from 0..255 to 0..1 here.")
    normalizes = values.get("do_normalize", True)
    mean, std = (_numbers(values, key, path) if normalizes else () for key in ("image_mean", "image_std"))
    if any(each <= 0 for each in std):
        raise UserError(f"{path}: image_std {list(std)}; deviations are above 0.")
    if not normalizes:
        mean, std = (0.0,) * 3, (1.0,) * 3
    size, crop = _side(values.get("size")), _side(values.get("crop_size"))
    if values.get("do_center_crop") and crop:
        return ImageLayout(crop, "crop", size if size != crop else 0, mean, std)
    return ImageLayout(size, "squash", 0, mean, std)


def write_image_processor(folder: pathlib.Path, layout: ImageLayout) -> None:
    """Writes the file that AutoImageProcessor opens, so that transformers' pixels are those of jaxfm.

    Sides are resized bicubically by both; transformers' crop rounds as Pillow does.
    """
    square = {"height": layout.side, "width": layout.side}
    values: dict[str, Any] = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(layout.mean),
        "image_std": list(layout.std),
        "do_resize": True,
        "resample": _BICUBIC,
    }
    if layout.rule == "crop":
        values |= {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": layout.shorter_side or layout.side},
            "do_center_crop": True,
            "crop_size": square,
            "do_convert_rgb": len(layout.mean) == 3,
        }
    else:
        values |= {"image_processor_type": "ViTImageProcessor", "size": square}
    files.write_json(folder / FILE, values)


def write_detection_processor(folder: pathlib.Path, layout: ImageLayout) -> None:
    """Writes the file that AutoImageProcessor opens for a model that finds objects in squares of one size.

    Its `post_process_object_detection` makes boxes in pixels of what the model says.
    """
    assert layout.rule == "squash"
    values: dict[str, Any] = {
        "image_processor_type": "YolosImageProcessor",
        "format": "coco_detection",
        "do_convert_annotations": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(layout.mean),
        "image_std": list(layout.std),
        "do_resize": True,
        "resample": _BICUBIC,
        "size": {"height": layout.side, "width": layout.side},
        "do_pad": False,
    }
    files.write_json(folder / FILE, values)


def _numbers(values: dict[str, Any], key: str, path: pathlib.Path) -> tuple[float, ...]:
    found = values.get(key)
    if found is None:
        return ()
    found = found if isinstance(found, list) else [found]
    if not found or not all(is_number(each) for each in found):
        raise UserError(f"{path}: {key} {found!r}; it must be a list of a number a channel.")
    return tuple(float(each) for each in found)


def _side(size: Any) -> int:
    """Returns the side of a square that `size` says in one of the forms of transformers; 0: another shape, or none."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else 0)
    return size if is_integer(size) and size > 0 else 0
