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
from jaxfm.models.prompted import PromptedClassifier
from jaxfm.schema import field
from jaxfm.tasks.classification.few_labels import (
    AUTO,
    FAMILY,
    FITS,
    GRADIENT,
    HEADS,
    LINEAR,
    POOLINGS,
    ContrastiveConfig,
    PromptConfig,
)
from jaxfm.tasks.classification.prompts import Prompt, tokenize_prompts
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
        AUTO,
        "the vector an example is judged by: of its first token (cls), or the mean over its tokens; auto: the first "
        "token's, but of a linear head as the first weights were trained (modules.json of sentence-transformers), else "
        "the mean",
        choices=(AUTO, *POOLINGS),
        open=AUTO,
    )
    head: str = field(
        FAMILY,
        "what scores that vector: with the dense layer that the family has there, or one layer alone, as that of a "
        "sentence encoder needs no other (linear)",
        choices=HEADS,
    )
    normalize: bool | None = field(
        None, "of a linear head: the vector has length 1; None: as the first weights were trained", open=None
    )
    fit: str = field(
        GRADIENT,
        "how it is learned: gradient, encoder and head as train says; logistic_regression, the head alone, by scikit-"
        "learn on vectors of the encoder as it is; setfit, the same after the encoder was trained, as train says, on "
        "pairs of the examples (Tunstall et al. 2022); none, not at all",
        choices=FITS,
    )
    shots: int = field(0, "training examples of each class, drawn by the seed; 0: all", at_least=0)
    l2_penalty: float = field(
        1.0, "of logistic_regression and setfit: weight of the squared weights, 1 / C of scikit-learn", above=0.0
    )
    contrastive: ContrastiveConfig = dataclasses.field(default_factory=ContrastiveConfig)
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
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
      head: "family" or "linear".
      normalize: of a linear head: the vector has length 1.
      prompt: a masked-LM head in its place, where it has a pattern.
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
    head: str = FAMILY
    normalize: bool = False
    prompt: Prompt = Prompt()

    @property
    def has_types(self) -> bool:
        """Whether the tokens of a second text have a type of their own."""
        return self.pairs and self.encoder.type_vocab_size > 1 and not self.prompt.pattern

    def batch_spec(self) -> BatchSpec:
        """Packed text and the targets of the examples of a row."""
        return text_fields(self.row_length, types=self.has_types) | {"labels": self.label_field()}

    def label_field(self) -> Field:
        """Returns the field of targets: [S], for several labels [S, C]; -1 where a row has no such segment."""
        if self.kind == "regression":
            return Field((self.segments,), np.dtype(np.float32), -1)
        return Field((self.segments, *((len(self.labels),) if self.kind == "multi" else ())), fill=-1)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> SequenceClassifier | PromptedClassifier:
        """Builds encoder and head."""
        prompt = self.prompt
        if prompt.pattern:
            tokens: dict[str, Any] = {"words": prompt.words, "classes": prompt.classes}
            return PromptedClassifier(
                self.encoder, build, rngs, mask_token=prompt.mask_token, segments=self.segments, **tokens
            )
        return SequenceClassifier(
            self.encoder,
            len(self.labels),
            build,
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            exits=self.exits,
            exit_pooling=self.exit_pooling,
            linear=self.head == LINEAR,
            normalize=self.normalize,
        )

    @property
    def exit_form(self) -> ExitForm:
        """How sure it is of an example, by its logits."""
        return ExitForm("outputs", self.kind, of_tokens=False)

    def exit_problem(self) -> str:
        """Returns why numbers are refused, as nothing says how sure one is; and prompts, whose masks are late."""
        if self.prompt.pattern:
            return "the masked-LM head of a prompt (task.prompt.pattern) is after the last layer alone"
        return "nothing says how sure it is of a number (task.kind=regression)" if self.kind == "regression" else ""

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
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
    if spec.prompt.pattern:
        prompted, cut_E = tokenize_prompts(spec.prompt, tokenizer, texts, spec.window, spec.pairs)
        return prompted, [np.zeros_like(one) for one in prompted], cut_E
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
