"""A trained classifier over image files, and the classifier in transformers' form."""

# B batch, S segments (images in a row), C classes, E images

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.core.judging import Judged
from jaxfm.core.model_card import CardPart
from jaxfm.data.images.rows import ImageRows
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.image_models import write_image_model
from jaxfm.hub.image_positions import image_model_problem
from jaxfm.hub.image_processors import write_image_processor
from jaxfm.models.attention_maps import last_attention
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.observe.image_sheets import lit
from jaxfm.tasks.class_targets import predicted_targets
from jaxfm.tasks.explaining import explained_arrays
from jaxfm.tasks.image_classification.explaining import explained_images
from jaxfm.tasks.image_classification.spec import ImageClassifierSpec
from jaxfm.tasks.image_rows import image_rows
from jaxfm.tasks.segment_scorer import per_segment

HEAD = "image_classes"
_CARD_LABELS = 50  # that the model card names
_SHOWN = 3  # likeliest classes that are printed
_PROBLEM_TYPES = {"single": "single_label_classification", "multi": "multi_label_classification"}


@dataclasses.dataclass(frozen=True)
class EncodedImages:
    """Records and the rows of their images."""

    names: tuple[str, ...]
    rows: ImageRows


@dataclasses.dataclass(frozen=True)
class ImageClassifierPredictor:
    """Images in, classes out (implements Predictor, ReadsImages and ExplainsResults of core.task, and
    core.judging.JudgesImages).

    Attributes:
      spec: of the classifier.
      calibration: that the run fitted.
      attention: outputs have what the last layer attends to.
    """

    spec: ImageClassifierSpec
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)
    attention: bool = False

    records_at_once = 512
    takes_words = False
    splitters = ()
    pairs = False
    reads_texts = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.spec.labels

    def with_splitter(self, splitter: str) -> "ImageClassifierPredictor":
        """Never called: an image has no words."""
        raise AssertionError(splitter)

    def outputs(self, model: ImageClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See ImageClassifierSpec.outputs; with `attention` also that, f32 [B, T]."""
        found = self.spec.outputs(model, batch)
        return found | {"attention": last_attention(model.encoder, batch)} if self.attention else found

    def with_pictures(self) -> "ImageClassifierPredictor":
        """Returns the same, whose outputs have what pictures need."""
        return dataclasses.replace(self, attention=True)

    def pictures(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Returns of each image its pixels uint8 [H, W, C], and the same lit where the last layer attends to it."""
        shown = []
        for image, (row, segment) in enumerate(encoded.rows.example_locations.tolist()):
            pixels = encoded.rows.image(image)
            weights = encoded.rows.of_patches(outputs["attention"], row, segment)
            shown.append({"image": pixels, "attention": lit(pixels, weights, encoded.rows.settings.patch)})
        return shown

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedImages:
        """Makes rows of {"image": StoredImage}; an image that cannot be decoded is a UserError that names it."""
        images: list[StoredImage] = [record["image"] for record in records]
        return EncodedImages(tuple(image.origin for image in images), image_rows(self.spec, images))

    def decode(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns "image" (its name) with "label", "score" and all "scores", or with "labels" and "scores".

        Scores are probabilities, calibrated on the validation split of the run where it had one.
        """
        found_EC = probabilities(per_segment(encoded.rows, outputs["outputs"]), self.calibration, self.spec.kind)
        results = []
        predicted = predicted_targets(self.spec.kind, self.spec.labels, self.spec.threshold, found_EC)
        for name, shares_C, said in zip(encoded.names, found_EC, predicted, strict=True):
            scores = {label: round(float(share), 4) for label, share in zip(self.labels, shares_C, strict=True)}
            found = {"label": said, "score": scores[said]} if self.spec.kind == "single" else {"labels": list(said)}
            results.append({"image": name, **found, "scores": scores})
        return results

    def judge_problem(self) -> str:
        """See core.judging.JudgesImages."""
        return "" if self.spec.kind == "single" else "its images have several labels each; a judge names one class."

    def judging_outputs(self, model: ImageClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "outputs", logits f32 [B, S, C], and "features" f32 [B, S, D]."""
        features = model.features(batch)
        return {"outputs": model.logits(features), "features": features.astype(jnp.float32)}

    def judged(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> Judged:
        """Returns the likeliest class of each image, and what the last layer reads of it."""
        best_E = per_segment(encoded.rows, outputs["outputs"]).argmax(axis=-1)
        return Judged([self.labels[best] for best in best_E.tolist()], per_segment(encoded.rows, outputs["features"]))

    explains_pairs = False

    def explain_problem(self) -> str:
        """Returns "": all results can be explained."""
        return ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> EncodedImages:
        """See `encode`."""
        return self.encode(records)

    def explained_outputs(self, model: ImageClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, S, C]."""
        return explained_arrays(model(batch), "softmax" if self.spec.kind == "single" else "sigmoid")

    def explained(self, encoded: EncodedImages, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what the likeliest class, or each label that holds, is due to."""
        found_EC = probabilities(per_segment(encoded.rows, outputs["outputs"]), self.calibration, self.spec.kind)
        return explained_images(self.spec, encoded.rows, self.decode(encoded, outputs), found_EC)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the image's name, then the likeliest classes, or the labels that hold."""
        ranked = sorted(result["scores"].items(), key=lambda entry: -entry[1])
        if "label" in result:
            shown = ranked[:_SHOWN]
        else:
            shown = [(label, score) for label, score in ranked if label in result["labels"]]
        return [result["image"], *([f"  {score:.3f}  {label}" for label, score in shown] or ["  (no label)"])]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        spec = self.spec
        if problem := missing_class(spec.encoder, HEAD):
            return problem
        if problem := image_model_problem(spec.encoder, spec.layout):
            return problem
        own = spec.encoder.patches.pooling
        if spec.pooling != own:
            return (
                f"--format=hf: transformers' ForImageClassification of family {spec.encoder.family!r} judges by "
                f"{own!r}, but this run was trained with config.task.pooling={spec.pooling}."
            )
        return ""

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForImageClassification and AutoImageProcessor open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        extra = {"problem_type": _PROBLEM_TYPES[self.spec.kind]}
        write_image_model(
            folder,
            self.spec.encoder,
            head=HEAD,
            params=params,
            layout=self.spec.layout,
            labels=self.labels,
            extra=extra,
        )
        write_image_processor(folder, self.spec.layout)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        names = ", ".join(f"`{name}`" for name in self.labels[:_CARD_LABELS])
        more = f" and {len(self.labels) - _CARD_LABELS:,} more" if len(self.labels) > _CARD_LABELS else ""
        does = (
            f"Puts images into one of the classes {names}{more}."
            if self.spec.kind == "single"
            else f"Says which of these labels images have: {names}{more}."
        )
        options = "" if self.spec.kind == "single" else ", top_k=None"
        code = (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("image-classification", model="DIRECTORY"{options})\nclassify("image.png")'
        )
        side = self.spec.layout.side
        reads = f"It reads {side} x {side} pixels of an image." if side else "It reads images in their own shape."
        scores = "Scores of transformers are the model's own probabilities; those of jaxfm are calibrated."
        return CardPart("Image classification", "image-classification", does, code, f"{scores} {reads}")
