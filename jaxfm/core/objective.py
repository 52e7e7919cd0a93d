"""A model and what it minimises: all that a train step is made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

from jaxfm.config import AdaptConfig
from jaxfm.core.spec import Spec
from jaxfm.observe.metrics import Sums


class LossContext(NamedTuple):
    """What a loss may depend on beside the model and its batch.

    Attributes:
      key: for dropout and whatever else is random; another one each step and micro-batch.
      progress: 0 at the first step of a run, 1 at its end, for whatever changes during a run.
      constants: arrays that the step reads and never changes (a teacher's parameters, a Fisher diagonal); () for none.
    """

    key: jax.Array
    progress: Any = 0.0
    constants: Any = ()


class Loss(NamedTuple):
    """A loss as sums, so that micro-batches and hosts add up exactly: all is divided once, by the global weight.

    Attributes:
      total: f32 scalar, the SUM of losses.
      weight: f32 scalar, what the sum is divided by (the number of targets, or their weights).
      metrics: name -> (sum, weight) of further numbers for the log.
    """

    total: jax.Array
    weight: jax.Array
    metrics: Sums


class Objective(Protocol):
    """A model and its loss."""

    @property
    def spec(self) -> Spec:
        """What the model is beside its weights."""
        ...

    @property
    def whole_batch(self) -> bool:
        """Whether the loss of a batch is no sum over its micro-batches (contrastive losses): never accumulated."""
        ...

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the loss of a batch (arrays as `spec.batch_spec()` says)."""
        ...

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what scores need of each row, arrays [B, ...]; without dropout."""
        ...

    def logits_per_row(self) -> float:
        """Returns how many numbers the logits of a training row are: of a large vocabulary, much of a step's memory."""
        ...

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Returns the floating-point operations of forward and backward pass a row, by formula (`models.flops`)."""
        ...
