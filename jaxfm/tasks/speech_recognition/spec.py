"""A recogniser of speech beside its weights, and its config keys."""

# B batch, S segments (clips in a row), K steps of a clip, N candidates a step, L symbols of a transcript

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings
from jaxfm.models.inputs.frames import FrameInputs, fields
from jaxfm.models.sound_steps import StepClassifier, StepScores
from jaxfm.schema import field
from jaxfm.tasks.sound_options import SoundAugmentConfig, SoundConfig

NAME = "speech_recognition"


@dataclasses.dataclass(frozen=True)
class CtcDecodingConfig:
    """How symbols are found in what a model says of each step."""

    method: str = field(
        "beam",
        "the transcript that is likeliest over all its alignments, as a search over prefixes finds it (beam), or the "
        "likeliest symbol of each step (greedy), which is faster",
        choices=("greedy", "beam"),
    )
    beams: int = field(8, "beam: prefixes that are kept at each step", at_least=1, at_most=1_000)
    candidates: int = field(
        16, "beam: likeliest symbols of each step that are tried, above 0.1 %", at_least=1, at_most=1_000
    )


@dataclasses.dataclass(frozen=True)
class JoinConfig:
    """Clips joined to longer ones."""

    clips: int = field(1, "clips that are joined to one at most, by lot; 1: clips stay as they are", at_least=1)
    fewest: int = field(0, "clips of a joined one at least; 0: as many as at most", at_least=0)
    examples: int = field(0, "joined clips of the training split; 0: as many as it has clips", at_least=0)
    column: str = field("", "column whose value clips must share to be joined, such as the speaker; empty: any are")
    gap: float = field(0.2, "most seconds of silence between two", at_least=0.0, at_most=10.0)


@dataclasses.dataclass(frozen=True)
class SpeechRecognitionConfig(SoundConfig):
    """Recognition of speech by CTC."""

    name: str = field(NAME, "the task", choices=(NAME,))
    lower: bool = field(True, "transcripts are learned and scored in lower case")
    spell_digits: bool = field(False, "digits in transcripts are spelled out in English, each as a word: 7, seven")
    unfit: str = field(
        "stop",
        "a training recording that is longer than what is read, or too short for its transcript, ends the run, or "
        "teaches nothing and is counted (skip)",
        choices=("stop", "skip"),
    )
    decoding: CtcDecodingConfig = dataclasses.field(default_factory=CtcDecodingConfig)
    join: JoinConfig = dataclasses.field(default_factory=JoinConfig)
    augment: SoundAugmentConfig = dataclasses.field(default_factory=SoundAugmentConfig)


@dataclasses.dataclass(frozen=True)
class SpeechRecognizerSpec:
    """All that a trained recogniser is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      symbols: characters that transcripts are made of; number 0 of the head is the blank, symbol i its number i + 1.
      encoder: shape of the encoder.
      layout: how a recording becomes frames.
      row_length: tokens of a row.
      segments: most clips a row, S.
      packed: several clips may share a row.
      label_length: most symbols of a transcript, L.
      longest: frames of the longest training clip; 0: not known.
      lower: transcripts are in lower case.
      spell_digits: their digits are spelled out.
      decoding: how symbols are found.
    """

    symbols: tuple[str, ...]
    encoder: EncoderConfig
    layout: SoundLayout
    row_length: int
    segments: int
    packed: bool
    label_length: int
    longest: int
    lower: bool
    spell_digits: bool
    decoding: CtcDecodingConfig

    @property
    def settings(self) -> FrameSettings:
        """How clips become rows."""
        return FrameSettings(self.layout, self.encoder.patches)

    def batch_spec(self) -> BatchSpec:
        """Rows of clips and the symbols of their transcripts."""
        slots = self.settings.row_slots(self.row_length, packed=self.packed)
        own = fields(self.row_length, slots=slots, rate=self.layout.rate)
        return {**own, "labels": self.label_field(self.label_length)}

    def label_field(self, length: int) -> Field:
        """Returns the field of targets, [S, length]; 0 after the last symbol."""
        return Field((self.segments, length))

    def make_model(self, build: Build, rngs: nnx.Rngs) -> StepClassifier:
        """Builds encoder and head."""
        return StepClassifier(
            self.encoder,
            len(self.symbols) + 1,
            build,
            rngs,
            segments=self.segments,
            inputs=FrameInputs(self.encoder, build.dtype, rngs, self.layout),
        )

    def outputs(self, model: StepClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the likeliest symbols of each step; see `candidates`."""
        return self.candidates(model(batch))

    def candidates(self, scores: StepScores) -> dict[str, jax.Array]:
        """Returns "ids" int32 [B, S, K, N], "log_probs" f32 of the same shape, "blank" f32 [B, S, K].

        These are the likeliest symbols but the blank, their log probabilities and that of the blank; greedy decoding
        needs one. Steps after the end of a clip are unspecified.
        """
        log_probs = jax.nn.log_softmax(scores.logits_BSKC)
        found, ids = jax.lax.top_k(log_probs[..., 1:], min(_candidates(self.decoding), len(self.symbols)))
        return {"ids": (ids + 1).astype(jnp.int32), "log_probs": found, "blank": log_probs[..., 0]}


def _candidates(decoding: CtcDecodingConfig) -> int:
    """Returns how many symbols of a step decoding looks at."""
    return 1 if decoding.method == "greedy" else decoding.candidates
