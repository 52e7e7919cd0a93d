"""What the arrays of a model that finds objects say of images."""

# E images, N rows, S segments (images in a row), M most objects of an image, Q detection tokens, C classes

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.data.images.boxes import BoxedExample
from jaxfm.data.images.rows import ImageRows
from jaxfm.evaluation.average_precision import FoundObjects, GoldObjects
from jaxfm.models.detector import Found
from jaxfm.tasks.detection.objective import DetectionLoss, ImageSums, batch_sums
from jaxfm.tasks.detection.spec import BOXES, DetectionSpec

_AT_ONCE = 256  # images whose losses are computed together


def per_image(rows: ImageRows, values: np.ndarray) -> np.ndarray:
    """Returns the values [E, ...] of images of values [N, S, ...], in the order in which images were given."""
    return values[rows.example_locations[:, 0], rows.example_locations[:, 1]]


def targets(spec: DetectionSpec, examples: Sequence[BoxedExample], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns class numbers int32 [E, most], -1 where there is no object, and boxes f32 [E, most, 4] of no crowds.

    Boxes are middle (column, row), width and height, in shares of the image.
    """
    number = {name: index for index, name in reversed(list(enumerate(spec.labels)))}
    labels = np.full((len(examples), most), -1, np.int32)
    boxes = np.zeros((len(examples), most, 4), np.float32)
    for at, example in enumerate(examples):
        chosen = example.learned
        height, width = example.size
        shares = example.boxes[chosen] / [width, height, width, height]
        labels[at, : len(chosen)] = [number[example.labels[index]] for index in chosen]
        boxes[at, : len(chosen), :2] = (shares[:, :2] + shares[:, 2:]) / 2
        boxes[at, : len(chosen), 2:] = shares[:, 2:] - shares[:, :2]
    return labels, boxes


def gold_objects(spec: DetectionSpec, example: BoxedExample) -> GoldObjects:
    """Returns what an image shows."""
    classes = np.asarray([spec.labels.index(label) for label in example.labels], np.int64)
    return GoldObjects(example.boxes, classes, example.crowds, example.areas)


def found_objects(logits_QC: np.ndarray, boxes_Q4: np.ndarray, size: tuple[int, int]) -> FoundObjects:
    """Returns the class, its probability and the box in pixels of each token, "no object" aside, the surest first.

    As transformers' processor does. Boxes are cut at the edges of the image, whose height and width `size` is.
    """
    shares = logits_QC.astype(np.float64)
    shares = np.exp(shares - shares.max(axis=-1, keepdims=True))
    shares = (shares / shares.sum(axis=-1, keepdims=True))[:, :-1]
    order = np.argsort(-shares.max(axis=-1), kind="stable")
    height, width = size
    middle, half = boxes_Q4[order, :2].astype(np.float64), boxes_Q4[order, 2:].astype(np.float64) / 2
    boxes = np.clip(np.concatenate([middle - half, middle + half], axis=-1), 0, 1) * [width, height, width, height]
    return FoundObjects(boxes, shares[order].argmax(axis=-1), shares[order].max(axis=-1))


def above(found: FoundObjects, threshold: float) -> FoundObjects:
    """Returns those whose probability is at least the threshold."""
    kept = found.scores >= threshold
    return FoundObjects(found.boxes[kept], found.classes[kept], found.scores[kept])


def told(spec: DetectionSpec, found: FoundObjects) -> list[dict[str, Any]]:
    """Returns objects as JSON values: label, score and box (left, top, right, bottom in pixels)."""
    return [
        {
            "label": spec.labels[int(kind)],
            "score": round(float(score), 4),
            "box": [round(float(value), 2) for value in box],
        }
        for box, kind, score in zip(*found, strict=True)
    ]


def losses(
    spec: DetectionSpec,
    examples: Sequence[BoxedExample],
    rows: ImageRows,
    outputs: Mapping[str, np.ndarray],
    weights: DetectionLoss,
) -> ImageSums:
    """Returns the sums of the loss of each image, f32 [E]."""
    most = max(1, max(len(example.learned) for example in examples))
    labels, boxes = targets(spec, examples, most)
    arrays = per_image(rows, outputs["logits"]), per_image(rows, outputs[BOXES]), labels, boxes
    parts = []
    for start in range(0, len(examples), _AT_ONCE):
        part = [array[start : start + _AT_ONCE] for array in arrays]
        count = len(part[0])
        filled = [np.concatenate([each, each[:1].repeat(_AT_ONCE - count, axis=0)]) for each in part]
        parts.append([np.asarray(value)[:count] for value in _sums(weights, *map(jnp.asarray, filled))])
    return ImageSums(*(np.concatenate(values) for values in zip(*parts, strict=True)))  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnums=0)
def _sums(weights: DetectionLoss, *arrays: jax.Array) -> ImageSums:
    logits, boxes, labels, targets = (array[:, None] for array in arrays)
    each = batch_sums(Found(logits, boxes), labels, targets, weights)
    return ImageSums(*(values[:, 0] for values in each))
