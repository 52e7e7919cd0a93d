"""A tagger beside its weights, its config keys, and sentences to packed rows."""

# B batch, T tokens, C classes

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.packing import build_rows, text_fields
from jaxfm.data.text.windows import make_windows
from jaxfm.data.text.words import COARSE
from jaxfm.models.heads import TokenClassifier
from jaxfm.schema import field
from jaxfm.tasks.losses import LossConfig
from jaxfm.tasks.windowed_rows import WindowedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "ner"


@dataclasses.dataclass(frozen=True)
class NerConfig:
    """Named-entity recognition: how words are found and what context they have."""

    name: str = field(NAME, "the task", choices=(NAME,))
    context: str = field(
        "sentence",
        "what fills a window: the sentence alone, or its neighbours of the same document as well",
        choices=("sentence", "document"),
    )
    overlap: int = field(32, "tokens shared by neighbouring windows of a sentence that fits no window", at_least=0)
    splitter: str = field(
        "auto",
        "what splits raw text into words: fine (each mark a word), coarse (as news corpora), auto: fine where entities "
        "are given in characters, else the nearest to the words of training",
        choices=("auto", "fine", "coarse"),
    )
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)


@dataclasses.dataclass(frozen=True)
class NerSpec:
    """All that a trained tagger is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      labels: tag of each class.
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest example in tokens.
      overlap: tokens shared by neighbouring windows of one sentence.
      context: "sentence" or "document", what else fills a window.
      splitter: the rule of `jaxfm.data.text.words` that splits raw text; "coarse" was the only one when runs kept none.
    """

    labels: tuple[str, ...]
    encoder: EncoderConfig
    row_length: int
    window: int
    overlap: int
    context: str
    splitter: str = COARSE

    def batch_spec(self) -> BatchSpec:
        """Packed text and a tag a token, -1 but for the first piece of each word."""
        labels = Field((self.row_length,), fill=-1, axes=("tokens",))
        return text_fields(self.row_length) | {"labels": labels}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> TokenClassifier:
        """Builds encoder and head."""
        return TokenClassifier(self.encoder, len(self.labels), build, rngs)

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "logits" [B, T, C] and the likeliest class "label" [B, T] int32."""
        logits_BTC = model(batch)
        return {"label": jnp.argmax(logits_BTC, axis=-1).astype(jnp.int32), "logits": logits_BTC}


def encode(
    spec: NerSpec,
    tokenizer: "PreTrainedTokenizerFast",
    pieces: Sequence[Sequence[Sequence[int]]],
    *,
    labels: Sequence[Sequence[int]] | None = None,
    documents: Sequence[int] | None = None,
    seed: int | None = None,
    packed: bool = True,
) -> WindowedRows:
    """Cuts sentences (the pieces of each word, as from `encode_words`) into windows and packs these.

    With a seed the examples are shuffled before packing (training). Not `packed`, every window has its own row.
    """
    cls_id, sep_id, pad_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert isinstance(cls_id, int) and isinstance(sep_id, int) and isinstance(pad_id, int), "see check_tokenizer"
    windows = make_windows(
        pieces,
        labels,
        cls_id=cls_id,
        sep_id=sep_id,
        max_length=spec.window,
        overlap=spec.overlap,
        context="document" if spec.context == "document" and documents is not None else "sentence",
        documents=documents,
    )
    rows = build_rows(windows.tokens, windows.labels, spec.row_length, pad_id, seed, None if packed else 1)
    return WindowedRows(windows, rows, tuple(len(words) for words in pieces))
