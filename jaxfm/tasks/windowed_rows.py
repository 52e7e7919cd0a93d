"""Texts as overlapping windows in packed rows, and the way back to one value a word."""

# N rows, T tokens

import dataclasses

import numpy as np

from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.windows import Windows


@dataclasses.dataclass(frozen=True)
class WindowedRows:
    """Sentences as windows in packed rows.

    Attributes:
      windows: the windows.
      rows: the packed rows of the windows.
      word_counts: words of each sentence.
    """

    windows: Windows
    rows: PackedRows
    word_counts: tuple[int, ...]

    @property
    def read_tokens(self) -> np.ndarray:
        """Which tokens have the value of a word, bool [N, T]: the first pieces of the words that a window owns."""
        read_NT = np.zeros(self.rows.tokens.shape, bool)
        for words, (row, _, start) in zip(self.windows.words, self.rows.example_locations, strict=True):
            read_NT[row, start + np.flatnonzero(words >= 0)] = True
        return read_NT

    def per_word(self, values_NT: np.ndarray) -> list[np.ndarray]:
        """Returns for each sentence the values at its words' own positions [words, ...], from an array [N, T, ...].

        Each word is owned by exactly one window, so every word gets exactly one value.
        """
        result = [np.empty((count, *values_NT.shape[2:]), values_NT.dtype) for count in self.word_counts]
        filled = np.zeros(len(result), np.int64)
        for sentence, words, (row, _, start) in zip(
            self.windows.sentence, self.windows.words, self.rows.example_locations, strict=True
        ):
            owned = np.flatnonzero(words >= 0)
            result[sentence][words[owned]] = values_NT[row, start + owned]
            filled[sentence] += len(owned)
        assert np.array_equal(filled, self.word_counts), "a word without its one prediction"
        return result
