"""The text of causal-LM runs: packed rows, those that are scored, and what predicting by frequency reaches."""

# N rows, V vocabulary

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.core.initial import Initial
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.corpora.pretraining import open_split
from jaxfm.data.text.spread_rows import SpreadRows, spread_index
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import with_sight
from jaxfm.tasks.mask_shares import scored_notes
from jaxfm.tasks.next_tokens import check_causal
from jaxfm.tasks.running_text import Baseline, check_running_text, open_running_text, read_counts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SAMPLE_ROWS = 1024  # of the training split, whose segments are counted


@dataclasses.dataclass(frozen=True)
class CausalText:
    """Packed text and what of it is scored.

    Attributes:
      tokenizer: of the text.
      training: {"train": rows}; empty where a trained run is evaluated.
      held_out: split -> those of its rows that are scored.
      baseline: what predicting by frequency reaches.
      notes: lines for the log.
    """

    tokenizer: "PreTrainedTokenizerFast"
    training: Mapping[str, Dataset]
    held_out: Mapping[str, SpreadRows]
    baseline: Baseline
    notes: tuple[str, ...] = ()

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> packed rows."""
        return {**self.training, **self.held_out}

    def save(self, workdir: pathlib.Path) -> None:
        """Writes the tokenizer's files and the token counts."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        self.baseline.save(workdir)


def open_causal_text(config: Config, initial: Initial, head_notes: tuple[str, ...]) -> tuple[EncoderConfig, CausalText]:
    """Opens the source (prepares it first where it is plain text) for a new run.

    Returns the encoder's shape, of causal sight and with the vocabulary of the text where it starts from scratch, and
    the text.

    Raises:
      UserError: an empty corpus, a tokenizer that does not fit the weights, an encoder that cannot read causally.
    """
    check_reads_causally(config, initial.encoder)
    check_running_text(config, initial, needs_mask=False)
    encoder, data, tokenizer = open_running_text(config, initial, needs_mask=False)
    train = data.rows["train"]
    counts_V = with_ends(data.token_counts(encoder.padded_vocab_size), train, tokenizer)
    held_out = {
        split: SpreadRows(rows, spread_index(len(rows), config.task.eval_rows))
        for split, rows in data.rows.items()
        if split != "train"
    }
    notes = (*initial.notes, *head_notes, *data.notes, *scored_notes(held_out))
    for split, rows in held_out.items():
        _check_targets(split, rows)
    baseline = Baseline.of(counts_V, possible_targets(tokenizer, encoder))
    return with_sight(encoder, CAUSAL), CausalText(tokenizer, {"train": train}, held_out, baseline, notes)


def reopen_causal_text(
    workdir: pathlib.Path, encoder: EncoderConfig, config: Config, source: str, split: str
) -> CausalText:
    """Opens one split of (other) text for a trained run."""
    tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
    rows = open_split(dataclasses.replace(config.data, source=source), split, workdir / TOKENIZER_DIR)
    held_out = {split: SpreadRows(rows, spread_index(len(rows), config.task.eval_rows))}
    _check_targets(split, held_out[split])
    return CausalText(tokenizer, {}, held_out, Baseline.of(read_counts(workdir), possible_targets(tokenizer, encoder)))


def check_reads_causally(config: Config, encoder: EncoderConfig) -> None:
    """Raises UserError for an encoder, or a sight that is asked for, with which no next token can be predicted."""
    check_causal(encoder, f"config.task.name: {config.task.name!r} takes an encoder of another family")
    if config.model.sight not in ("auto", CAUSAL):
        raise UserError(
            f"config.model.sight: is {config.model.sight!r}, but where a token sees later ones nothing is left to "
            f"predict. Set {CAUSAL}."
        )


def possible_targets(tokenizer: "PreTrainedTokenizerFast", encoder: EncoderConfig) -> np.ndarray:
    """Returns which entries of the padded vocabulary may come after a token, bool [V]: not what starts a segment."""
    possible_V = np.arange(encoder.padded_vocab_size) < len(tokenizer)
    for index in (tokenizer.pad_token_id, tokenizer.cls_token_id):
        if isinstance(index, int) and index != tokenizer.sep_token_id:
            possible_V[index] = False
    return possible_V


def with_ends(counts_V: np.ndarray, train: Dataset, tokenizer: "PreTrainedTokenizerFast") -> np.ndarray:
    """Returns counts of tokens with that of the one that ends a segment, which is a target too.

    Prepared rows do not count the tokens that frame segments; their number is estimated from a sample of the rows.
    """
    sample = train.take(spread_index(len(train), _SAMPLE_ROWS))["segment_ids"]
    ends = round(float(sample.max(axis=1).mean()) * len(train)) if len(sample) else 0
    return counts_V + ends * (np.arange(len(counts_V)) == tokenizer.sep_token_id)


def _check_targets(split: str, rows: SpreadRows) -> None:
    """Raises UserError for a split without anything to predict."""
    if not len(rows):
        raise UserError(
            f"{split}: has no rows, so there is nothing to score. Name a larger file, hold more out of the training "
            "text (config.data.holdout), or go without this split."
        )
