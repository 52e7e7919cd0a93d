"""What a task is where it can be learned from few labels by other means than steps of gradients from labels alone."""

# B batch, S segments (examples in a row), D numbers of a vector

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxfm.config import Config


@dataclasses.dataclass(frozen=True)
class FitPlan:
    """What is done in place of ordinary training.

    Attributes:
      key: of the config that asks for it, with its value: "config.task.fit=setfit".
      pairs: whether the encoder is trained first, on pairs of examples that are alike or not.
      head: whether the last layer is fitted to the vectors of the training examples; False: nothing is new in it.
    """

    key: str
    pairs: bool
    head: bool


@runtime_checkable
class PlansFit(Protocol):
    """What a `core.task.TaskDefinition` is beside that where its models may be learned otherwise."""

    def fit_plan(self, config: Config) -> FitPlan | None:
        """Returns what a config asks for; None: ordinary training."""
        ...


@runtime_checkable
class FitsHead(Protocol):
    """What a task is beside `core.task.Task` where its last layer can be fitted to vectors of the encoder."""

    def head_vectors(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "vectors" [B, S, D], which the last layer reads."""
        ...

    def fitted_head(self, outputs: Mapping[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
        """Returns path -> array of the last layer, fitted to the `head_vectors` of the training rows."""
        ...

    def pair_records(self, config: Config) -> list[dict[str, Any]]:
        """Returns pairs of training texts: {"text", "pair", "score"}, 1 where they are alike, else 0."""
        ...


@runtime_checkable
class LearnsFromPairs(Protocol):
    """What a `core.task.TaskDefinition` is beside that where it trains vectors of texts on scored pairs."""

    def config_of_pairs(self, config: Config, source: str, *, pooling: str, window: int) -> Config:
        """Returns the config of a run over pairs of two texts and a score, 0 or 1, that has all else of another's.

        Args:
          config: of a run over single texts.
          source: of the pairs: columns text, pair, score.
          pooling: how the vector of a text is made.
          window: longest text in tokens.
        """
        ...
