"""Two towers beside their weights, and their config keys."""

# B batch, E vectors

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.core.towers import IMAGE_POOLINGS, TEXT_POOLINGS, TowersConfig
from jaxfm.models.inputs import text
from jaxfm.models.inputs.patches import PatchInputs, fields
from jaxfm.models.two_towers import TEXT, TwoTowers
from jaxfm.schema import field
from jaxfm.tasks.image_options import AugmentConfig, ImageConfig

NAME = "image_text"
# Of a key: as the pair has it that both families make (`tasks.image_text.towers`).
AUTO = "auto"
# Numbers of the image and of the text of a row, equal for equal ones: int32 [2].
NUMBERS = "numbers"
# Where the learned factor and bias start: Radford et al. 2021, section 2.4; Zhai et al. 2023, section 3.
START = {"infonce": (1 / 0.07, 0.0), "sigmoid": (10.0, -10.0)}


@dataclasses.dataclass(frozen=True)
class ImageTextConfig(ImageConfig):
    """Images and their texts brought together, by an encoder each."""

    name: str = field(NAME, "the task", choices=(NAME,))
    loss: str = field(
        AUTO,
        "infonce: which text of the batch belongs to an image, and which image to a text (Radford et al. 2021); "
        "sigmoid: whether each two belong together (Zhai et al. 2023); auto: what a pair was trained with, or "
        "infonce",
        choices=(AUTO, "infonce", "sigmoid"),
        open=AUTO,
    )
    text_init: str = field(
        "",
        "weights of the text encoder, as model.init; scratch: text_preset with the tokenizer of model.tokenizer; "
        "empty: those that model.init has beside its image encoder, with all between both",
    )
    text_preset: str = field("", "shape of the text encoder, with text_init=scratch")
    image_pooling: str = field(
        AUTO,
        "an image's vector: of its class token; the same after a dense layer (pooler); the mean over its patches; "
        "attention of a learned vector over them (map); auto: as a pair of both families has it, or cls",
        choices=(AUTO, *IMAGE_POOLINGS),
        open=AUTO,
    )
    text_pooling: str = field(
        AUTO,
        "a text's vector, likewise, or that of its last token (last); auto: as a pair has it, or mean",
        choices=(AUTO, *TEXT_POOLINGS),
        open=AUTO,
    )
    dimension: int = field(0, "numbers of a vector; 0: as a pair has it, or 256", at_least=0, open=0)
    text_length: int = field(64, "tokens of a text that are read", at_least=4)
    label_prompt: str = field(
        "",
        "text of a class, {} standing for its name (a photo of a {}): labels of the source then measure zero-shot "
        "classification; empty: labels are not read",
    )
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)


@dataclasses.dataclass(frozen=True)
class ImageTextSpec:
    """All that two trained towers are beside their weights (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the image tower.
      text_encoder: shape of the text tower.
      layout: how an image becomes pixels.
      row_length: tokens of an image's row.
      text_length: tokens of a text's row.
      image_pooling: of `IMAGE_POOLINGS`.
      text_pooling: of `TEXT_POOLINGS`.
      dimension: numbers of a vector.
      loss: that they were trained with.
      image_projection: see `TowersConfig`.
      text_bias: likewise.
      label_prompt: text of a class; "" where no classes are known.
      labels: classes of the source.
    """

    encoder: EncoderConfig
    text_encoder: EncoderConfig
    layout: ImageLayout
    row_length: int
    text_length: int
    image_pooling: str
    text_pooling: str
    dimension: int
    loss: str
    label_prompt: str
    labels: tuple[str, ...]
    image_projection: bool = True
    text_bias: bool = False

    packed = False
    segments = 1

    def batch_spec(self) -> BatchSpec:
        """A row is an image and its text."""
        return {**fields(self.row_length, self.encoder.patches), **self.text_fields(), NUMBERS: Field((2,), fill=-1)}

    def text_fields(self) -> BatchSpec:
        """Returns the fields of the texts, which no mesh cuts."""
        own = text.fields(self.text_length)
        return {f"{TEXT}{name}": dataclasses.replace(each, axes=()) for name, each in own.items()}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> TwoTowers:
        """Builds both towers."""
        inputs = PatchInputs(self.encoder, build.dtype, rngs, mean=self.layout.mean, std=self.layout.std)
        scale, bias = START[self.loss]
        return TwoTowers(self.towers, build, rngs, scale=scale, bias=bias, inputs=inputs)

    @property
    def towers(self) -> TowersConfig:
        """What determines the model's parameters and function, but for how pixels are scaled."""
        return TowersConfig(
            self.encoder, self.text_encoder, self.image_pooling, self.text_pooling, self.dimension,
            self.image_projection, self.text_bias, bias=self.loss == "sigmoid",
        )  # fmt: skip

    def outputs(self, model: TwoTowers, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors f32 [B, E] of images and texts, and the learned scale [B]."""
        images_BE, texts_BE = model(batch)
        return {"images": images_BE, "texts": texts_BE, "scale": jax.numpy.full(len(images_BE), model.scale)}


def probabilities(similarities: np.ndarray, scale: float) -> np.ndarray:
    """Returns shares [..., C] of similarities to C texts, as the softmax of training had them."""
    logits = similarities.astype(np.float64) * scale
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
