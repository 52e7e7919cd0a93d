"""The rows of the word embedding against the entries of the tokenizer: rows are added where the tokenizer has grown."""

# N rows that are added, R rows of a block, D width

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.core.initial import HostArray
from jaxfm.data.text.tokenization import VOCABULARY_FILES, load_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.stored import WithRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Of the old rows' covariance, as in transformers (PreTrainedModel.resize_token_embeddings, mean_resizing=True).
_NOISE = 1e-9
_SEED = 0  # of that noise, whatever the run's: seeds of a run start from the same weights
_BLOCK_SCALARS = 2**21


def has_tokenizer(directory: pathlib.Path) -> bool:
    """Whether a directory holds a tokenizer's vocabulary."""
    return any((directory / name).is_file() for name in VOCABULARY_FILES)


def fit_vocabulary(
    encoder: EncoderConfig, params: Mapping[str, HostArray], tokenizer: pathlib.Path, own: pathlib.Path
) -> tuple[EncoderConfig, dict[str, HostArray], tuple[str, ...]]:
    """Adds rows for the entries that a tokenizer has beyond those of the weights.

    A new row of the word embedding is the mean of the old ones with a very small normal noise of their covariance
    (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models": the new word then neither takes
    probability from all others nor has none); a new entry of a bias over the vocabulary is the mean of the old ones.
    Rows that the tokenizer has no entry for are kept.

    Args:
      encoder: of the weights.
      params: path -> array; nothing is read of it where no row is added.
      tokenizer: directory of the run's tokenizer; without one nothing changes.
      own: directory of the weights, with or without their tokenizer.

    Returns:
      The encoder with its new `vocab_size`, the parameters, and sentences for the log.

    Raises:
      UserError: entries without a row, of a tokenizer that did not grow out of the one of the weights.
    """
    params = dict(params)
    if not has_tokenizer(tokenizer):
        return encoder, params, ()
    loaded = load_tokenizer(tokenizer)
    entries, rows = max(loaded.get_vocab().values(), default=-1) + 1, encoder.vocab_size
    if entries <= rows:
        kept = f"vocabulary: the weights have {rows:,} rows, the tokenizer {entries:,} entries; all rows are kept"
        return encoder, params, (kept,) if entries < rows else ()
    _check_growth(loaded, rows, tokenizer, own)
    grown, params = with_entries(encoder, params, entries)
    note = (
        f"vocabulary: the tokenizer has {entries:,} entries, the weights {rows:,} rows: {entries - rows:,} rows are "
        "added, each the mean of the old ones (with a normal noise of a billionth of their covariance)"
    )
    return grown, params, (note,)


def with_entries(
    encoder: EncoderConfig, params: Mapping[str, HostArray], entries: int
) -> tuple[EncoderConfig, dict[str, HostArray]]:
    """Returns the encoder and its parameters with rows for `entries` entries of the vocabulary, at least those there.

    New rows are those of `fit_vocabulary`.
    """
    params, rows = dict(params), encoder.vocab_size
    grown = dataclasses.replace(encoder, vocab_size=entries)
    for name in filter(has_padded_rows, params):
        table = _without_padding(params[name], rows)
        params[name] = WithRows(table, new_rows(table, entries - rows), grown.padded_vocab_size)
    return grown, params


def new_rows(table: HostArray, count: int) -> np.ndarray:
    """Returns [count, D] drawn around the mean row of a table [V, D]; of a vector [V] its mean, `count` times."""
    total = sum(block.sum(axis=0, dtype=np.float64) for block in _blocks(table, count))
    mean = np.asarray(total / len(table))
    if not mean.ndim:
        return np.full(count, mean, np.float32)
    # A sum of the centred rows with independent normal weights has their covariance, times their number.
    draw = np.random.default_rng(_SEED)
    noise_ND = np.zeros((count, *mean.shape))
    for block_RD in _blocks(table, count):
        noise_ND += draw.standard_normal((count, len(block_RD)), np.float32) @ (block_RD - mean)
    return (mean + noise_ND * np.sqrt(_NOISE / len(table))).astype(np.float32)


def _blocks(table: HostArray, count: int) -> Iterator[np.ndarray]:
    step = max(_BLOCK_SCALARS // max(count, *table.shape[1:], 1), 1)
    for first in range(0, len(table), step):
        yield np.asarray(table[first : first + step])


def _without_padding(table: HostArray, rows: int) -> HostArray:
    if isinstance(table, np.ndarray):
        return table[:rows]
    assert isinstance(table, WithRows) and len(table.stored) + len(table.added) == rows, "as hub.weights pads it"
    # Padded again to no more than its rows: those that were added before are a part of it.
    return dataclasses.replace(table, total=rows) if len(table.added) else table.stored


def _check_growth(loaded: "PreTrainedTokenizerFast", rows: int, tokenizer: pathlib.Path, own: pathlib.Path) -> None:
    """Raises UserError for a tokenizer with more entries than rows that is not a grown one."""
    entries = loaded.get_vocab()
    if tokenizer != own and has_tokenizer(own):
        before = load_tokenizer(own).get_vocab()
        moved = sum(entries.get(piece) != number for piece, number in before.items())
        reason = (
            f"{moved:,} of the {len(before):,} entries of {own} are missing or have another number" if moved else ""
        )
    else:
        added = set(loaded.get_added_vocab().values())
        others = sum(number >= rows and number not in added for number in entries.values())
        reason = f"{others:,} entries beyond the rows are not added ones (tokenizer.add_tokens)" if others else ""
    if reason:
        raise UserError(
            f"{tokenizer}: the tokenizer has {max(entries.values()) + 1:,} entries, the word embedding {rows:,} rows, "
            f"and {reason}: they are not of the same model. A tokenizer may grow if its old entries keep their numbers."
        )
