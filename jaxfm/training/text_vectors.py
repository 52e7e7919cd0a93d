"""A vector for each text by a run's encoder, whatever its task: the mean of the last hidden states of its tokens."""

# N texts, D model

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.sharding import Mesh

from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.training.record_vectors import RecordVectors
from jaxfm.training.saved_run import Restored

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MOST_TOKENS = 512
"""Of a text that are read: what follows is left out."""
_AT_ONCE = 256  # texts

Text = tuple[str, str | None]
"""A text, or the two of a pair."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextVectors:
    """Vectors of texts by one model.

    Attributes:
      restored: structure and parameters of the model, which has an `encoder` of texts.
      tokenizer: of the run.
      most_tokens: of a text, special ones counted.
      types: whether tokens of the second text of a pair have another type.
      mesh: where it is computed.
      batch_size: most rows at a time.
    """

    restored: Restored
    tokenizer: "PreTrainedTokenizerFast"
    most_tokens: int
    types: bool
    mesh: Mesh
    batch_size: int

    def __call__(self, texts: Sequence[Text], advance: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Returns f32 [N, D]."""
        vectors = RecordVectors(self.restored.graphdef, self.mesh, self.batch_size)
        parts = []
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            rows = self._rows(some)
            places = [
                [(int(row), int(start) + token) for token in range(self._length(rows, int(row), int(segment)))]
                for row, segment, start in rows.example_locations
            ]
            parts.append(vectors(self.restored.params, rows, places)[-1])
            advance(len(some))
        return np.concatenate(parts)

    def _rows(self, texts: Sequence[Text]) -> PackedRows:
        """Packs texts into rows, all of one length so that one program computes them."""
        length = min(self.most_tokens, MOST_TOKENS)
        pairs = texts[0][1] is not None
        found = self.tokenizer(
            [text for text, _ in texts],
            [pair or "" for _, pair in texts] if pairs else None,
            truncation=True,
            max_length=length,
            return_token_type_ids=True,
        )
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        # A text may have no token where the tokenizer adds none: a single one of padding keeps its place.
        tokens = [np.asarray(each or [pad], np.int32) for each in found["input_ids"]]  # type: ignore[arg-type]
        types = [np.asarray(each or [0], np.int32) for each in found["token_type_ids"]]  # type: ignore[arg-type]
        return build_rows(tokens, tokens, length, pad, None, type_ids=types if pairs and self.types else None)

    @staticmethod
    def _length(rows: PackedRows, row: int, segment: int) -> int:
        return int(np.count_nonzero(rows.segment_ids[row] == segment + 1))
