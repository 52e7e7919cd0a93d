"""A model of hidden sound beside its weights, and its config keys."""

# B batch, S segments (clips in a row), K steps of a clip, C clusters

import dataclasses

from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings
from jaxfm.models.inputs.frames import FrameInputs, fields
from jaxfm.models.sound_steps import StepClassifier
from jaxfm.schema import field
from jaxfm.tasks.sound_options import SoundAugmentConfig, SoundConfig

NAME = "masked_sound"
# Of held-out rows: 1 at the first patch of steps that are hidden. int32 [T].
MASKED = "masked"


@dataclasses.dataclass(frozen=True)
class ClustersConfig:
    """What is predicted of hidden steps: the number of the nearest centre of k-means."""

    count: int = field(100, "number of clusters", at_least=2, at_most=10_000)
    features: str = field(
        "mel",
        "what is clustered: log-mel frames and how they change (mel), or hidden states of the weights of "
        "config.model.init (weights), for a second round",
        choices=("mel", "weights"),
    )
    layer: int = field(0, "weights: after how many layers hidden states are taken; 0: after half of them", at_least=0)


@dataclasses.dataclass(frozen=True)
class SpansConfig:
    """Which steps are hidden (Hsu et al. 2021, HuBERT: 0.08 and 10 steps of 20 ms)."""

    starts: float = field(0.08, "probability that a span begins at a step", above=0.0, at_most=1.0)
    length: int = field(10, "steps of a span; at most half of those of a recording", at_least=1, at_most=10_000)


@dataclasses.dataclass(frozen=True)
class MaskedSoundConfig(SoundConfig):
    """Prediction of the clusters of hidden steps."""

    name: str = field(NAME, "the task", choices=(NAME,))
    fresh: bool = field(
        False, "weights of config.model.init give hidden states to cluster alone; what is trained begins anew"
    )
    clusters: ClustersConfig = dataclasses.field(default_factory=ClustersConfig)
    spans: SpansConfig = dataclasses.field(default_factory=SpansConfig)
    augment: SoundAugmentConfig = dataclasses.field(default_factory=SoundAugmentConfig)


@dataclasses.dataclass(frozen=True)
class MaskedSoundSpec:
    """All that a model of hidden sound is beside its weights and clusters (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the encoder.
      layout: how a recording becomes frames.
      row_length: tokens of a row.
      segments: most clips a row, S.
      packed: several clips may share a row.
      clusters: C.
      features: "mel" or "weights" (`ClustersConfig.features`).
      layer: after how many layers hidden states are clustered; 0 of "mel".
      starts: probability that a span begins at a step.
      length: steps of a span.
    """

    encoder: EncoderConfig
    layout: SoundLayout
    row_length: int
    segments: int
    packed: bool
    clusters: int
    features: str
    layer: int
    starts: float
    length: int

    @property
    def settings(self) -> FrameSettings:
        """How clips become rows."""
        return FrameSettings(self.layout, self.encoder.patches)

    def batch_spec(self) -> BatchSpec:
        """Rows of clips and the cluster of each step; what is hidden is drawn on the device."""
        slots = self.settings.row_slots(self.row_length, packed=self.packed)
        own = fields(self.row_length, slots=slots, rate=self.layout.rate)
        return {**own, "labels": self.token_field(-1)}

    def token_field(self, fill: int) -> Field:
        """Returns a field with a number for each token."""
        return Field((self.row_length,), fill=fill, axes=("tokens",))

    def make_model(self, build: Build, rngs: nnx.Rngs) -> StepClassifier:
        """Builds encoder and head."""
        inputs = FrameInputs(self.encoder, build.dtype, rngs, self.layout)
        return StepClassifier(self.encoder, self.clusters, build, rngs, segments=self.segments, inputs=inputs)
