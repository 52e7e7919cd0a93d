"""A classifier of images beside its weights, and its config keys."""

# B batch, T tokens, S segments (images in a row), C classes

import dataclasses
from collections.abc import Mapping

import jax
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.models.inputs.patches import PatchInputs, fields
from jaxfm.schema import field
from jaxfm.tasks.image_options import AugmentConfig, ImageConfig
from jaxfm.tasks.losses import LossConfig

NAME = "image_classification"


@dataclasses.dataclass(frozen=True)
class ImageClassificationConfig(ImageConfig):
    """Classification of images."""

    name: str = field(NAME, "the task", choices=(NAME,))
    kind: str = field("single", "one class; several labels that may hold together (multi)", choices=("single", "multi"))
    pooling: str = field(
        "auto",
        "what an image is judged by: its class token (cls), the mean over its patches, both (cls_mean); auto: as "
        "transformers' class of the weights, cls of scratch",
        choices=("auto", "cls", "mean", "cls_mean"),
    )
    threshold: float = field(0.5, "multi: probability from which a label holds", above=0.0, at_most=1.0)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)


@dataclasses.dataclass(frozen=True)
class ImageClassifierSpec:
    """All that a trained classifier of images is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      kind: "single" or "multi" (`ImageClassificationConfig.kind`).
      labels: name of each class.
      encoder: shape of the encoder.
      pooling: "cls", "mean" or "cls_mean".
      layout: how an image becomes pixels.
      row_length: tokens of a row.
      segments: most images a row, S.
      packed: several images may share a row.
      threshold: multi: probability from which a label holds.
    """

    kind: str
    labels: tuple[str, ...]
    encoder: EncoderConfig
    pooling: str
    layout: ImageLayout
    row_length: int
    segments: int
    packed: bool
    threshold: float

    def batch_spec(self) -> BatchSpec:
        """Rows of patches and the targets of their images."""
        return {**fields(self.row_length, self.encoder.patches), "labels": self.label_field()}

    def label_field(self) -> Field:
        """Returns the field of targets: [S], for several labels [S, C]; -1 where a row has no such image."""
        return Field((self.segments, *((len(self.labels),) if self.kind == "multi" else ())), fill=-1)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> ImageClassifier:
        """Builds encoder and head."""
        inputs = PatchInputs(self.encoder, build.dtype, rngs, mean=self.layout.mean, std=self.layout.std)
        return ImageClassifier(
            self.encoder,
            len(self.labels),
            build,
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            inputs=inputs,
        )

    def outputs(self, model: ImageClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns logits f32 [B, S, C]."""
        return {"outputs": model(batch)}
