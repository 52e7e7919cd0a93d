"""Average precision of found objects as COCO counts it, by pycocotools (the extra `boxes`)."""

# n objects of an image, k found ones, C classes

import contextlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.errors import UserError, install_hint

AP, AP50, AP75 = "ap", "ap50", "ap75"
SMALL, MEDIUM, LARGE = "ap_small", "ap_medium", "ap_large"
AP50_SMALL = "ap50_small"
METRICS = (AP, AP50, AP75, SMALL, MEDIUM, LARGE, AP50_SMALL)
_AREAS = {SMALL: 1, MEDIUM: 2, LARGE: 3}  # places among COCO's ranges of areas, of which the first is all
_MOST = 2  # place of 100 found objects an image among COCO's limits


class GoldObjects(NamedTuple):
    """What an image shows: boxes f64 [n, 4] (left, top, right, bottom in pixels), classes, crowds [n], areas [n]."""

    boxes: np.ndarray
    classes: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray


class FoundObjects(NamedTuple):
    """What was found in it: boxes f64 [k, 4], classes [k], scores [k]."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


class AveragePrecision(NamedTuple):
    """Scores of a split: name of METRICS -> number, without those that no object has; of each class [C], or NaN."""

    metrics: Mapping[str, float]
    classes: np.ndarray


def is_installed() -> bool:
    """Whether pycocotools is."""
    return importlib.util.find_spec("pycocotools") is not None


def average_precision(gold: Sequence[GoldObjects], found: Sequence[FoundObjects], num_classes: int) -> AveragePrecision:
    """Returns the scores of some images.

    Average precision is the area under the curve of precision over recall, mean over classes and over the least overlap
    (0.5, 0.55 ... 0.95) at which a found object counts; "ap50" and "ap75" have one such overlap. Small objects have an
    area below 32 x 32 pixels, large ones above 96 x 96. What lies in a crowd counts neither way.

    Raises:
      UserError: pycocotools is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError:
        raise UserError(f"average precision needs pycocotools: {install_hint('boxes')}.") from None
    with contextlib.redirect_stdout(io.StringIO()):
        truth: Any = COCO()
        truth.dataset = _dataset(gold, num_classes)
        truth.createIndex()
        told = [each for number, image in enumerate(found) for each in _found(image, number)]
        scored = COCOeval(truth, truth.loadRes(told) if told else _empty(truth), "bbox")
        scored.evaluate()
        scored.accumulate()
    # [overlaps, recalls, classes, ranges of areas, limits]; -1 where there is no object.
    precision: np.ndarray = scored.eval["precision"]
    overlaps = np.round(scored.params.iouThrs, 2).tolist()
    parts = {
        AP: precision[:, :, :, 0, _MOST],
        AP50: precision[overlaps.index(0.5), :, :, 0, _MOST],
        AP75: precision[overlaps.index(0.75), :, :, 0, _MOST],
        **{name: precision[:, :, :, place, _MOST] for name, place in _AREAS.items()},
        AP50_SMALL: precision[overlaps.index(0.5), :, :, _AREAS[SMALL], _MOST],
    }
    metrics = {name: float(part[part >= 0].mean()) for name, part in parts.items() if (part >= 0).any()}
    classes = np.full(num_classes, np.nan)
    for number in range(num_classes):
        part = parts[AP][:, :, number]
        if (part >= 0).any():
            classes[number] = part[part >= 0].mean()
    return AveragePrecision(metrics, classes)


def _dataset(gold: Sequence[GoldObjects], num_classes: int) -> dict[str, Any]:
    """Returns COCO's form; its categories and annotations are counted from 1."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(gold):
        for box, kind, crowd, area in zip(*image, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(kind) + 1,
                    "bbox": _sides(box),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},
        "images": [{"id": number} for number in range(len(gold))],
        "categories": [{"id": number + 1} for number in range(num_classes)],
        "annotations": annotations,
    }


def _found(image: FoundObjects, number: int) -> list[dict[str, Any]]:
    return [
        {"image_id": number, "category_id": int(kind) + 1, "bbox": _sides(box), "score": float(score)}
        for box, kind, score in zip(*image, strict=True)
    ]


def _sides(box: np.ndarray) -> list[float]:
    """Returns left, top, width, height."""
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def _empty(truth: Any) -> Any:
    """Returns what COCO's reader makes of no result, which it cannot read."""
    from pycocotools.coco import COCO

    nothing: Any = COCO()
    nothing.dataset = {**truth.dataset, "annotations": []}
    nothing.createIndex()
    return nothing


def overlaps(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns intersection over union [n, k] of boxes [n, 4] and [k, 4], left, top, right, bottom."""
    first = np.maximum(one[:, None, :2], other[None, :, :2])
    last = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(last - first, 0), axis=-1)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1) for boxes in (one, other)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-12)


def mistakes(gold: GoldObjects, found: FoundObjects, least: float = 0.5) -> tuple[list[int], list[int]]:
    """Returns numbers of objects that were missed, and of found ones that are wrong, at one least overlap.

    Found objects take the object of their class that they overlap most, the surest first, as COCO pairs them. What lies
    in a crowd is not wrong.
    """
    shared = overlaps(gold.boxes, found.boxes)
    taken: set[int] = set()
    wrong = []
    for number in np.argsort(-found.scores, kind="stable").tolist():
        fits = np.where((gold.classes == found.classes[number]) & (shared[:, number] >= least), shared[:, number], -1)
        free = [index for index in np.argsort(-fits, kind="stable").tolist() if fits[index] >= 0]
        own = next((index for index in free if index not in taken and not gold.crowds[index]), None)
        if own is not None:
            taken.add(own)
        elif not any(gold.crowds[index] for index in free):
            wrong.append(number)
    missed = [index for index in range(len(gold.classes)) if index not in taken and not gold.crowds[index]]
    return missed, wrong
