"""A model of hidden patches beside its weights, and its config keys."""

# B batch, T tokens, V values of a patch

import dataclasses
from typing import Any

from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.models.inputs.patches import PatchInputs, fields
from jaxfm.models.masked_images import MaskedAutoencoder, MaskedEncoder, decoder_config, visible_length
from jaxfm.schema import field
from jaxfm.tasks.image_options import AugmentConfig, ImageConfig

NAME = "masked_images"


@dataclasses.dataclass(frozen=True)
class MaskedImagesConfig(ImageConfig):
    """Prediction of the pixels of hidden patches."""

    name: str = field(NAME, "the task", choices=(NAME,))
    method: str = field(
        "mae",
        "mae: the encoder sees the other patches alone, a light decoder predicts (He et al. 2022); simmim: it sees a "
        "learned vector in their place, a linear map predicts (Xie et al. 2022)",
        choices=("mae", "simmim"),
    )
    ratio: float = field(0.75, "share of the patches that is hidden", at_least=0.1, at_most=0.95)
    normalize_target: bool = field(
        True, "pixels of a patch are predicted less its mean, over its deviation (He et al. 2022, table 1d)"
    )
    decoder_size: int = field(0, "mae: width of the decoder; 0: half of the encoder's, at most 512", at_least=0)
    decoder_layers: int = field(2, "mae: layers of the decoder", at_least=1)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)


@dataclasses.dataclass(frozen=True)
class MaskedImagesSpec:
    """All that a model of hidden patches is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the encoder.
      layout: how an image becomes pixels.
      row_length: tokens of a row.
      segments: most images a row.
      packed: several images may share a row.
      method: "mae" or "simmim".
      ratio: share of the patches that is hidden.
      normalize_target: of each patch.
      decoder_size: width of the decoder (mae).
      decoder_layers: its layers (mae).
    """

    encoder: EncoderConfig
    layout: ImageLayout
    row_length: int
    segments: int
    packed: bool
    method: str
    ratio: float
    normalize_target: bool
    decoder_size: int
    decoder_layers: int

    def batch_spec(self) -> BatchSpec:
        """Rows of patches; what is hidden is drawn on the device."""
        return fields(self.row_length, self.encoder.patches)

    @property
    def decoder(self) -> EncoderConfig:
        """Shape of the decoder (mae)."""
        return decoder_config(self.encoder, self.decoder_size, self.decoder_layers)

    @property
    def visible(self) -> int:
        """Most tokens of a row that the encoder sees."""
        if self.method == "simmim":
            return self.row_length
        return visible_length(self.row_length, self.encoder.patches.prefix, self.segments, self.ratio)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> Any:
        """Builds encoder and decoder, or encoder and linear map."""
        inputs = PatchInputs(self.encoder, build.dtype, rngs, mean=self.layout.mean, std=self.layout.std)
        if self.method == "simmim":
            return MaskedEncoder(self.encoder, build, rngs, inputs=inputs)
        return MaskedAutoencoder(self.encoder, build, rngs, decoder=self.decoder, visible=self.visible, inputs=inputs)
