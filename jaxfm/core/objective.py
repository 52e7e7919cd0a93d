"""A model and what it minimises: all that a train step is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.batch import BatchSpec
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.spec import Spec
from jaxfm.observe.metrics import Sums


class LossContext(NamedTuple):
    """What a loss may depend on beside the model and its batch.

    Attributes:
      key: for dropout and whatever else is random; another one each step and micro-batch.
      progress: 0 at the first step of a run, 1 at its end, for whatever changes during a run.
      constants: arrays that the step reads and never changes (a teacher's parameters, a Fisher diagonal); () for none.
      step_key: for what is random and the same in all micro-batches of a step; None: `key` is of the whole step.
    """

    key: jax.Array
    progress: Any = 0.0
    constants: Any = ()
    step_key: jax.Array | None = None


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
        """Whether the loss compares all rows of a batch, so that it is not a sum over micro-batches.

        Then it is a `WholeBatchObjective`, which can be accumulated all the same.
        """
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


class WholeBatchObjective(Objective, Protocol):
    """A model whose loss compares the rows of a batch with each other: contrastive losses.

    `loss(model, batch, context)` is `compare(model, embed(model, batch, context.key), batch, context)`.
    """

    def embed(self, model: Any, batch: Mapping[str, jax.Array], key: Any) -> Any:
        """Returns what is compared: arrays [B, ...], each row of which depends on that row of the batch alone.

        `key`, a `models.dropout.DropoutKey`, turns dropout on.
        """
        ...

    def compare(self, model: Any, embedded: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the loss of what `embed` gave; of the batch, it reads what no layer does (targets)."""
        ...


@runtime_checkable
class HasPhases(Protocol):
    """What an objective is beside `Objective` where parts of a run differ in what is minimised: for the log."""

    @property
    def phases(self) -> Sequence[tuple[float, str]]:
        """Progress from which a part holds, ascending from 0, and what its steps do; () where all do the same."""
        ...


@runtime_checkable
class ReadsConstants(Protocol):
    """What an objective is beside `Objective` where its steps read arrays that no update changes."""

    @property
    def constants(self) -> Any:
        """Shapes and shardings of `LossContext.constants`."""
        ...

    def fields(self) -> BatchSpec:
        """Returns what rows have beside the fields of `spec.batch_spec()`."""
        ...

    def load_constants(self) -> Any:
        """Reads the arrays; UserError where they cannot be read."""
        ...


@runtime_checkable
class Distillable(Protocol):
    """What an objective is beside `Objective` where a model can learn from another one's outputs.

    Both models compute the same batch; they may have other shapes, but the same targets.
    """

    def distillation_problem(self) -> str:
        """Returns why models of this kind cannot learn from outputs; "" where they can."""
        ...

    def logits(self, model: Any, batch: Mapping[str, jax.Array], key: Any = None) -> jax.Array:
        """Returns what is learned from, logits or numbers [B, ...]; `key` turns dropout on."""
        ...

    def soft_loss(
        self, logits: jax.Array, teacher: jax.Array, batch: Mapping[str, jax.Array], temperature: float
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the SUM of losses of `logits` against those of the teacher at all targets, and their weight."""
        ...


@runtime_checkable
class LearnsFromTeachers(Distillable, Protocol):
    """What an objective is beside `Objective` where a model can learn from a trained one, whatever that one was."""

    @property
    def draws(self) -> bool:
        """Whether what a model is given of a training row is drawn anew at each step: masks, changes of images."""
        ...

    def seen(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Mapping[str, jax.Array]:
        """Returns what `loss` gives to the model of a batch, with the same draws: for `logits` and for teachers."""
        ...

    def loss_and_logits(
        self, model: Any, batch: Mapping[str, jax.Array], context: LossContext
    ) -> tuple[Loss, jax.Array]:
        """Returns `loss`, and `logits` of `seen` under the dropout of that loss: one pass gives both."""
        ...

    def of_teacher(self, spec: Spec | None, encoder: EncoderConfig) -> "LearnsFromTeachers":
        """Returns the objective of a teacher that computes the rows of this one, with the targets of this one.

        Args:
          spec: of the teacher's run; None: weights that are not of a run are read as this task would read them.
          encoder: of the teacher.

        Raises:
          UserError: the teacher is of another kind.
        """
        ...


@runtime_checkable
class Augmentable(Protocol):
    """What an objective of texts is beside `Objective` where its training rows may be changed while targets stay true.

    Any word may be hidden. What "mixup" needs: the model is an encoder and a head (`models.exits.Head`), and
    "labels" are one or more numbers for each segment, or one for each token.
    """

    def fixed_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns which tokens, bool [B, T], no other word may stand in place of, as targets are about them."""
        ...

    def mixup_problem(self) -> str:
        """Returns why hidden states and targets of two examples cannot be mixed; "" where they can."""
        ...
