"""A trained model of hidden patches over image files: how well each is predicted, and the encoder for others."""

# E images

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.images.rows import ImageRows
from jaxfm.errors import UserError
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.image_models import write_image_model
from jaxfm.hub.image_positions import image_model_problem
from jaxfm.hub.image_processors import write_image_processor
from jaxfm.tasks.image_rows import image_rows
from jaxfm.tasks.masked_images.objective import MaskedImagesObjective
from jaxfm.tasks.masked_images.pictures import reconstruction
from jaxfm.tasks.masked_images.rows import with_noise
from jaxfm.tasks.masked_images.spec import MaskedImagesSpec


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Records and the rows of their images."""

    names: tuple[str, ...]
    rows: ImageRows


@dataclasses.dataclass(frozen=True)
class MaskedImagesPredictor:
    """Images in, what was predicted of them out (implements jaxfm.core.task.Predictor).

    Attributes:
      spec: of the model.
    """

    spec: MaskedImagesSpec

    records_at_once = 64
    takes_words = False
    splitters = ()
    pairs = False
    reads_texts = False
    labels = ()

    def with_splitter(self, splitter: str) -> "MaskedImagesPredictor":
        """Never called: an image has no words."""
        raise AssertionError(splitter)

    def with_pictures(self) -> "MaskedImagesPredictor":
        """Returns itself: its outputs are pictures in any case."""
        return self

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See MaskedImagesObjective.outputs; with the pixels."""
        return MaskedImagesObjective(self.spec, pictures=True).outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedImages:
        """Makes rows of {"image": StoredImage}; an image that cannot be decoded is a UserError that names it."""
        images = [record["image"] for record in records]
        rows = with_noise(image_rows(self.spec, images))
        return EncodedImages(tuple(image.origin for image in images), rows)

    def decode(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns "image" (its name), "loss" and "hidden", the number of its patches that were predicted."""
        row, segment = encoded.rows.example_locations.T
        errors, counts = outputs["error"][row, segment], outputs["hidden_patches"][row, segment]
        return [
            {"image": name, "loss": round(float(error / max(count, 1)), 4), "hidden": int(count)}
            for name, error, count in zip(encoded.names, errors, counts, strict=True)
        ]

    def pictures(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Returns of each image the pixels uint8 [H, W, C] of itself, of what was seen of it and what was predicted."""
        return [reconstruction(encoded.rows, outputs, image) for image in range(len(encoded.names))]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the image's name and its error."""
        return [result["image"], f"  mean squared error {result['loss']:.3f} of {result['hidden']} hidden patches"]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "") or image_model_problem(self.spec.encoder, self.spec.layout)

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes the encoder as AutoModel and AutoImageProcessor open it; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        encoder = {name: value for name, value in params.items() if name.startswith("encoder/")}
        write_image_model(folder, self.spec.encoder, head="", params=encoder, layout=self.spec.layout)
        write_image_processor(folder, self.spec.layout)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        does = f"An encoder of images, trained to predict {self.spec.ratio:.0%} of their patches from the others."
        code = 'from transformers import AutoModel\n\nencoder = AutoModel.from_pretrained("DIRECTORY")'
        reads = f"It reads {self.spec.layout.side} x {self.spec.layout.side} pixels; fine-tune it before use."
        return CardPart("Masked image modelling", "image-feature-extraction", does, code, reads)
