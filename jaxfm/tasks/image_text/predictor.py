"""Two trained towers over image files and texts: vectors, classes by their names, and the towers for others."""

# E records, C classes, V vectors

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.families.registry import pair_of
from jaxfm.hub.dual_encoders import dual_encoder_problem, write_dual_encoder
from jaxfm.hub.image_processors import write_image_processor
from jaxfm.hub.pairs import pair_problem, write_pair
from jaxfm.models.two_towers import TwoTowers
from jaxfm.tasks.image_rows import image_rows
from jaxfm.tasks.image_text.rows import PairRows, text_rows
from jaxfm.tasks.image_text.spec import ImageTextSpec, probabilities

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ROLES = ("image", "text")
_SHOWN = 3  # likeliest classes that are printed


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """Records, and rows that have their images, their texts, and after them the texts of classes.

    Attributes:
      records: what was given: {"image": name} or {"text": ...}.
      labels: classes that images are compared with.
      rows: to compute.
    """

    records: tuple[dict[str, str], ...]
    labels: tuple[str, ...]
    rows: PairRows


@dataclasses.dataclass(frozen=True)
class ImageTextPredictor:
    """Images or texts in, vectors out, and of images classes (implements jaxfm.core.task.Predictor, EmbedsTexts).

    Attributes:
      spec: of the towers.
      tokenizer: of the text tower.
      labels: classes that images are compared with; empty: none.
    """

    spec: ImageTextSpec
    tokenizer: "PreTrainedTokenizerFast"
    labels: tuple[str, ...] = ()

    records_at_once = 512
    takes_words = False
    splitters = ()
    pairs = False
    reads_texts = True
    similarity = "cosine"
    fewest_labels = 2
    roles = ("text",)

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.spec.dimension

    def with_splitter(self, splitter: str) -> "ImageTextPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def with_labels(self, labels: Sequence[str]) -> "ImageTextPredictor":
        """Returns the same with other classes that images are compared with."""
        return dataclasses.replace(self, labels=tuple(labels))

    def outputs(self, model: TwoTowers, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See ImageTextSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedPairs:
        """Makes rows of {"image": StoredImage} or {"text": ...}; a broken image is a UserError that names it."""
        channels = self.spec.encoder.patches.channels
        blank = StoredImage("no image", array=np.zeros((1, 1, channels), np.uint8))
        images = [record.get("image", blank) for record in records]
        has_images = any("image" in record for record in records)
        labels = self.labels if has_images else ()
        prompt = self.spec.label_prompt or "{}"
        texts = [*(str(record.get("text", "")) for record in records), *(prompt.replace("{}", each) for each in labels)]
        fields, _ = text_rows(self.spec, self.tokenizer, texts)
        rows = PairRows(image_rows(self.spec, images), fields, self.spec.text_fields())
        kept = tuple(
            {"image": record["image"].origin} if "image" in record else {"text": str(record["text"])}
            for record in records
        )
        return EncodedPairs(kept, labels, rows)

    def decode(self, encoded: EncodedPairs, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns of an image "label", "score" and "scores" where there are classes, else its "vector"; so of a text.

        A text without letters (blank) has none: its vector is None.
        """
        count = len(encoded.records)
        classes_CV = outputs["texts"][count:]
        results: list[dict[str, Any]] = []
        for row, record in enumerate(encoded.records):
            if "text" in record:
                vector = outputs["texts"][row].tolist() if record["text"].strip() else None
                results.append({**record, "vector": vector})
            elif not encoded.labels:
                results.append({**record, "vector": outputs["images"][row].tolist()})
            else:
                shares = probabilities(classes_CV @ outputs["images"][row], float(outputs["scale"][0])).tolist()
                scores = {label: round(share, 4) for label, share in zip(encoded.labels, shares, strict=True)}
                label = encoded.labels[int(np.argmax(shares))]
                results.append({**record, "label": label, "score": scores[label], "scores": scores})
        return results

    def embedding_rows(self, texts: Sequence[str], role: str) -> EncodedPairs:
        """Turns texts into rows."""
        assert role in self.roles
        return self.encode([{"text": text} for text in texts])

    def vectors(self, encoded: EncodedPairs, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns f32 [E, V] of the records, images or texts, in the order they were given."""
        is_image = np.asarray(["image" in record for record in encoded.records], bool)
        count = len(encoded.records)
        return np.where(is_image[:, None], outputs["images"][:count], outputs["texts"][:count]).astype(np.float32)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the image's name or the text, then the likeliest classes, or the first numbers of the vector."""
        name = result.get("image", result.get("text", ""))
        if "scores" in result:
            ranked = sorted(result["scores"].items(), key=lambda entry: -entry[1])
            return [name, *(f"  {score:.3f}  {label}" for label, score in ranked[:_SHOWN])]
        if result["vector"] is None:
            return [name, "  (no text)"]
        shown = " ".join(f"{number:.3f}" for number in result["vector"][:6])
        return [name, f"  {len(result['vector'])} numbers: {shown} ..."]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        spec = self.spec
        of_pair = pair_problem(spec.towers, spec.layout, self.tokenizer)
        if of_pair is not None:
            return of_pair
        return dual_encoder_problem(
            spec.encoder,
            spec.text_encoder,
            spec.layout,
            spec.image_pooling,
            spec.text_pooling,
            biased=spec.loss == "sigmoid",
        )

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what transformers' class of both families opens, or VisionTextDualEncoderModel where there is none.

        The files of its processor's two halves lie beside it. UserError as `hf_problem` says.
        """
        if problem := self.hf_problem():
            raise UserError(problem)
        spec, pad = self.spec, self.tokenizer.pad_token_id
        if self._pair_class():
            write_pair(folder, spec.towers, params=params, layout=spec.layout, tokenizer=self.tokenizer)
            return
        assert isinstance(pad, int), "see check_tokenizer"
        write_dual_encoder(folder, spec.encoder, spec.text_encoder, params=params, layout=spec.layout, pad_token_id=pad)
        write_image_processor(folder, spec.layout)
        self.tokenizer.save_pretrained(folder)

    def _pair_class(self) -> str:
        """Returns transformers' class of both towers' families; "" without one."""
        pair = pair_of(self.spec.encoder.family, self.spec.text_encoder.family)
        return pair.architecture if pair else ""

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        does = (
            f"Gives images and texts vectors of {self.spec.dimension} numbers whose products say what belongs together."
        )
        name = self._pair_class() or "VisionTextDualEncoderModel"
        code = f'from transformers import {name}\n\nmodel = {name}.from_pretrained("DIRECTORY")'
        side = self.spec.layout.side
        reads = f"It reads {side} x {side} pixels of an image and {self.spec.text_length} tokens of a text."
        return CardPart("Image-text contrast", "zero-shot-image-classification", does, code, reads)
