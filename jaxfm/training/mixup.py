"""Training on mixtures of two examples: an objective around a task's that mixes hidden states and losses.

Manifold mixup (Verma et al. 2019, arXiv 1806.05236, section 2) at the layers of TMix (Chen et al. 2020, MixText, arXiv
2004.12239, section 3.1). Each example of a batch, wherever it lies in a packed row, is mixed with another one of the
batch, token by token from their first ones on: after a layer drawn for the step, its states are `1 - s` times its own
and `s` times the other's, and its loss is as much against its own and against the other's target. `s` is at most a half
(section 4.3 of MixText takes max(lambda, 1 - lambda)), one number for a step. An example's length stays.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.augment_config import TextAugmentConfig
from jaxfm.config import Config
from jaxfm.core.objective import Loss, LossContext, Objective
from jaxfm.core.spec import Spec
from jaxfm.models.dropout import split_key
from jaxfm.models.exits import Computed
from jaxfm.models.mixup import Mixing, draw_partners, partners_of_segments
from jaxfm.observe.metrics import weighted
from jaxfm.training.augmentation_checks import check, mixed_layers

TARGETS = "labels"
_MIXUP = 0x6D697875
"""Tells these draws from others of a step's key."""


def around(config: Config, objective: Objective) -> Objective:
    """Returns the objective that a run trains: of mixtures where `config.augment.mixup` asks for some, else as it is.

    Raises UserError as `augmentation_checks`.
    """
    if check(config, objective) is None or not config.augment.mixup:
        return objective
    return MixupObjective(objective, config.augment, mixed_layers(config, objective.spec.encoder))


def notes(objective: Objective) -> tuple[str, ...]:
    """Returns lines for the log about the mixtures of a session's objective."""
    if not isinstance(objective, MixupObjective):
        return ()
    layers = ", ".join(map(str, objective.layers))
    return (f"mixup: each example with another of the batch, beta({objective.config.mixup:g}), after layer {layers}",)


def is_on(config: TextAugmentConfig, progress: Any) -> Any:
    """Returns whether rows are changed when a run has come this far: True for all of it, else a traced bool."""
    if (config.start, config.stop) == (0.0, 1.0):
        return True
    return (jnp.asarray(progress) >= config.start) & (jnp.asarray(progress) < config.stop)


@dataclasses.dataclass(frozen=True, eq=False)
class MixupObjective:
    """A task's objective over mixtures of examples (implements core.objective.Objective).

    Attributes:
      inner: of the task.
      config: parameter of the beta distribution, and when.
      layers: the numbers of layers after one of which states are mixed.
    """

    inner: Objective
    config: TextAugmentConfig
    layers: tuple[int, ...]

    whole_batch = False

    @property
    def spec(self) -> Spec:
        """What the model is beside its weights."""
        return self.inner.spec

    def draw(self, batch: Mapping[str, jax.Array], context: LossContext) -> tuple[Mixing, Mapping[str, jax.Array]]:
        """Returns how the examples of a batch are mixed at this step, and the batch with the others' targets."""
        key = context.key if context.step_key is None else context.step_key
        share_key, layer_key, partner_key = jax.random.split(jax.random.fold_in(key, _MIXUP), 3)
        share = jax.random.beta(share_key, self.config.mixup, self.config.mixup, dtype=jnp.float32)
        chosen = jnp.asarray(self.layers, jnp.int32)[jax.random.randint(layer_key, (), 0, len(self.layers))]
        on = is_on(self.config, context.progress)
        share, chosen = jnp.where(on, jnp.minimum(share, 1 - share), 0.0), jnp.where(on, chosen, -1)
        segments_BT = batch["segment_ids"]
        partners_BT, own_BT, other_BT = draw_partners(partner_key, segments_BT, batch["positions"])
        there = partners_BT
        if "tokens" not in self.spec.batch_spec()[TARGETS].axes:
            there = partners_of_segments(own_BT, other_BT, segments_BT, batch[TARGETS].shape[1])
        targets = batch[TARGETS].reshape(-1, *batch[TARGETS].shape[2:])[there]
        return Mixing(self.layers, chosen, share, partners_BT), {**batch, TARGETS: targets}

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the losses against an example's own target and the other's, weighted by their shares.

        Metrics are against its own target; "mixup_share" is the other's share.
        """
        mixing, others = self.draw(batch, context)
        inputs = model.encoder.encode(batch, key=split_key(context.key, 2)[0], mixing=mixing)
        mixed: Any = Computed(inputs, model)
        own, other = self.inner.loss(mixed, batch, context), self.inner.loss(mixed, others, context)
        share = mixing.other_share
        total = own.total + share * (other.total - own.total)
        weight = own.weight + share * (other.weight - own.weight)
        return Loss(total, weight, {**own.metrics, "mixup_share": weighted(share)})

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns those of the task: of examples as they are."""
        return self.inner.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Those of the task."""
        return self.inner.logits_per_row()

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the task."""
        return self.inner.flops_per_row(adapt)
