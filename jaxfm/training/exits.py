"""Training with early heads: the losses of all heads of a model, summed.

A head after each n layers is trained beside the last one, by the same targets (Zhou et al. 2020, PABEE, arXiv
2006.04152, section 3.3) or by the last head's outputs (Phuong and Lampert 2019, "Distillation-based training for
multi-exit architectures"). To everything else such a run is an ordinary one of the whole model; who leaves where is
decided when it is used (`evaluation.exits`, `training.early_exit`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config
from jaxfm.core.exits import KEY, LeavesEarly
from jaxfm.core.objective import Distillable, Loss, LossContext, Objective
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.models.exits import Computed, compute
from jaxfm.observe.metrics import weighted
from jaxfm.training.supernet import is_asked_for


def around(config: Config, objective: Objective) -> Objective:
    """Returns the objective that a run trains: that of all heads where `config.exits` asks for some, else as it is.

    Raises:
      UserError: a task or settings under which a model has no early heads.
    """
    if not config.exits.every:
        return objective
    _check(config, objective)
    return ExitsObjective(
        objective,
        head_weights(objective.spec, config.exits.weights),
        detached=not config.exits.joint,
        distillation=config.exits.distillation,
        temperature=config.exits.temperature,
    )


def head_weights(spec: Any, weights: str) -> dict[int, float]:
    """Returns number of layers -> weight of the head after them; all weights together are 1."""
    layers = (*spec.exits, spec.encoder.num_layers)
    raw = {count: float(count) if weights == "depth" else 1.0 for count in layers}
    return {count: weight / sum(raw.values()) for count, weight in raw.items()}


def _check(config: Config, objective: Objective) -> None:
    task, spec = config.task.name, objective.spec
    problem = "its outputs are no classes, of which a head says how sure it is"
    if isinstance(spec, LeavesEarly):
        problem = spec.exit_problem()
    if problem:
        raise UserError(
            f"{KEY}.every: is {config.exits.every}, but a model of the task {task!r} has no early heads: {problem}. "
            "Set 0."
        )
    if is_asked_for(config.supernet):
        raise UserError(
            f"{KEY}.every: is {config.exits.every}, but config.supernet names smaller encoders, which leave out layers "
            "that early heads stand after. Take one of the two."
        )
    r_drop = getattr(getattr(config.task, "loss", None), "r_drop", 0.0)
    if r_drop:
        raise UserError(
            f"config.task.loss.r_drop: is {r_drop:g}, but with early heads ({KEY}.every) the layers are computed once. "
            "Set 0."
        )
    if bits := config.adapt.quantise.bits:
        raise UserError(
            f"config.adapt.quantise.bits: is {bits}, but early heads ({KEY}.every) are of a model in floats. Set 0."
        )
    if not config.exits.distillation:
        return
    problem = "its outputs cannot be learned from"
    if isinstance(objective, Distillable):
        problem = objective.distillation_problem()
    if problem:
        raise UserError(
            f"{KEY}.distillation: is {config.exits.distillation:g}, but of the task {task!r} {problem}. Set 0: early "
            "heads then learn from the targets."
        )


@dataclasses.dataclass(frozen=True)
class ExitsObjective:
    """Any objective, over all heads of a model (implements core.objective.Objective).

    Attributes:
      inner: of the task; its model has early heads.
      weights: number of layers -> what the loss of the head after them counts, the last head's last; their sum is 1.
      detached: early heads do not change the layers.
      distillation: how far early heads learn from the last one's outputs, in place of the targets.
      temperature: of the probabilities that they learn from.
    """

    inner: Objective
    weights: Mapping[int, float]
    detached: bool = False
    distillation: float = 0.0
    temperature: float = 1.0

    @property
    def spec(self) -> Spec:
        """What the model is beside its weights."""
        return self.inner.spec

    @property
    def whole_batch(self) -> bool:
        """As the task's."""
        return self.inner.whole_batch

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the weighted mean of the losses of all heads, which read one pass through the layers.

        Metrics are the last head's, and "loss_after_N" of each.
        """
        *early, last = self.weights
        heads = compute(model, early, batch, context.key, detached=self.detached)
        whole = self.inner.loss(heads[last], batch, context)
        teacher = self._teacher(heads[last], batch, context)
        losses = {count: self._early(heads[count], teacher, batch, context) for count in early} | {last: whole}
        total = sum((weight * losses[count].total for count, weight in self.weights.items()), jnp.zeros(()))
        metrics = {f"loss_after_{count}": weighted(each.total, each.weight) for count, each in losses.items()}
        return Loss(total, whole.weight, whole.metrics | metrics)

    def _teacher(self, head: Computed, batch: Mapping[str, jax.Array], context: LossContext) -> jax.Array | None:
        if not self.distillation:
            return None
        assert isinstance(self.inner, Distillable), "see around"
        return jax.lax.stop_gradient(self.inner.logits(head, batch, context.key))

    def _early(
        self, head: Computed, teacher: jax.Array | None, batch: Mapping[str, jax.Array], context: LossContext
    ) -> Loss:
        """Returns the loss of an early head against the targets, the last head's outputs or, in parts, both."""
        hard = self.inner.loss(head, batch, context)
        if teacher is None:
            return hard
        assert isinstance(self.inner, Distillable), "see around"
        logits, share = self.inner.logits(head, batch, context.key), self.distillation
        soft, _ = self.inner.soft_loss(logits, teacher, batch, self.temperature)
        return Loss((1 - share) * hard.total + share * soft, hard.weight, hard.metrics)

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns those of the last head."""
        return self.inner.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Those of all heads."""
        return self.inner.logits_per_row() * len(self.weights)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the whole model; early heads are little beside layers and, as adapters, do not count."""
        return self.inner.flops_per_row(adapt)
