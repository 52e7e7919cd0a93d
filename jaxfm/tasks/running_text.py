"""What objectives over a corpus of running text share: its rows, the encoder that reads them, a baseline."""

# V vocabulary

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from jaxfm import files
from jaxfm.config import AUTO, Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import Initial
from jaxfm.data.corpora.pretraining import PretrainingData, open_pretraining
from jaxfm.data.text.tokenization import check_tokenizer, load_tokenizer
from jaxfm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# How often each token occurs in the training split: what `evaluate` compares with needs it.
COUNTS_FILE = "token_counts.json"
WHOLE_MODEL = ("encoder/", "transform/", "decoder/")
"""What the names of the parameters of an encoder with a vocabulary head start with."""


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What predicting by frequency alone reaches, from the training split's tokens.

    Attributes:
      counts: [V] how often each token occurs there.
      log_probs: [V] log of each token's share (one is added to each count).
      top: the most frequent token.
    """

    counts: np.ndarray
    log_probs: np.ndarray
    top: int

    @classmethod
    def of(cls, counts_V: np.ndarray, possible_V: np.ndarray) -> "Baseline":
        """Counts only tokens that can be a target."""
        some_V = np.where(possible_V, counts_V + 1.0, 0.0)
        with np.errstate(divide="ignore"):
            return cls(counts_V, np.log(some_V / some_V.sum()), int(some_V.argmax()))

    def save(self, workdir: pathlib.Path) -> None:
        """Writes the counts."""
        files.write_json(workdir / COUNTS_FILE, self.counts.tolist())


def read_counts(workdir: pathlib.Path) -> np.ndarray:
    """Returns the counts [V] that `Baseline.save` wrote."""
    return np.asarray(files.read_json(workdir / COUNTS_FILE))


def open_running_text(
    config: Config, initial: Initial, *, needs_mask: bool
) -> tuple[EncoderConfig, PretrainingData, "PreTrainedTokenizerFast"]:
    """Opens the source (prepares it first where it is plain text) for a new run.

    Returns the encoder's shape, with the vocabulary of the text where it starts from scratch, the rows, and their
    tokenizer.

    Raises:
      UserError: an empty corpus, or a tokenizer that does not fit the weights.
    """
    data = open_pretraining(config.data, config.model.tokenizer, initial.tokenizer)
    tokenizer = load_tokenizer(data.tokenizer)
    encoder = initial.encoder
    if not initial.params:
        encoder = dataclasses.replace(encoder, vocab_size=len(tokenizer))
        if encoder.token_dropout_id >= 0 and tokenizer.mask_token_id is not None:
            encoder = dataclasses.replace(encoder, token_dropout_id=tokenizer.mask_token_id)
    check_tokenizer(tokenizer, encoder, data.tokenizer, needs_mask=needs_mask)
    return encoder, data, tokenizer


def check_running_text(config: Config, initial: Initial, *, needs_mask: bool) -> None:
    """Raises UserError for what contradicts each other, before hours go into preparing a corpus."""
    if initial.params and initial.tokenizer is not None:
        tokenizer = load_tokenizer(initial.tokenizer)
        check_tokenizer(tokenizer, initial.encoder, initial.tokenizer, needs_mask=needs_mask)
    if config.data.row_length == AUTO:
        raise UserError(
            "config.data.row_length: auto is chosen from labelled examples; running text fills rows of any length. "
            "Give a number, such as 128."
        )
    if config.data.row_length > initial.encoder.max_positions:
        raise UserError(
            f"config.data.row_length: {config.data.row_length} tokens, but the encoder has "
            f"{initial.encoder.max_positions} positions. Take at most that many."
        )


def head_note(initial: Initial, head: str = "vocabulary head") -> tuple[str, ...]:
    """Returns a line for the log: what of the vocabulary head came with the weights; () from scratch."""
    if not initial.params:
        return ()
    parts = [part for part in ("transform/", "decoder/") if any(name.startswith(part) for name in initial.params)]
    if len(parts) == initial.encoder.vocabulary_transform + (
        initial.encoder.decoder_bias or not initial.encoder.tied_decoder
    ):
        return (f"{head}: loaded with the weights",)
    if parts:
        return (f"{head}: its transform is loaded with the weights, its bias over the vocabulary starts at 0",)
    return (f"{head}: new, the weights have none that can be used",)
