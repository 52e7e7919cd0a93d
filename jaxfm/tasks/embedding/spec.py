"""A model of vectors beside its weights, its config keys, and texts to packed rows."""

# B batch, S segments (texts in a row), K texts a group, G groups a row, E embedding, N texts

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import jax
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.grouped_rows import group_fields
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.models.embedder import POOLINGS, Embedder
from jaxfm.schema import field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "embedding"
QUERY, DOCUMENT = ROLES = ("query", "document")
KINDS = ("pairs", "scored", "teacher")
LOSSES = {
    "pairs": ("infonce", "triplet"),
    "scored": ("cosent", "cosine"),
    "teacher": ("margin_mse", "kl", "infonce"),
}
_TEXTS_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take


@dataclasses.dataclass(frozen=True)
class EmbeddingLossConfig:
    """What is minimised."""

    function: str = field(
        "auto",
        "infonce: the positive among all texts of the batch; triplet: closer than the group's negatives by a margin; "
        "cosent: the order of scored pairs; cosine: their scores themselves; margin_mse, kl: a teacher's scores; auto: "
        "infonce for pairs, cosent for scored pairs, margin_mse for a teacher's scores",
        choices=("auto", "infonce", "triplet", "cosent", "cosine", "margin_mse", "kl"),
    )
    temperature: float = field(0.05, "similarities are divided by it (not by triplet and cosine)", above=0.0)
    learned_temperature: bool = field(False, "the temperature is trained, from `temperature` on")
    symmetric: bool = field(False, "infonce: also the anchor of each positive among all anchors, half each")
    margin: float = field(0.3, "triplet: how much more similar the positive must be", above=0.0)
    score_range: float = field(1.0, "cosine: scores are divided by it to lie between -1 and 1", above=0.0)


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """Texts to vectors: what they are learned from, and what a vector is."""

    name: str = field(NAME, "the task", choices=(NAME,))
    kind: str = field(
        "pairs",
        "texts that belong together, with or without negatives (pairs); two texts and a number (scored); passages with "
        "the scores of another model (teacher)",
        choices=KINDS,
    )
    pooling: str = field(
        "auto",
        "the vector of a text: the mean over its tokens, that of its first (cls) or last token; auto: as the first "
        "weights were trained (modules.json of sentence-transformers), else the mean",
        choices=("auto", *POOLINGS),
    )
    normalize: bool = field(True, "vectors have length 1, so that similarity is their cosine; False: dot product")
    dimension: int = field(
        0,
        "a linear map to vectors of so many numbers; 0: that of the first weights if they have one, else vectors are "
        "as wide as the encoder",
        at_least=0,
    )
    query_prompt: str = field("", "put before each anchor (query); empty: what the first weights were trained with")
    document_prompt: str = field("", "put before each other text (document); empty: likewise")
    negative_columns: str = field(
        "", "pairs, teacher: columns of negatives, A,B,C, or one of lists; empty: negative, negative_1 ..., negatives"
    )
    label_rule: str = field(
        "",
        "pairs: what a label of two texts means: nli (entailment: positive, contradiction: negative), binary (1: "
        "positive), all (every row is a positive pair); empty: a source with such labels is refused",
        choices=("", "nli", "binary", "all"),
    )
    context_turns: int = field(3, "dialogues: turns before a response that are its context", at_least=1)
    context_separator: str = field(
        "", "dialogues: between the turns of a context; empty: the separator of the tokenizer"
    )
    responder: str = field("", "dialogues: the speaker whose turns are responses (SYSTEM); empty: every speaker")
    negatives: int = field(4, "most negatives of a group that are read; the first ones", at_least=0)
    matryoshka: tuple[int, ...] = field(
        (), "the loss is the sum over vectors and their first n numbers, for each n (Kusupati et al. 2022)"
    )
    loss: EmbeddingLossConfig = dataclasses.field(default_factory=EmbeddingLossConfig)


class TextsSpec(Protocol):
    """What a spec says of how groups of texts become rows, whatever a text becomes."""

    @property
    def kind(self) -> str:
        """Of the groups."""
        ...

    @property
    def row_length(self) -> int:
        """Tokens a row."""
        ...

    @property
    def texts(self) -> int:
        """Most texts of a group."""
        ...

    @property
    def groups(self) -> int:
        """Most groups of a row."""
        ...

    @property
    def positives(self) -> int:
        """Most texts that are known to fit an anchor; 0: none is known."""
        ...

    @property
    def segments(self) -> int:
        """Most texts of a row."""
        ...

    def prompt(self, role: str) -> str:
        """Returns what is put before a text of a role."""
        ...

    def length(self, role: str) -> int:
        """Returns the tokens of a text of a role that are read."""
        ...


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """All that a trained model of vectors is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      kind: "pairs", "scored" or "teacher" (`EmbeddingConfig.kind`).
      encoder: shape of the encoder.
      pooling: "mean", "cls" or "last".
      normalize: vectors have length 1.
      projected: numbers of a vector after a linear map; 0: there is none.
      query_prompt: put before a query.
      document_prompt: put before a document.
      row_length: tokens a packed row.
      window: longest text in tokens; longer ones are cut.
      texts: most texts of a group, K.
      groups: most groups of a training row, G.
      positives: most texts that are known to fit an anchor, beside its own positive; 0: none is known.
      learned_scale: what the trained scale of similarities started from; 0: it is fixed.
      matryoshka: sizes of the prefixes that were trained to be vectors.
    """

    kind: str
    encoder: EncoderConfig
    pooling: str
    normalize: bool
    projected: int
    query_prompt: str
    document_prompt: str
    row_length: int
    window: int
    texts: int
    groups: int
    positives: int
    learned_scale: float
    matryoshka: tuple[int, ...] = ()

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.projected or self.encoder.hidden_size

    @property
    def similarity(self) -> str:
        """How vectors are compared: "cosine" where they have length 1, else "dot"."""
        return "cosine" if self.normalize else "dot"

    @property
    def segments(self) -> int:
        """Most texts of a row, S."""
        return self.groups * self.texts

    def prompt(self, role: str) -> str:
        """Returns what is put before a text of a role."""
        return self.query_prompt if role == QUERY else self.document_prompt

    def length(self, role: str) -> int:
        """Returns the tokens of a text that are read, the same for both roles."""
        del role
        return self.window

    def batch_spec(self) -> BatchSpec:
        """Packed groups of texts."""
        return batch_fields(self)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> Embedder:
        """Builds the encoder, and what follows it."""
        return Embedder(
            self.encoder,
            build,
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            normalize=self.normalize,
            dimension=self.projected,
            learned_scale=self.learned_scale,
        )

    def outputs(self, model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors, f32 [B, S, E]."""
        return {"vectors": model(batch)}


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as packed rows.

    Attributes:
      rows: what is computed.
      cut: bool [N], which texts were longer than the window, so that their ends are not read.
    """

    rows: PackedRows
    cut: np.ndarray

    def per_text(self, values_NSE: np.ndarray) -> np.ndarray:
        """Returns the value [N, ...] of each text, in the order they were given."""
        return values_NSE[self.rows.example_locations[:, 0], self.rows.example_locations[:, 1]]


def tokenize(
    tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], prompt: str, window: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the tokens of each text after a prompt, special tokens included, and bool [N]: which had to be cut."""
    tokens: list[np.ndarray] = []
    cut: list[bool] = []
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        batch = tokenizer(
            [prompt + text for text in texts[first : first + _TEXTS_PER_CALL]],
            truncation=True,
            max_length=window,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        for encoding in batch.encodings or ():
            tokens.append(np.asarray(encoding.ids, np.int32))
            cut.append(bool(encoding.overflowing))
    return tokens, np.asarray(cut, bool)


def batch_fields(spec: TextsSpec) -> BatchSpec:
    """Returns the arrays of a batch of packed groups."""
    scores = {"pairs": 0, "scored": 1}.get(spec.kind, spec.texts - 1)
    return group_fields(spec.row_length, spec.groups, spec.texts, scores=scores, positives=spec.positives)


def encode_texts(
    spec: TextsSpec, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], role: str
) -> EncodedTexts:
    """Tokenizes and packs single texts of a role, each to become a vector."""
    assert role in ROLES
    tokens, cut = tokenize(tokenizer, texts, spec.prompt(role), spec.length(role))
    return EncodedTexts(pack_texts(spec, tokenizer, tokens), cut)


def pack_texts(spec: TextsSpec, tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[np.ndarray]) -> PackedRows:
    """Packs texts that are tokenized."""
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    unknown = np.full(len(tokens), -1, np.int32)
    return build_rows(tokens, unknown, spec.row_length, pad_id, None, max_segments=spec.segments)
