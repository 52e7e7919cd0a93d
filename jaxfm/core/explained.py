"""What of a result is to be explained: numbers of a model's outputs, and the tokens that they may be due to."""

# N rows

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class TokenPlace(NamedTuple):
    """A token of the input. Tokens of the same characters are parts of one word, whose share is their sum.

    Attributes:
      row: of the encoded rows.
      place: in the row.
      field: of the record: "text" or "pair".
      start: of its word, in characters.
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
      places: [n, axes] where in the output array its values are.
      weights: [n] of these values.
      alternatives: what else it might have been -> probability, the likeliest first.
    """

    of: Mapping[str, Any]
    places: np.ndarray
    weights: np.ndarray
    alternatives: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """What is to be explained of one record.

    Attributes:
      output: name of the output array [N, ..., C] of `Predictor.outputs`.
      probability: what makes values of it: "softmax" (over C), "sigmoid", or "" (they are taken as they are).
      targets: parts of the result.
      tokens: of the input.
      baseline: the token that means nothing, which those are compared with.
    """

    output: str
    probability: str
    targets: tuple[Target, ...]
    tokens: tuple[TokenPlace, ...]
    baseline: int
