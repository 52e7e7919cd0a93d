"""A trained model that finds objects in image files, and the model in transformers' form."""

# B batch

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.images.boxes import image_size
from jaxfm.data.images.rows import ImageRows
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.image_models import write_image_model
from jaxfm.hub.image_positions import image_model_problem
from jaxfm.hub.image_processors import write_detection_processor
from jaxfm.models.detector import Detector
from jaxfm.observe.box_pictures import RIGHT, with_boxes
from jaxfm.tasks.detection.results import above, found_objects, per_image, told
from jaxfm.tasks.detection.spec import BOXES, DetectionSpec
from jaxfm.tasks.image_rows import image_rows

HEAD = "objects"
_CARD_LABELS = 50  # that the model card names


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Records, height and width of their images, and the rows of these."""

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    rows: ImageRows


@dataclasses.dataclass(frozen=True)
class DetectionPredictor:
    """Images in, objects out (implements Predictor, ReadsImages and DrawsPictures of core.task)."""

    spec: DetectionSpec

    records_at_once = 512
    takes_words = False
    splitters = ()
    pairs = False
    reads_texts = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.spec.labels

    def with_splitter(self, splitter: str) -> "DetectionPredictor":
        """Never called: an image has no words."""
        raise AssertionError(splitter)

    def outputs(self, model: Detector, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See DetectionSpec.outputs."""
        return self.spec.outputs(model, batch)

    def with_pictures(self) -> "DetectionPredictor":
        """Returns the same: all outputs can be drawn."""
        return self

    def pictures(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Returns of each image its pixels uint8 [H, W, 3] with the boxes of the objects that are named."""
        shown = []
        for at, result in enumerate(self.decode(encoded, outputs)):
            height, width = encoded.sizes[at]
            scale = np.asarray([width, height, width, height])
            boxes = [(np.asarray(each["box"]) / scale, RIGHT) for each in result["objects"]]
            shown.append({pathlib.Path(encoded.names[at]).name: with_boxes(encoded.rows.image(at), boxes)})
        return shown

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedImages:
        """Makes rows of {"image": StoredImage}; an image that cannot be decoded is a UserError that names it."""
        images: list[StoredImage] = [record["image"] for record in records]
        rows = image_rows(self.spec, images)
        return EncodedImages(tuple(image.origin for image in images), tuple(map(image_size, images)), rows)

    def decode(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns "image" (its name) and "objects": label, score and box (left, top, right, bottom in its pixels).

        Objects are those whose probability is at least the threshold of the run, the surest first.
        """
        logits, boxes = per_image(encoded.rows, outputs["logits"]), per_image(encoded.rows, outputs[BOXES])
        results = []
        for at, (name, size) in enumerate(zip(encoded.names, encoded.sizes, strict=True)):
            found = above(found_objects(logits[at], boxes[at], size), self.spec.threshold)
            results.append({"image": name, "objects": told(self.spec, found)})
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the image's name, then an object a line: score, class, left, top, right and bottom."""
        lines = []
        for each in result["objects"]:
            box = " ".join(f"{value:.0f}" for value in each["box"])
            lines.append(f"  {each['score']:.3f}  {each['label']}  ({box})")
        return [result["image"], *(lines or ["  (no object)"])]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, HEAD) or image_model_problem(self.spec.encoder, self.spec.layout)

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForObjectDetection and AutoImageProcessor open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        spec = self.spec
        write_image_model(folder, spec.encoder, head=HEAD, params=params, layout=spec.layout, labels=self.labels)
        write_detection_processor(folder, spec.layout)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        names = ", ".join(f"`{name}`" for name in self.labels[:_CARD_LABELS])
        more = f" and {len(self.labels) - _CARD_LABELS:,} more" if len(self.labels) > _CARD_LABELS else ""
        code = (
            "from transformers import pipeline\n\n"
            'find = pipeline("object-detection", model="DIRECTORY")\nfind("image.png")'
        )
        side = self.spec.layout.side
        return CardPart(
            "Object detection",
            "object-detection",
            f"Finds up to {self.spec.tokens} objects in an image: {names}{more}.",
            code,
            f"It reads {side} x {side} pixels of an image, whatever its shape. An object is named from a probability "
            f"of {self.spec.threshold:g}.",
        )
