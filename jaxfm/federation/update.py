"""What a client sends to the server: numbers of the model, and never a text, a token or a label."""

import dataclasses
from collections.abc import Mapping

import numpy as np

Values = dict[str, np.ndarray]
"""Path -> f32 array of what is trained of a model: "encoder/layers/ffn/up/kernel", as `training.paths` names it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Update:
    """What a client's local training of a round comes to.

    Attributes:
      client: its number, from 0.
      difference: path -> f32, the trained values after local training minus those that the server sent.
      examples: that the client trains on: its weight in a mean.
      steps: local updates that were done.
      metrics: means over them ("loss"), of the client's training examples as a whole.
      control: path -> f32, the change of the client's control variate (SCAFFOLD); None for other methods.
    """

    client: int
    difference: Values
    examples: int
    steps: int
    metrics: dict[str, float]
    control: Values | None = None

    @property
    def size(self) -> int:
        """Bytes of the arrays that are sent."""
        return size_of(self.difference) + (0 if self.control is None else size_of(self.control))


@dataclasses.dataclass(frozen=True)
class Scores:
    """How the server's model does on the examples that a client holds out.

    Attributes:
      client: its number.
      examples: that were scored.
      metrics: name -> value; NaN where one is not defined for these examples.
    """

    client: int
    examples: int
    metrics: dict[str, float]


def size_of(values: Mapping[str, np.ndarray]) -> int:
    """Returns the bytes of arrays."""
    return sum(value.nbytes for value in values.values())
