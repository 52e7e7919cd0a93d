"""A comparison of spans with labels beside its weights, and its config keys."""

import dataclasses
from collections.abc import Mapping

from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import more_fields, text_fields
from jaxfm.models.label_spans import LabelSpanScorer
from jaxfm.models.word_spans import FIRSTS, LASTS
from jaxfm.schema import field
from jaxfm.tasks.asked_labels import Label
from jaxfm.tasks.word_spans.encoding import SOURCES

NAME = "zero_shot_ner"
ANY, NESTED, FLAT = "any", "nested", "flat"
FITTED = 0.0  # of a threshold
USUAL_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class ZeroShotNerConfig:
    """Entities of any types, each given as a text: every span of words is compared with every label."""

    name: str = field(NAME, "the task", choices=(NAME,))
    more_sources: str = field(
        "",
        "sources that are read beside data.source, with commas between them; a type that a source does not annotate is "
        "not learned from it",
    )
    label_texts: str = field(
        "",
        'JSON file of texts that are read for types, {"PER": "person: the name of a human being"}; types that are not '
        "in it are read by their names",
    )
    negative_labels: str = field(
        "", "texts, with commas between them, that no entity of the sources is of: further labels of training"
    )
    label_length: int = field(32, "most tokens of a label's text; longer ones are refused", at_least=3)
    max_width: int = field(
        10, "most words of an entity; wider ones are counted before training and never found", at_least=1, at_most=64
    )
    overlaps: str = field(
        FLAT,
        "how entities may overlap: flat, not at all: of those that are found and overlap, the surest stays; nested, "
        "one inside the other; any, crossing too (data with entities that cross are refused else)",
        choices=(FLAT, NESTED, ANY),
    )
    threshold: float = field(
        FITTED,
        f"probability from which a span is an entity; 0: the one with the best F1 on the validation split, or "
        f"{USUAL_THRESHOLD} without one",
        at_least=0.0,
        at_most=1.0,
        open=FITTED,
    )
    span_size: int = field(256, "width of the layer over spans", at_least=1)
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


@dataclasses.dataclass(frozen=True)
class ZeroShotNerSpec:
    """All that such a model is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      labels: names of the types that spans are compared with.
      texts: what is read of each.
      negatives: texts of further labels of training.
      known_names: types whose texts a person gave, whether they are among the labels or not.
      known_texts: these texts.
      label_length: most tokens of a label.
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest example in tokens.
      overlap: tokens shared by neighbouring windows of one sentence.
      splitter: the rule of `jaxfm.data.text.words` that splits raw text.
      max_width: most words of a span.
      span_size: width of the layer over spans.
      overlaps: "flat", "nested" or "any".
      threshold: probability from which a span is an entity; 0: as fitted.
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    negatives: tuple[str, ...]
    known_names: tuple[str, ...]
    known_texts: tuple[str, ...]
    label_length: int
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
    def known(self) -> dict[str, str]:
        """Type -> text that a person gave."""
        return dict(zip(self.known_names, self.known_texts, strict=True))

    @property
    def named_labels(self) -> tuple[Label, ...]:
        """The labels that spans are compared with."""
        return tuple(map(Label, self.labels, self.texts))

    @property
    def index(self) -> dict[str, int]:
        """Label -> its class; 0 is no entity."""
        return {label: number for number, label in enumerate(self.labels, start=1)}

    def with_labels(self, labels: tuple[Label, ...]) -> "ZeroShotNerSpec":
        """Returns the same with other labels, and without negatives."""
        names, texts = tuple(each.name for each in labels), tuple(each.text for each in labels)
        return dataclasses.replace(self, labels=names, texts=texts, negatives=())

    def threshold_of(self, calibration: Mapping[str, float]) -> float:
        """Returns the probability from which a span is an entity, of what a run fitted."""
        return self.threshold or calibration.get("threshold", USUAL_THRESHOLD)

    def batch_spec(self) -> BatchSpec:
        """Packed text, the pieces of words, the source of each token, and a class a span [T, K], -1 if not owned."""
        labels = Field((self.row_length, self.max_width), fill=-1, axes=("tokens",))
        more = more_fields(self.row_length, (FIRSTS, LASTS, SOURCES))
        return text_fields(self.row_length) | {"labels": labels} | more

    def make_model(self, build: Build, rngs: nnx.Rngs) -> LabelSpanScorer:
        """Builds encoder and head."""
        return LabelSpanScorer(self.encoder, self.max_width, self.span_size, build, rngs)
