"""A classifier of clips beside its weights, and its config keys."""

# B batch, T tokens, S segments (clips in a row), C classes

import dataclasses
from collections.abc import Mapping

import jax
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings
from jaxfm.models.inputs.frames import FrameInputs, fields
from jaxfm.models.sound_classifier import SoundClassifier
from jaxfm.schema import field
from jaxfm.tasks.losses import LossConfig
from jaxfm.tasks.sound_options import SoundAugmentConfig, SoundConfig

NAME = "audio_classification"


@dataclasses.dataclass(frozen=True)
class AudioClassificationConfig(SoundConfig):
    """Classification of sound."""

    name: str = field(NAME, "the task", choices=(NAME,))
    kind: str = field("single", "one class; several labels that may hold together (multi)", choices=("single", "multi"))
    pooling: str = field(
        "tokens",
        "what a recording is judged by: the mean of its learned tokens (tokens, as transformers' class), or "
        "that over its "
        "patches (mean)",
        choices=("tokens", "mean"),
    )
    threshold: float = field(0.5, "multi: probability from which a label holds", above=0.0, at_most=1.0)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    augment: SoundAugmentConfig = dataclasses.field(default_factory=SoundAugmentConfig)


@dataclasses.dataclass(frozen=True)
class AudioClassifierSpec:
    """All that a trained classifier of clips is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      kind: "single" or "multi" (`AudioClassificationConfig.kind`).
      labels: name of each class.
      encoder: shape of the encoder.
      pooling: "tokens" or "mean".
      layout: how a recording becomes frames.
      row_length: tokens of a row.
      segments: most clips a row, S.
      packed: several clips may share a row.
      threshold: multi: probability from which a label holds.
    """

    kind: str
    labels: tuple[str, ...]
    encoder: EncoderConfig
    pooling: str
    layout: SoundLayout
    row_length: int
    segments: int
    packed: bool
    threshold: float

    @property
    def settings(self) -> FrameSettings:
        """How clips become rows."""
        return FrameSettings(self.layout, self.encoder.patches)

    def batch_spec(self) -> BatchSpec:
        """Rows of clips and their targets."""
        slots = self.settings.row_slots(self.row_length, packed=self.packed)
        return {**fields(self.row_length, slots=slots, rate=self.layout.rate), "labels": self.label_field()}

    def label_field(self) -> Field:
        """Returns the field of targets: [S], for several labels [S, C]; -1 where a row has no such clip."""
        return Field((self.segments, *((len(self.labels),) if self.kind == "multi" else ())), fill=-1)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> SoundClassifier:
        """Builds encoder and head."""
        return SoundClassifier(
            self.encoder,
            len(self.labels),
            build,
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            inputs=FrameInputs(self.encoder, build.dtype, rngs, self.layout),
        )

    def outputs(self, model: SoundClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns logits f32 [B, S, C]."""
        return {"outputs": model(batch)}
