"""Texts of a role to tokens and packed rows, by what a spec says of them."""

# B batch, S segments (texts in a row), K texts a group, G groups a row, E embedding, N texts

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from jaxfm.core.batch import BatchSpec
from jaxfm.data.text.grouped_rows import group_fields
from jaxfm.data.text.packing import PackedRows, build_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

QUERY, DOCUMENT = ROLES = ("query", "document")
EXPANSIONS = ("none", "unattended", "attended")  # of queries, see `TextReading`
_TEXTS_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take


_Rows = TypeVar("_Rows", bound=Any)


@dataclasses.dataclass(frozen=True)
class TextReading:
    """How a text of a role is read.

    Attributes:
      prompt: put before it.
      length: tokens that are read, those of the prompt and special ones included; longer texts are cut.
      expansion: what fills a shorter text up to that length: "none", or mask tokens to which the text's own tokens
        attend ("attended") or do not ("unattended").
    """

    prompt: str
    length: int
    expansion: str = "none"


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

    def reading(self, role: str) -> TextReading:
        """Returns how a text of a role is read."""
        ...


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
    tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], reading: TextReading
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the tokens of each text, special tokens included, and bool [N]: which had to be cut.

    A token t to which no other attends is -t - 1 until texts are packed; see `unmarked`.
    """
    mask = 0
    if reading.expansion != "none":
        mask_id = tokenizer.mask_token_id
        assert isinstance(mask_id, int), "the task has checked it"
        mask = mask_id if reading.expansion == "attended" else ~mask_id
    tokens: list[np.ndarray] = []
    cut: list[bool] = []
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        batch = tokenizer(
            [reading.prompt + text for text in texts[first : first + _TEXTS_PER_CALL]],
            truncation=True,
            max_length=reading.length,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        for encoding in batch.encodings or ():
            ids = np.asarray(encoding.ids, np.int32)
            if reading.expansion != "none":
                ids = np.pad(ids, (0, reading.length - len(ids)), constant_values=mask)
            tokens.append(ids)
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
    tokens, cut = tokenize(tokenizer, texts, spec.reading(role))
    return EncodedTexts(pack_texts(spec, tokenizer, tokens), cut)


def pack_texts(spec: TextsSpec, tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[np.ndarray]) -> PackedRows:
    """Packs texts that are tokenized."""
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    unknown = np.full(len(tokens), -1, np.int32)
    return unmarked(build_rows(tokens, unknown, spec.row_length, pad_id, None, max_segments=spec.segments))


def unmarked(rows: _Rows) -> _Rows:
    """Returns packed rows in which tokens that `tokenize` has marked are themselves, in negative segments.

    A token of segment -n attends to segment n, and no token attends to it (`models.attention.segment_mask`).
    """
    marked = rows.tokens < 0
    if not marked.any():
        return rows
    return dataclasses.replace(
        rows,
        tokens=np.where(marked, ~rows.tokens, rows.tokens),
        segment_ids=np.where(marked, -rows.segment_ids, rows.segment_ids),
    )
