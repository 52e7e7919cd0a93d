"""A tagger beside its weights, its config keys, and sentences to packed rows."""

# B batch, T tokens, C classes

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.exits import ExitForm
from jaxfm.data.text.packing import build_rows, more_fields, text_fields
from jaxfm.data.text.tagging import allowed_tags
from jaxfm.data.text.windows import Windows, make_windows
from jaxfm.data.text.words import COARSE
from jaxfm.models.heads import TokenClassifier, mean_over_words
from jaxfm.models.linear_chain import FIRST, LAST, LinearChain
from jaxfm.schema import field
from jaxfm.tasks.losses import LossConfig
from jaxfm.tasks.perturbed_copies import PerturbConfig
from jaxfm.tasks.windowed_rows import WindowedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "ner"
# How tags are chosen: the best sequence that the scheme allows, or the likeliest tag of each word by itself.
VITERBI, ARGMAX = "viterbi", "argmax"
# What becomes of entities that overlap: a word has one tag.
REFUSE, LONGEST = "refuse", "longest"
# What is learned of the tags of a sentence: each by itself, or the whole sequence.
SOFTMAX, CRF = "softmax", "crf"
# Fields of a batch beside text and labels: the word that a piece is of, and whether a word is its sentence's first or
# last.
WORDS, BOUNDS = "words", "bounds"


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
    overlapping: str = field(
        LONGEST,
        "of entities that overlap or lie inside each other, which a tagger cannot learn: refuse such data, or keep the "
        "longest and leave out the others",
        choices=(REFUSE, LONGEST),
    )
    decoding: str = field(
        ARGMAX,
        "how tags are chosen: viterbi, the likeliest sequence that the tag scheme allows; argmax, the likeliest tag of "
        "each word by itself",
        choices=(VITERBI, ARGMAX),
    )
    head: str = field(
        SOFTMAX,
        "what is learned: softmax, the tag of each word by itself; crf, the whole sequence of a sentence's tags, with "
        "scores of which tag follows which (Lample et al. 2016)",
        choices=(SOFTMAX, CRF),
    )
    word_pooling: str = field(
        "first",
        "which pieces of a word its tag is read from: first, the first one (as transformers and most papers do); mean, "
        "all of them",
        choices=("first", "mean"),
    )
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    perturb: PerturbConfig = dataclasses.field(default_factory=PerturbConfig)


@dataclasses.dataclass(frozen=True)
class NerSpec:
    """All that a trained tagger is beside its weights (implements Spec and LeavesEarly of jaxfm.core).

    Attributes:
      labels: tag of each class.
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest example in tokens.
      overlap: tokens shared by neighbouring windows of one sentence.
      context: "sentence" or "document", what else fills a window.
      splitter: the rule of `jaxfm.data.text.words` that splits raw text; "coarse" was the only one when runs kept none.
      decoding: "viterbi" or "argmax"; "argmax" was the only one when runs kept none.
      head: "softmax" or "crf".
      word_pooling: "first" or "mean".
      exits: numbers of layers after which there is an early head.
    """

    labels: tuple[str, ...]
    encoder: EncoderConfig
    row_length: int
    window: int
    overlap: int
    context: str
    splitter: str = COARSE
    decoding: str = ARGMAX
    head: str = SOFTMAX
    word_pooling: str = "first"
    exits: tuple[int, ...] = ()

    @property
    def token_fields(self) -> tuple[str, ...]:
        """Names of the arrays of tokens that a batch has beside text and labels."""
        return (*((WORDS,) if self.word_pooling == "mean" else ()), *((BOUNDS,) if self.head == CRF else ()))

    def batch_spec(self) -> BatchSpec:
        """Packed text and a tag a token, -1 but for the first piece of each word."""
        labels = Field((self.row_length,), fill=-1, axes=("tokens",))
        more = more_fields(self.row_length, self.token_fields)
        return text_fields(self.row_length) | {"labels": labels} | more

    def make_model(self, build: Build, rngs: nnx.Rngs) -> TokenClassifier:
        """Builds encoder and head."""
        chain = LinearChain(*allowed_tags(self.labels), rngs) if self.head == CRF else None
        return TokenClassifier(self.encoder, len(self.labels), build, rngs, chain=chain, exits=self.exits)

    @property
    def exit_form(self) -> ExitForm:
        """How sure it is of a word, by its logits."""
        return ExitForm("logits", "single", of_tokens=True)

    def exit_problem(self) -> str:
        """Returns why a CRF is refused."""
        return "it scores whole sequences of tags (task.head=crf)" if self.head == CRF else ""

    def logits(self, model: TokenClassifier, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
        """Returns the logits [B, T, C], those of a word at its first piece; `key` turns dropout on.

        Words pooled by "mean" have the mean of their pieces' logits, which is the logit of the mean of their vectors,
        as the last layer is linear: C numbers are averaged in place of D. A word longer than a window has the pieces
        that the window keeps.
        """
        return self._pooled(model(batch, key=key), batch)

    def features(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns what the last layer reads, f32 [B, T, D], that of a word at its first piece; see `logits`."""
        features_BTD = model.features(model.encoder.encode(batch))
        return self._pooled(features_BTD.astype(jnp.float32), batch)

    def _pooled(self, values_BTC: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        if self.word_pooling == "first":
            return values_BTC
        return mean_over_words(values_BTC, batch[WORDS], batch["segment_ids"])

    def outputs(self, model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "logits" [B, T, C], of which `jaxfm.tasks.ner.decoding` makes tags.

        With a CRF also "transitions" [B, C + 2, C]: start, end and pairs, the same for each row, since what scores get
        is arrays over rows.
        """
        logits_BTC = self.logits(model, batch)
        if self.head != CRF:
            return {"logits": logits_BTC}
        assert model.chain is not None
        start_C, end_C, pairs_CC = model.chain.scores()
        transitions = jnp.concatenate([start_C[None], end_C[None], pairs_CC])
        return {
            "logits": logits_BTC,
            "transitions": jnp.broadcast_to(transitions, (len(logits_BTC), *transitions.shape)),
        }


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
    counts = tuple(len(words) for words in pieces)
    more = {WORDS: windows.word_pieces, BOUNDS: _bounds(windows, counts)}
    rows = build_rows(
        windows.tokens,
        windows.labels,
        spec.row_length,
        pad_id,
        seed,
        None if packed else 1,
        token_fields={name: more[name] for name in spec.token_fields},
    )
    return WindowedRows(windows, rows, counts)


def _bounds(windows: Windows, counts: Sequence[int]) -> list[np.ndarray]:
    """Returns of each window, at the words that it owns, whether they are the first (1) or last (2) of their sentence.

    -1 elsewhere. A chain of words that was cut has no first or no last word.
    """
    return [
        np.where(words < 0, -1, FIRST * (words == 0) + LAST * (words == counts[sentence] - 1)).astype(np.int32)
        for sentence, words in zip(windows.sentence.tolist(), windows.words, strict=True)
    ]
