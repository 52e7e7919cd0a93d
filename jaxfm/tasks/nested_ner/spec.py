"""A span classifier beside its weights, and its config keys."""

# B batch, T tokens, K widths, C classes

import dataclasses
from collections.abc import Mapping

import jax
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import more_fields, text_fields
from jaxfm.models.word_spans import FIRSTS, LASTS, WordSpanClassifier
from jaxfm.schema import field
from jaxfm.tasks.losses import LossConfig

NAME = "nested_ner"
ANY, NESTED, FLAT = "any", "nested", "flat"


@dataclasses.dataclass(frozen=True)
class NestedNerConfig:
    """Entities that may lie inside each other: every span of words up to a width is scored."""

    name: str = field(NAME, "the task", choices=(NAME,))
    max_width: int = field(
        10, "most words of an entity; wider ones are counted before training and never found", at_least=1, at_most=64
    )
    overlaps: str = field(
        NESTED,
        "how entities may overlap: nested, one inside the other (data with entities that cross are refused); any, "
        "crossing too; flat, not at all: of those that are found and overlap, the surest stays",
        choices=(NESTED, ANY, FLAT),
    )
    threshold: float = field(
        0.5,
        "probability from which a span is an entity, as the model gives it before calibration",
        above=0.0,
        at_most=1.0,
    )
    span_size: int = field(150, "width of the layer over spans", at_least=1)
    overlap: int = field(
        32,
        "tokens shared by neighbouring windows of a sentence that fits no window; an entity must fit into it to be "
        "found wherever it lies",
        at_least=0,
    )
    splitter: str = field(
        "auto",
        "what splits raw text into words: fine (each mark a word), coarse (as news corpora), auto: fine where entities "
        "are given in characters, else the nearest to the words of training",
        choices=("auto", "fine", "coarse"),
    )
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)


@dataclasses.dataclass(frozen=True)
class NestedNerSpec:
    """All that a trained span classifier is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      labels: of each class; the first is no entity.
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest example in tokens.
      overlap: tokens shared by neighbouring windows of one sentence.
      splitter: the rule of `jaxfm.data.text.words` that splits raw text.
      max_width: most words of a span.
      span_size: width of the layer over spans.
      overlaps: "nested", "any" or "flat".
      threshold: probability from which a span is an entity.
    """

    labels: tuple[str, ...]
    encoder: EncoderConfig
    row_length: int
    window: int
    overlap: int
    splitter: str
    max_width: int
    span_size: int
    overlaps: str
    threshold: float

    @property
    def index(self) -> dict[str, int]:
        """Label -> its class."""
        return {label: number for number, label in enumerate(self.labels)}

    def batch_spec(self) -> BatchSpec:
        """Packed text, the pieces of words, and a class a span [T, K], -1 but for those that a window owns."""
        labels = Field((self.row_length, self.max_width), fill=-1, axes=("tokens",))
        return text_fields(self.row_length) | {"labels": labels} | more_fields(self.row_length, (FIRSTS, LASTS))

    def make_model(self, build: Build, rngs: nnx.Rngs) -> WordSpanClassifier:
        """Builds encoder and head."""
        return WordSpanClassifier(self.encoder, len(self.labels), self.max_width, self.span_size, build, rngs)

    def outputs(self, model: WordSpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "logits" [B, T, K, C] of all spans."""
        return {"logits": model(batch)}
