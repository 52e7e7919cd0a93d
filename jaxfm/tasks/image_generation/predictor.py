"""A trained model over names of classes: images out, and the model in transformers' form."""

# G cells, H height, W width, C channels

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.images.codebook import FILE, Codebook
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_token_model
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.asked_decoding import with_asked
from jaxfm.tasks.held_out import written_tokens
from jaxfm.tasks.image_generation.making import make_images
from jaxfm.tasks.image_generation.rows import blank_rows, picture
from jaxfm.tasks.image_generation.spec import ImageGenerationSpec


@dataclasses.dataclass(frozen=True)
class AskedImages:
    """Names of classes and the rows of the images that are asked for; blank names have none.

    Attributes:
      names: as they are given back.
      numbers: class of each; -1: a blank name.
      rows: what is computed, `samples` images a name in order.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    rows: PackedRows


@dataclasses.dataclass(frozen=True)
class ImageGenerationPredictor:
    """Names of classes in, images out (implements Predictor, DrawsPictures of core.task, WritesTexts of core.writing).

    Attributes:
      spec: of the model; its unmasking is how images are made.
      codebook: what its codes look like.
    """

    spec: ImageGenerationSpec
    codebook: Codebook

    records_at_once = 64
    takes_words = False
    splitters = ()
    pairs = False
    record_fields = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes that can be asked for."""
        return self.spec.classes

    def with_splitter(self, splitter: str) -> "ImageGenerationPredictor":
        """Never called: a name has no words."""
        raise AssertionError(splitter)

    def with_writing(self, decoding: Mapping[str, str], controls: Mapping[str, str]) -> "ImageGenerationPredictor":
        """Returns the same that makes images otherwise; UserError for an unknown name, or a value it cannot have."""
        for name in controls:
            raise UserError(f"--control={name}: this model makes images of classes, and knows no controls.")
        unmasking = with_asked(self.spec.unmasking, decoding)
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, unmasking=unmasking))

    def with_pictures(self) -> "ImageGenerationPredictor":
        """Returns itself: its outputs are pictures in any case."""
        return self

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "written", codes int32 [B, S, G], and "score" f32 [B, S]."""
        made = make_images(model, batch, self.spec, self.spec.unmasking)
        return {"written": made.tokens_BSM, "score": made.score_BS}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> AskedImages:
        """Packs the images that are asked for; UserError for what is not a class."""
        names = tuple(str(record["text"]).strip() for record in records)
        numbers = []
        for name, record in zip(names, records, strict=True):
            if name and name not in self.labels:
                origin = record.get("origin", "a record")
                raise UserError(
                    f"{origin}: {name!r:.60} is not a class of this model. {did_you_mean(name, self.labels)}"
                )
            numbers.append(self.labels.index(name) if name else -1)
        spec, asked = self.spec, np.asarray([number for number in numbers if number >= 0], np.int64)
        samples = spec.unmasking.samples
        each = np.tile(np.arange(samples), len(asked))
        return AskedImages(names, tuple(numbers), blank_rows(spec, np.repeat(asked, samples), each))

    def decode(self, encoded: AskedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"class", "images", "scores"} for each name.

        Images are rows of pixels, 0 to 255; a score is the mean log-probability of a code when it was drawn. A blank
        name has no image.
        """
        row, segment, _ = encoded.rows.example_locations.T
        scores = outputs["score"][row, segment] if len(row) else np.zeros(0)
        results, first, samples = [], 0, self.spec.unmasking.samples
        made = self._made(encoded, outputs)
        for name, number in zip(encoded.names, encoded.numbers, strict=True):
            own = range(first, first + (samples if number >= 0 else 0))
            first = own.stop
            results.append(
                {
                    "class": name,
                    "images": [(made[at][..., 0] if self.spec.channels == 1 else made[at]).tolist() for at in own],
                    "scores": [round(float(scores[at]), 4) for at in own],
                }
            )
        return results

    def pictures(self, encoded: AskedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Returns of each name the images uint8 [H, W, C] that were made, by "NAME (1)", "NAME (2)" ..."""
        made, samples = iter(self._made(encoded, outputs)), self.spec.unmasking.samples
        return [
            {f"{name} ({place})": next(made) for place in range(1, samples + 1)} if number >= 0 else {}
            for name, number in zip(encoded.names, encoded.numbers, strict=True)
        ]

    def _made(self, encoded: AskedImages, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return [picture(self.spec, self.codebook, codes) for codes in written_tokens(encoded.rows, outputs["written"])]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the class, and how many images of which size were made."""
        images = result["images"]
        if not images:
            return [f"{result['class']}  (nothing)"]
        many = "1 image" if len(images) == 1 else f"{len(images)} images"
        score = sum(result["scores"]) / len(images)
        return [
            result["class"],
            f"  {many} of {self.spec.image_size} x {self.spec.image_size} pixels, score {score:.3f}",
        ]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "vocabulary")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForMaskedLM opens, with the codebook; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        write_token_model(folder, self.spec.encoder, head="vocabulary", params=params, padding=self.spec.mask)
        self.codebook.write(folder)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        spec, listed = self.spec, ", ".join(self.labels[:20]) + (" ..." if len(self.labels) > 20 else "")
        does = (
            f"A model that makes images of {spec.image_size} x {spec.image_size} pixels of {len(self.labels)} classes "
            f"({listed}), by filling masked codes."
        )
        code = (
            "from safetensors.numpy import load_file\nfrom transformers import AutoModelForMaskedLM\n\n"
            'model = AutoModelForMaskedLM.from_pretrained("DIRECTORY")\n'
            f'entries = load_file("DIRECTORY/{FILE}")["entries"]  # pixels of each code'
        )
        reads = (
            f"It reads the token of a class ({spec.class_token(0)} to {spec.no_class - 1}; {spec.no_class}: none), "
            f"then {spec.cells} codes row by row (0 to {spec.codes - 1}; {spec.mask}: a mask), each "
            f"{spec.patch_size} x {spec.patch_size} pixels."
        )
        return CardPart("Image generation", "unconditional-image-generation", does, code, reads)
