"""What of a result is to be explained: numbers of a model's outputs, and the tokens that they may be due to."""

# n values, m tokens, N rows

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# Arrays of `core.task.ExplainsResults.explained_outputs`: what the head gives, and what is made of it. The places of a
# target are the same in both.
SCORES, PROBABILITIES = "scores", "probabilities"


class TokenPlace(NamedTuple):
    """A token of the input. Tokens of the same characters are parts of one word, whose share is their sum.

    Attributes:
      row: of the encoded rows.
      place: in the row.
      field: of the record: "text", "pair" or "image".
      start: of its word, in characters; of an image the number of the patch, row by row.
      end: of its word, end exclusive.
    """

    row: int
    place: int
    field: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A part of a result: the sum of some values of an output array, each times its weight.

    Attributes:
      of: what it is, as the result has it: {"label": "joy"}, {"start": 3, "end": 6, "type": "LOC"}.
      places: [n, axes] where in the output array its values are, its row first.
      weights: [n] of these values.
      reads: [m, 2] row and place of the tokens whose last hidden states the head makes these values of.
      alternatives: what else it might have been -> probability, the likeliest first.
    """

    of: Mapping[str, Any]
    places: np.ndarray
    weights: np.ndarray
    reads: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 2), np.int64))
    alternatives: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """An image whose patches are the tokens.

    Attributes:
      pixels: as the model sees them, uint8 [H, W, C].
      grid: rows and columns of patches.
    """

    pixels: np.ndarray
    grid: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """What is to be explained of one record.

    No output of a record depends on tokens of another one: many are explained in one pass.

    Attributes:
      result: of the record, as predictions have it.
      texts: field -> its text, of which the tokens' characters are counted.
      targets: parts of the result.
      tokens: of the input.
      baseline: the token that means nothing, which those are compared with; of images grey takes its place.
      judged: whether the values are turned into probabilities; else both arrays are the same.
      picture: the image, where the record is one.
    """

    result: Mapping[str, Any]
    texts: Mapping[str, str]
    targets: tuple[Target, ...]
    tokens: tuple[TokenPlace, ...]
    baseline: int
    judged: bool = True
    picture: Picture | None = None

    def words(self) -> dict[tuple[str, int, int], list[tuple[int, int]]]:
        """Returns (field, start, end) of each word, in order -> row and place of its tokens."""
        found: dict[tuple[str, int, int], list[tuple[int, int]]] = {}
        for token in self.tokens:
            found.setdefault((token.field, token.start, token.end), []).append((token.row, token.place))
        return found
