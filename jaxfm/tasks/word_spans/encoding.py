"""Sentences to packed rows whose spans of words are scored."""

# W words of a sentence, K widths

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from jaxfm.data.text.packing import build_rows
from jaxfm.data.text.tagging import Span
from jaxfm.data.text.windows import make_windows
from jaxfm.models.word_spans import FIRSTS, LASTS
from jaxfm.tasks.word_spans.spans import SpanRows, gold_classes, owners, piece_fields, span_labels, total_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


SOURCES = "sources"  # of a token: the number of the source that its sentence is of


class SpansSpec(Protocol):
    """What a spec says of how sentences become rows."""

    @property
    def row_length(self) -> int:
        """Tokens a packed row."""
        ...

    @property
    def window(self) -> int:
        """Longest example in tokens."""
        ...

    @property
    def overlap(self) -> int:
        """Tokens shared by neighbouring windows of one sentence."""
        ...

    @property
    def max_width(self) -> int:
        """Most words of a span."""
        ...


def encode_spans(
    spec: SpansSpec,
    tokenizer: "PreTrainedTokenizerFast",
    pieces: Sequence[Sequence[Sequence[int]]],
    *,
    index: Mapping[str, int],
    entities: Sequence[Sequence[Span]] | None = None,
    seed: int | None = None,
    packed: bool = True,
    sources: Sequence[int] | None = None,
) -> SpanRows:
    """Cuts sentences (the pieces of each word, as from `encode_words`) into windows and packs these.

    Args:
      spec: of the model.
      tokenizer: for its special tokens.
      pieces: of each word of each sentence.
      index: type -> its class; 0 is no entity.
      entities: of each sentence in words; None: not known.
      seed: windows are shuffled before packing (training); None: they are not.
      packed: several windows share a row; False: each has its own.
      sources: a number of each sentence, which its tokens have as the field `SOURCES`; None: there is no such field.
    """
    cls_id, sep_id, pad_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert isinstance(cls_id, int) and isinstance(sep_id, int) and isinstance(pad_id, int), "see check_tokenizer"
    windows = make_windows(
        pieces,
        None,
        cls_id=cls_id,
        sep_id=sep_id,
        max_length=spec.window,
        overlap=spec.overlap,
        context="sentence",
        documents=None,
    )
    sizes = [total_pieces(words, spec.window - 2) for words in pieces]
    bounds = np.searchsorted(windows.sentence, np.arange(len(pieces) + 1))
    owned, labels, firsts, lasts, numbers = [], [], [], [], []
    for sentence, (begin, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        owner_WK = owners(sizes[sentence], windows.reach[begin:stop], spec.max_width)
        found = [] if entities is None else entities[sentence]
        classes_WK, _ = gold_classes(found, index, len(sizes[sentence]), spec.max_width)
        for number in range(begin, stop):
            reach, length = windows.reach[number].tolist(), len(windows.tokens[number])
            first, last = piece_fields(sizes[sentence], reach, length)
            firsts.append(first)
            lasts.append(last)
            numbers.append(np.full(length, sources[sentence] if sources is not None else 0, np.int32))
            labels.append(span_labels(owner_WK, number - begin, reach, length, classes_WK))
        owned.append(np.where(owner_WK >= 0, owner_WK + begin, -1))
    rows = build_rows(
        windows.tokens,
        labels,
        spec.row_length,
        pad_id,
        seed,
        None if packed else 1,
        token_fields={FIRSTS: firsts, LASTS: lasts} | ({SOURCES: numbers} if sources is not None else {}),
    )
    return SpanRows(windows, rows, tuple(owned))
