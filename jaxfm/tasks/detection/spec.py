"""A model that finds objects beside its weights, and its config keys."""

# B batch, S segments (images in a row), M most objects of an image, Q detection tokens, C classes

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.models.detector import Detector
from jaxfm.models.inputs.patches import PatchInputs, fields
from jaxfm.schema import field
from jaxfm.tasks.image_options import ImageConfig

NAME = "detection"
LABELS, BOXES = "labels", "boxes"


@dataclasses.dataclass(frozen=True)
class BoxAugmentConfig:
    """Changes of training images, drawn on the device for each image and step; boxes move with them.

    What turns, shears or mixes images is left out: boxes around what it makes are not known.
    """

    flip: bool = field(False, "half of the images are mirrored, left for right")
    crop: float = field(
        0.0, "least share of the area of a random crop, resized back; objects of which less than a quarter is left are "
        "no longer looked for; 0: none",
        at_least=0.0, at_most=1.0,
    )  # fmt: skip
    pad_crop: int = field(0, "most pixels that an image is shifted by, black where nothing is; 0: none", at_least=0)
    erase: float = field(
        0.0, "share of the images in which a rectangle is erased (Zhong et al. 2020)", at_least=0.0, at_most=1.0
    )


@dataclasses.dataclass(frozen=True)
class DetectionLossConfig:
    """What is minimised, and by which costs objects are given to detection tokens (Carion et al. 2020, DETR)."""

    no_object: float = field(0.1, "weight of a token without object in the cross-entropy", above=0.0, at_most=1.0)
    boxes: float = field(5.0, "weight of the differences of middles and sides, in loss and costs", at_least=0.0)
    overlap: float = field(2.0, "weight of the generalised overlap (GIoU), in loss and costs", at_least=0.0)
    classes: float = field(1.0, "weight of the cross-entropy of classes in the loss", at_least=0.0)
    patches: float = field(
        0.0,
        "weight of the same loss at the patches of an image, each of which is to find the object that it lies in; it "
        "is of training alone: detection tokens are what finds; 0: none",
        at_least=0.0,
    )
    class_cost: float = field(1.0, "weight of the probability of the class in the costs", at_least=0.0)


@dataclasses.dataclass(frozen=True)
class DetectionConfig(ImageConfig):
    """Objects in images."""

    name: str = field(NAME, "the task", choices=(NAME,))
    resize: str = field(
        "squash",
        "to image_size: whatever the shape (squash); native: its own shape in whole patches, as many as that square "
        "has at most (with data.packed=True several images share a row). Nothing is cut off, so that all boxes stay",
        choices=("squash", "native"),
    )
    detection_tokens: int = field(
        0, "most objects that are found in an image; 0: those of the weights or the preset, 100 where these have none",
        at_least=0, at_most=10_000,
    )  # fmt: skip
    threshold: float = field(0.5, "predict: probability from which an object is named", above=0.0, at_most=1.0)
    bad_boxes: str = field(
        "stop",
        "a box without area or outside its image (by more than a pixel) ends the run, or is left out and counted",
        choices=("stop", "skip"),
    )
    small_data: bool = field(False, "whether to start from scratch on fewer than 10,000 images")
    drawn_images: int = field(10_000, "training images of the quickstart, which are drawn", at_least=1)
    augment: BoxAugmentConfig = dataclasses.field(default_factory=BoxAugmentConfig)
    loss: DetectionLossConfig = dataclasses.field(default_factory=DetectionLossConfig)


@dataclasses.dataclass(frozen=True)
class DetectionSpec:
    """All that a trained model is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      labels: name of each class.
      encoder: shape of the encoder.
      layout: how an image becomes pixels.
      row_length: tokens of a row.
      segments: most images a row, S.
      packed: several images may share a row.
      objects: room for objects of an image in training rows, M.
      threshold: probability from which an object is named.
    """

    labels: tuple[str, ...]
    encoder: EncoderConfig
    layout: ImageLayout
    row_length: int
    segments: int
    packed: bool
    objects: int
    threshold: float

    @property
    def tokens(self) -> int:
        """Q."""
        return self.encoder.patches.detection_tokens

    def target_fields(self) -> dict[str, Field]:
        """Returns the fields of targets.

        Labels are -1 where an image has no such object; boxes are middle (column, row), width and height in shares.
        """
        return {
            LABELS: Field((self.segments, self.objects), fill=-1),
            BOXES: Field((self.segments, self.objects, 4), np.dtype(np.float32)),
        }

    def batch_spec(self) -> BatchSpec:
        """Rows of patches and the objects in them."""
        return {**fields(self.row_length, self.encoder.patches), **self.target_fields()}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> Detector:
        """Builds encoder and heads."""
        inputs = PatchInputs(self.encoder, build.dtype, rngs, mean=self.layout.mean, std=self.layout.std)
        return Detector(self.encoder, len(self.labels), build, rngs, segments=self.segments, inputs=inputs)

    def outputs(self, model: Detector, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "logits" f32 [B, S, Q, C + 1] and "boxes" f32 [B, S, Q, 4]; see `models.detector.Found`."""
        return model(batch)._asdict()
