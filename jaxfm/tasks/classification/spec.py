"""A classifier beside its weights, its config keys, and texts to packed rows."""

# B batch, T tokens, S segments (examples in a row), C classes, E examples

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.exits import ExitForm
from jaxfm.data.text.packing import PackedRows, build_rows, text_fields
from jaxfm.models.heads import SequenceClassifier
from jaxfm.schema import field
from jaxfm.tasks.losses import LossConfig
from jaxfm.tasks.perturbed_copies import PerturbConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "classification"
_TEXTS_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take


@dataclasses.dataclass(frozen=True)
class ClassificationConfig:
    """Classification of texts and pairs of texts: what an example is judged by, and what is said of it."""

    name: str = field(NAME, "the task", choices=(NAME,))
    kind: str = field(
        "single",
        "one class; several labels that may hold together (multi); a number (regression)",
        choices=("single", "multi", "regression"),
    )
    pooling: str = field(
        "cls",
        "the vector an example is judged by: of its first token, or the mean over its tokens",
        choices=("cls", "mean"),
    )
    threshold: float = field(0.5, "multi: probability from which a label holds", above=0.0, at_most=1.0)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    perturb: PerturbConfig = dataclasses.field(default_factory=PerturbConfig)


@dataclasses.dataclass(frozen=True)
class ClassifierSpec:
    """All that a trained classifier is beside its weights (implements Spec and LeavesEarly of jaxfm.core).

    Attributes:
      kind: "single", "multi" or "regression" (`ClassificationConfig.kind`).
      labels: name of each class; of the one number for regression.
      encoder: shape of the encoder.
      pooling: "cls" or "mean".
      pairs: whether an example has two texts.
      row_length: tokens a packed row.
      window: longest example in tokens; longer ones are cut.
      segments: most examples a row, S.
      threshold: multi: probability from which a label holds.
      exits: numbers of layers after which there is an early head.
      exit_pooling: of early heads, as `pooling`.
    """

    kind: str
    labels: tuple[str, ...]
    encoder: EncoderConfig
    pooling: str
    pairs: bool
    row_length: int
    window: int
    segments: int
    threshold: float
    exits: tuple[int, ...] = ()
    exit_pooling: str = "cls"

    @property
    def has_types(self) -> bool:
        """Whether the tokens of a second text have a type of their own."""
        return self.pairs and self.encoder.type_vocab_size > 1

    def batch_spec(self) -> BatchSpec:
        """Packed text and the targets of the examples of a row."""
        return text_fields(self.row_length, types=self.has_types) | {"labels": self.label_field()}

    def label_field(self) -> Field:
        """Returns the field of targets: [S], for several labels [S, C]; -1 where a row has no such segment."""
        if self.kind == "regression":
            return Field((self.segments,), np.dtype(np.float32), -1)
        return Field((self.segments, *((len(self.labels),) if self.kind == "multi" else ())), fill=-1)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> SequenceClassifier:
        """Builds encoder and head."""
        return SequenceClassifier(
            self.encoder,
            len(self.labels),
            build,
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            exits=self.exits,
            exit_pooling=self.exit_pooling,
        )

    @property
    def exit_form(self) -> ExitForm:
        """How sure it is of an example, by its logits."""
        return ExitForm("outputs", self.kind, of_tokens=False)

    def exit_problem(self) -> str:
        """Returns why numbers are refused: nothing says how sure one is."""
        return "nothing says how sure it is of a number (task.kind=regression)" if self.kind == "regression" else ""

    def outputs(self, model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns logits or numbers, f32 [B, S, C]."""
        return {"outputs": model(batch)}


def valid_segments(segment_ids_BT: jax.Array, segments: int) -> jax.Array:
    """Returns which segments [B, S] a row has."""
    return jnp.arange(segments) < segment_ids_BT.max(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class EncodedExamples:
    """Examples as packed rows.

    Attributes:
      rows: what is computed.
      cut: bool [E], which examples were longer than the window, so that their ends are not read.
    """

    rows: PackedRows
    cut: np.ndarray

    def per_example(self, values_NSC: np.ndarray) -> np.ndarray:
        """Returns the value [E, ...] of each example, in the order they were given."""
        return values_NSC[self.rows.example_locations[:, 0], self.rows.example_locations[:, 1]]


def tokenize(
    spec: ClassifierSpec, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[tuple[str, str | None]]
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Returns pieces and token types of each example, special tokens included, and bool [E]: which had to be cut.

    Of a pair the longer text loses tokens first (as transformers' "longest_first").
    """
    tokens: list[np.ndarray] = []
    types: list[np.ndarray] = []
    cut: list[bool] = []
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        for encoding in encodings(spec, tokenizer, texts[first : first + _TEXTS_PER_CALL]):
            tokens.append(np.asarray(encoding.ids, np.int32))
            types.append(np.asarray(encoding.type_ids, np.int32))
            cut.append(bool(encoding.overflowing))
    return tokens, types, np.asarray(cut, bool)


def encodings(
    spec: ClassifierSpec, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[tuple[str, str | None]]
) -> Sequence[Any]:
    """Returns the encoding (of the tokenizers library) of each example, cut to the window."""
    batch = tokenizer(
        [text for text, _ in texts],
        [pair or "" for _, pair in texts] if spec.pairs else None,
        truncation="longest_first",
        max_length=spec.window,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )
    return batch.encodings or ()


def encode(
    spec: ClassifierSpec,
    tokenizer: "PreTrainedTokenizerFast",
    texts: Sequence[tuple[str, str | None]],
    targets: np.ndarray | None = None,
    seed: int | None = None,
    tokenized: Any = None,
) -> EncodedExamples:
    """Tokenizes and packs; with a seed the examples are shuffled before packing (training).

    Args:
      spec: says how long rows and examples may be.
      tokenizer: of the weights.
      texts: text and second text (None: absent) of each example.
      targets: [E] class numbers (single) or numbers (regression), [E, C] 0 or 1 (multi); None: not known.
      seed: of the order.
      tokenized: what `tokenize` gives for the texts, where that is known already.
    """
    tokens, types, cut = tokenize(spec, tokenizer, texts) if tokenized is None else tokenized
    if targets is None:
        labels = spec.label_field()
        targets = np.full((len(texts), *labels.shape[1:]), -1, labels.dtype)
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    types = types if spec.has_types else None
    rows = build_rows(tokens, targets, spec.row_length, pad_id, seed, max_segments=spec.segments, type_ids=types)
    return EncodedExamples(rows, cut)
