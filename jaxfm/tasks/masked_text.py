"""What objectives over masked tokens share: the text, and its held-out rows with fixed masks."""

# V vocabulary

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import Initial
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.corpora.pretraining import open_split
from jaxfm.data.text import masking
from jaxfm.data.text.mask_vocabulary import MaskVocabulary, vocabulary_of
from jaxfm.data.text.masked_rows import MaskedRows
from jaxfm.data.text.masking import Masking
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.mask_ratios import check_stages
from jaxfm.tasks.mask_shares import mask_notes, mask_split
from jaxfm.tasks.masked_spec import MaskedTextConfig, MaskedTextSpec
from jaxfm.tasks.running_text import Baseline, check_running_text, open_running_text, read_counts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class MaskedText:
    """Packed text, what of it is masked, and its held-out rows with fixed masks.

    Attributes:
      tokenizer: of the text.
      vocabulary: which tokens can be masked.
      masking: unit and shares of training.
      ratios: share of the tokens that are masked: first and last are those of the first and of the last step.
      units: in which held-out text is masked, the run's own first.
      training: {"train": rows}; empty where a trained run is evaluated.
      held_out: split -> its rows, once for each unit.
      baseline: what predicting by frequency reaches.
      notes: lines for the log.
    """

    tokenizer: "PreTrainedTokenizerFast"
    vocabulary: MaskVocabulary
    masking: Masking
    ratios: tuple[float, ...]
    units: tuple[str, ...]
    training: Mapping[str, Dataset]
    held_out: Mapping[str, MaskedRows]
    baseline: Baseline
    notes: tuple[str, ...]

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> packed rows; those held out come once for each unit, each with fixed masks."""
        return {**self.training, **self.held_out}

    def numbered(self) -> "MaskedText":
        """Gives each held-out row its number as field "row", for whatever is drawn for a row by its number."""
        held_out = {split: dataclasses.replace(rows, numbered=True) for split, rows in self.held_out.items()}
        return dataclasses.replace(self, held_out=held_out)

    def save(self, workdir: pathlib.Path) -> None:
        """Writes the tokenizer's files and the token counts."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        self.baseline.save(workdir)


def open_text(
    config: Config, initial: Initial, masking: Masking, head_notes: tuple[str, ...]
) -> tuple[EncoderConfig, MaskedText]:
    """Opens the source (prepares it first where it is plain text) for a new run.

    Returns the encoder's shape, with the vocabulary of the text where it starts from scratch, and the text.

    Raises:
      UserError: an empty corpus, a tokenizer that does not fit the weights, shares that do not add up.
    """
    _check(config, initial, masking)
    encoder, data, tokenizer = open_running_text(config, initial, needs_mask=True)
    vocabulary = vocabulary_of(tokenizer, encoder.padded_vocab_size)
    counts_V = data.token_counts(encoder.padded_vocab_size)
    text = MaskedText(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        masking=masking,
        ratios=config.task.ratios,
        units=tuple(dict.fromkeys((config.task.unit, *config.task.evaluate))),
        training={"train": data.rows["train"]},
        held_out={},
        baseline=Baseline.of(counts_V, vocabulary.maskable),
        notes=(*initial.notes, *head_notes, *data.notes),
    )
    others = {split: rows for split, rows in data.rows.items() if split != "train"}
    held_out = {split: mask_split(text, split, rows, config.task.eval_rows) for split, rows in others.items()}
    notes = (*text.notes, *mask_notes(text, data.rows["train"], counts_V, held_out))
    return encoder, dataclasses.replace(text, held_out=held_out, notes=notes)


def reopen_text(workdir: pathlib.Path, spec: MaskedTextSpec, config: Config, source: str, split: str) -> MaskedText:
    """Opens one split of (other) text for a trained run."""
    tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
    vocabulary = vocabulary_of(tokenizer, spec.encoder.padded_vocab_size)
    text = MaskedText(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        masking=spec.masking,
        ratios=spec.ratios,
        units=spec.units,
        training={},
        held_out={},
        baseline=Baseline.of(read_counts(workdir), vocabulary.maskable),
        notes=(),
    )
    rows = open_split(dataclasses.replace(config.data, source=source), split, workdir / TOKENIZER_DIR)
    return dataclasses.replace(text, held_out={split: mask_split(text, split, rows, config.task.eval_rows)})


def made_up_vocabulary(encoder: EncoderConfig) -> MaskVocabulary:
    """Returns a vocabulary for shapes alone: a few special tokens, and every other one a word."""
    index = np.arange(encoder.padded_vocab_size)
    maskable = (index > 4) & (index < encoder.vocab_size)
    return MaskVocabulary(mask_id=4, maskable=maskable, continues=np.zeros_like(maskable))


def older_spec(values: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a task.json of version 1 under today's names; of today's they are returned as they are."""
    known = {name: value for name, value in values.items() if name != "objective"}
    return known if "row_length" in known else known | {"row_length": config["data"]["row_length"]}


# Keys of older configs that all objectives over masked tokens had.
MOVED_KEYS: Mapping[str, str] = {
    **{f"mask.{each.name}": f"task.{each.name}" for each in dataclasses.fields(MaskedTextConfig)},
    "eval.rows": "task.eval_rows",
}


def _check(config: Config, initial: Initial, chosen: Masking) -> None:
    """Raises UserError for what contradicts each other, before hours go into preparing a corpus."""
    check_running_text(config, initial, needs_mask=True)
    if chosen.mask_share + chosen.random_share > 1:
        raise UserError(
            f"config.task.random_share: {chosen.random_share} and mask_share {chosen.mask_share} exceed 1 together."
        )
    check_stages(config.task.later_ratios, config.task.later_at, config.task.final_ratio)
    _check_units(config.task.evaluate)


def _check_units(units: Sequence[str]) -> None:
    for unit in units:
        if unit not in masking.UNITS:
            raise UserError(f"config.task.evaluate: {unit!r}. {did_you_mean(unit, masking.UNITS)}")
