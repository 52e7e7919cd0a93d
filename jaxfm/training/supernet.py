"""A supernet: one encoder, trained so that the smaller ones inside it are good models too.

Each update has the largest model, the smallest and some that are drawn (the sandwich rule of Yu et al. 2020, BigNAS,
arXiv 2003.11142, section 3.1). The largest learns from the targets as ever, the others from its outputs (in-place
distillation, the same section), or from targets too. Which are drawn depends on seed and step alone, so that a run
resumes exactly, is the same on every mesh, and does not depend on how a batch is cut into micro-batches.

To everything else a supernet is an ordinary run of the largest model; `models.subnets` says what the smaller ones are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config, SupernetConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import Distillable, LearnsFromTeachers, Loss, LossContext, Objective
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.models.subnets import (
    LAYERS,
    Selection,
    SubnetSpace,
    cut_encoder,
    draw_selection,
    select,
    selection_of,
)
from jaxfm.observe.metrics import weighted
from jaxfm.training.paths import flat

KEY = "config.supernet"
_TEACHER_PASS = 1 / 3
"""Operations of the pass that gives the outputs to learn from, as a share of a training pass."""


def is_asked_for(config: SupernetConfig) -> bool:
    """Whether a run trains smaller encoders inside its own."""
    return bool(config.depths or config.heads or config.ffn_sizes)


def space_of(config: SupernetConfig, encoder: EncoderConfig) -> SubnetSpace:
    """Returns the subnets that a config names.

    Raises:
      UserError: sizes that the encoder does not have, or an encoder whose layers or heads cannot be left out.
    """
    shared = encoder.num_heads // encoder.kv_heads
    if encoder.layer_groups:
        raise UserError(
            f"{KEY}: the layers of a {encoder.family} encoder share their weights already, so that none can be left "
            "out. Take an encoder whose layers have their own weights."
        )
    if config.depths and encoder.local_window:
        raise UserError(
            f"{KEY}.depths: some layers of a {encoder.family} encoder see a window, and which ones goes by their "
            "number, so that none can be left out. Take heads and ffn_sizes alone."
        )
    if config.heads and encoder.relative_positions == "bias":
        raise UserError(
            f"{KEY}.heads: the heads of a {encoder.family} encoder have biases by distance that all layers share. Take "
            "depths and ffn_sizes alone."
        )

    def sizes(name: str, asked: Sequence[int], most: int, what: str) -> tuple[int, ...]:
        if wrong := [size for size in asked if not 1 <= size <= most]:
            raise UserError(
                f"{KEY}.{name}: {wrong[0]}, but the encoder has {most} {what}: give numbers from 1 to {most}."
            )
        return tuple(sorted({*asked, most}))

    heads = sizes("heads", config.heads, encoder.num_heads, "heads")
    if wrong := [size for size in heads if size % shared]:
        raise UserError(
            f"{KEY}.heads: {wrong[0]}, but {shared} heads of queries share keys and values: give multiples of {shared}."
        )
    depths = sizes("depths", config.depths, encoder.num_layers, "layers")
    return SubnetSpace(depths, heads, sizes("ffn_sizes", config.ffn_sizes, encoder.ffn_size, "neurons"))


def around(config: Config, objective: Objective) -> Objective:
    """Returns the objective that a run trains: a supernet's where `config.supernet` names subnets, else as it is.

    Raises:
      UserError: as `space_of`, and settings under which subnets cannot be trained.
    """
    asked = config.supernet
    if not is_asked_for(asked):
        return objective
    _check(config, objective)
    return SupernetObjective(
        objective,
        space_of(asked, objective.spec.encoder),
        config.supernet.random,
        config.supernet.distillation,
        config.supernet.temperature,
    )


def check_model(config: Config, params: Any) -> None:
    """Raises UserError where subnets are asked for of a model whose (abstract) parameters have no layers."""
    if is_asked_for(config.supernet) and not any(path.startswith(LAYERS) for path in flat(params)):
        raise UserError(
            f"{KEY}: the model of the task {config.task.name!r} is not one encoder, inside which subnets lie. "
            "Leave it empty."
        )


def _check(config: Config, objective: Objective) -> None:
    adapt, accumulate = config.adapt, config.train.accumulate
    frozen = {
        "lora.rank": adapt.lora.rank,
        "quantise.bits": adapt.quantise.bits,
        "adapter_size": adapt.adapter_size,
        "prefix_length": adapt.prefix_length,
        "freeze_layers": adapt.freeze_layers,
        "freeze": adapt.freeze,
        "unfreeze_every": adapt.unfreeze_every,
        "train": "" if adapt.train == "all" else adapt.train,
    }
    for name, value in frozen.items():
        if value:
            raise UserError(
                f"config.adapt.{name}: is {value!r}, but the weights of a supernet ({KEY}) are trained as a whole. "
                f"Leave it as it is by default, or {KEY} empty."
            )
    added = ("lora_rank", "adapter_size", "prefix_length")
    if given := [name for name in added if getattr(objective.spec.encoder, name)]:
        raise UserError(
            f"{KEY}: the first weights have adapters ({given[0]}), which subnets have not. Merge them first."
        )
    if objective.whole_batch and accumulate > 1:
        raise UserError(
            f"config.train.accumulate: is {accumulate}, but the loss of this task compares whole batches, of which a "
            f"supernet ({KEY}) has no micro-batches. Set 1."
        )
    distillation = config.supernet.distillation
    if not distillation:
        return
    problem = "its outputs cannot be learned from"
    # Where the loss draws what a model sees of a row, the largest model would see another row than the subnets.
    draws = isinstance(objective, LearnsFromTeachers) and objective.draws
    if isinstance(objective, Distillable) and not draws:
        problem = objective.distillation_problem()
    if problem:
        raise UserError(
            f"{KEY}.distillation: is {distillation:g}, but of the task {config.task.name!r} {problem}. Set 0: subnets "
            "then learn from the targets."
        )


@dataclasses.dataclass(frozen=True)
class SupernetObjective:
    """Any objective, over the largest model and smaller ones inside it (implements core.objective.Objective).

    Attributes:
      inner: of the task.
      space: the subnets.
      random: subnets drawn for each step.
      distillation: how far subnets learn from the largest one's outputs, in place of the targets.
      temperature: of the probabilities that they learn from.
    """

    inner: Objective
    space: SubnetSpace
    random: int = 2
    distillation: float = 1.0
    temperature: float = 1.0

    @property
    def spec(self) -> Spec:
        """What the largest model is beside its weights."""
        return self.inner.spec

    @property
    def whole_batch(self) -> bool:
        """As the task's."""
        return self.inner.whole_batch

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the mean of the losses of the largest model, the smallest and those drawn.

        The largest has the same dropout as without a supernet; a model that learns from its outputs has none, nor have
        these outputs. Metrics are the largest model's, and "loss_largest", "loss_smallest" and "loss_random".
        """
        largest = self.inner.loss(model, batch, context)
        teacher = self._teacher(model, batch)
        encoder, total = self.spec.encoder, largest.total
        losses = {"largest": [largest], "smallest": [], "random": []}
        for number, (name, selection) in enumerate(self._selections(encoder, context), start=1):
            own = context._replace(key=jax.random.fold_in(context.key, number))
            losses[name].append(self._of_subnet(select(model, selection), teacher, batch, own))
            total += losses[name][-1].total
        metrics = {
            f"loss_{name}": weighted(sum(each.total for each in found), sum(each.weight for each in found))
            for name, found in losses.items()
            if found
        }
        return Loss(total / sum(map(len, losses.values())), largest.weight, largest.metrics | metrics)

    def _selections(self, encoder: EncoderConfig, context: LossContext) -> list[tuple[str, Selection]]:
        """Returns the subnets of a step: the smallest, then those drawn."""
        key = context.key if context.step_key is None else context.step_key
        drawn = [draw_selection(jax.random.fold_in(key, number), encoder, self.space) for number in range(self.random)]
        return [("smallest", selection_of(encoder, self.space.smallest)), *(("random", each) for each in drawn)]

    def _teacher(self, model: Any, batch: Mapping[str, jax.Array]) -> jax.Array | None:
        if not self.distillation:
            return None
        assert isinstance(self.inner, Distillable), "see around"
        return jax.lax.stop_gradient(self.inner.logits(model, batch))

    def _of_subnet(
        self, model: Any, teacher: jax.Array | None, batch: Mapping[str, jax.Array], context: LossContext
    ) -> Loss:
        """Returns the loss of a subnet against the teacher, the targets or, in parts, both."""
        share = self.distillation
        hard = self.inner.loss(model, batch, context) if share < 1 else None
        if teacher is None:
            assert hard is not None
            return hard
        assert isinstance(self.inner, Distillable), "see around"
        soft, weight = self.inner.soft_loss(self.inner.logits(model, batch), teacher, batch, self.temperature)
        if hard is None:
            return Loss(soft, weight, {})
        return Loss((1 - share) * hard.total + share * soft, hard.weight, {})

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns those of the largest model."""
        return self.inner.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Those of all models of a step."""
        return self.inner.logits_per_row() * (2 + self.random)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the largest model, of the smallest, and of those drawn, as if each were half-way between these two.

        The pass whose outputs are learned from counts too; what masks multiply by zero does not.
        """
        whole = self.inner.flops_per_row(adapt)
        smallest = of_shape(self.inner, cut_encoder(self.spec.encoder, self.space.smallest)).flops_per_row(adapt)
        teacher = _TEACHER_PASS * whole if self.distillation else 0.0
        passes = 1 + (0 < self.distillation < 1)
        return whole + teacher + passes * (smallest + self.random * (whole + smallest) / 2)


def of_shape(objective: Any, encoder: EncoderConfig) -> Any:
    """Returns an objective, or what else has a `spec`, of another shape of encoder."""
    return dataclasses.replace(objective, spec=dataclasses.replace(objective.spec, encoder=encoder))
