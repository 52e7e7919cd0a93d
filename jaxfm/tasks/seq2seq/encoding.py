"""Sources and targets to packed rows: [CLS] source [SEP] target [SEP], several of them in a row."""

# N rows, T tokens, S segments (examples in a row), E examples, M places of a target

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.data.text.tokenization import encode_texts
from jaxfm.tasks.seq2seq.spec import DIFFUSION, HORIZONS, PREFIX, Seq2SeqSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The special tokens of a tokenizer that segments are made of."""

    opening: int
    separator: int
    padding: int
    mask: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerFast") -> "Tokens":
        """Reads them; the mask of a tokenizer without one is the padding (next-token prediction needs none)."""
        opening, separator, padding = (getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
        mask = tokenizer.mask_token_id
        assert None not in (opening, separator, padding), "see check_tokenizer"
        return cls(opening, separator, padding, padding if not isinstance(mask, int) else mask)


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """Sources, and targets where they are known, as tokens.

    Attributes:
      sources: tokens of each source as it is read: the first ones, where it is longer.
      targets: tokens of each target, without the separator; () where none is known.
      cut: bool [E], whether a source is longer than what is read.
    """

    sources: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    cut: np.ndarray


def pieces(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """Returns the tokens of texts, without special ones."""
    return encode_texts(tokenizer, texts)


def encoded_pairs(
    spec: Seq2SeqSpec, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]] = ()
) -> EncodedPairs:
    """Returns pairs of which the end of each source is cut that a row has no room for."""
    cut = np.asarray([len(source) > spec.max_source for source in sources], bool)
    read = tuple(tuple(source[: spec.max_source]) for source in sources)
    return EncodedPairs(read, tuple(map(tuple, targets)), cut)


def training_rows(spec: Seq2SeqSpec, tokens: Tokens, pairs: EncodedPairs, seed: int | None) -> PackedRows:
    """Packs pairs with their targets; with a seed they are shuffled before packing.

    "labels": diffusion, the target's own tokens at their places, the separators that fill its block included; prefix,
    at each place from the source's separator on the next token of the target.
    """
    blocks = spec.lengths.block(np.asarray([len(source) for source in pairs.sources], np.int64))
    segments, labels, types, horizons = [], [], [], []
    for source, target, block in zip(pairs.sources, pairs.targets, blocks.tolist(), strict=True):
        before = [tokens.opening, *source, tokens.separator]
        if spec.way == DIFFUSION:
            written = [*target, *[tokens.separator] * max(block - len(target), 1)]
            segments.append(np.asarray(before + written, np.int32))
            labels.append(np.asarray([-1] * len(before) + written, np.int32))
        else:
            # The last separator is predicted and never read.
            segments.append(np.asarray([*before, *target], np.int32))
            labels.append(np.asarray([-1] * (len(before) - 1) + [*target, tokens.separator], np.int32))
        types.append(_types(len(before), len(segments[-1])))
        horizons.append(horizons_of(len(before), len(segments[-1])))
    return _packed(spec, tokens, segments, labels, types, horizons, seed)


def blank_rows(spec: Seq2SeqSpec, tokens: Tokens, sources: Sequence[Sequence[int]]) -> PackedRows:
    """Packs sources whose targets are to be written.

    Diffusion: with the places of these, masks, labelled 0, 1, 2, ...; prefix: alone.
    """
    blocks = spec.lengths.block(np.asarray([len(source) for source in sources], np.int64))
    segments, labels, types, horizons = [], [], [], []
    for source, block in zip(sources, blocks.tolist(), strict=True):
        before = [tokens.opening, *source, tokens.separator]
        block = block if spec.way == DIFFUSION else 0
        segments.append(np.asarray(before + [tokens.mask] * block, np.int32))
        labels.append(np.asarray([-1] * len(before) + list(range(block)), np.int32))
        types.append(_types(len(before), len(segments[-1])))
        horizons.append(horizons_of(len(before), len(segments[-1])))
    return _packed(spec, tokens, segments, labels, types, horizons, None)


def horizons_of(prefix: int, length: int) -> np.ndarray:
    """Returns the last position that each token of a segment sees: those of the prefix all of it, later ones itself."""
    return np.maximum(np.arange(length, dtype=np.int32), prefix - 1)


def _types(prefix: int, length: int) -> np.ndarray:
    return (np.arange(length) >= prefix).astype(np.int32)


def _packed(
    spec: Seq2SeqSpec,
    tokens: Tokens,
    segments: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    types: Sequence[np.ndarray],
    horizons: Sequence[np.ndarray],
    seed: int | None,
) -> PackedRows:
    return build_rows(
        segments,
        labels,
        spec.row_length,
        tokens.padding,
        seed,
        max_segments=spec.segments,
        type_ids=types if spec.has_types else None,
        token_fields={HORIZONS: horizons} if spec.way == PREFIX else {},
    )
