"""Distillation: an objective around a task's, which learns from trained models beside the targets.

What is learned of a teacher: its outputs (soft targets, Hinton et al. 2015, arXiv 1503.02531), its hidden states and
scores of attention (TinyBERT, Jiao et al. 2020, arXiv 1909.10351, section 3.1), and the relations among its queries,
keys and values (MiniLMv2, Wang et al. 2021, arXiv 2012.15828, section 3). The teacher computes each batch in the step,
as the student sees it (packed, masked, augmented), without dropout; its parameters are constants of the step, cut over
the mesh as the student's are. To everything else the run is an ordinary one of its task.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config
from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.objective import LearnsFromTeachers, Loss, LossContext, Objective, ReadsConstants
from jaxfm.core.spec import Spec
from jaxfm.distil_config import ATTENTION, HIDDEN, RELATIONS, DistilConfig
from jaxfm.models import flops
from jaxfm.models.layer_outputs import Recording, attention_scores, queries_keys_values, record
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.parallel.mesh import with_axes
from jaxfm.training import layer_losses
from jaxfm.training.distillation_checks import check, layer_pairs, relation_heads
from jaxfm.training.paths import TRAINING_ONLY
from jaxfm.training.teachers import KnownTeacher, Teacher, load, open_teachers

LOGITS = "teacher_logits"
"""Field of a batch whose rows bring a teacher's logits with them."""
_FORWARD = 1 / 3
"""Operations of a forward pass, as a share of a training pass."""


class HiddenProjection(nnx.Module):
    """A learned map of a student's hidden states to a teacher's width (TinyBERT, equation 8), one for all layers."""

    def __init__(self, width: int, teachers: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes kernel and bias."""
        self.hidden = nnx.Linear(
            width,
            teachers,
            dtype=dtype,
            kernel_init=with_axes(nnx.initializers.lecun_normal(), "embed", "norm"),
            bias_init=with_axes(nnx.initializers.zeros_init(), "norm"),
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [..., width of the teacher]."""
        return self.hidden(x)


def around(config: Config, objective: Objective, known: Sequence[KnownTeacher], build: Build, mesh: Mesh) -> Objective:
    """Returns the objective that a run trains: around the task's where `config.distil` names teachers, else as it is.

    `known` is what it names (`initial.find_teachers`).

    Raises:
      UserError: a teacher that does not fit the run, or settings under which nothing can be learned from it.
    """
    task = check(config, objective)
    if task is None:
        return objective
    assert len(known) == len(config.distil.teachers), "see initial.find_teachers"
    teachers = open_teachers(config, task, known, build, mesh)
    student = objective.spec.encoder
    pairs = layer_pairs(config, student, [teacher.encoder for teacher in teachers])
    heads = relation_heads(config, student, teachers[0].encoder) if config.distil.relations else 0
    return DistilledObjective(task, teachers, config.distil, pairs, heads)


def extended(objective: Objective, model: Any, build: Build, rngs: nnx.Rngs) -> Any:
    """Returns a model with what only its training has: a map to the teacher's width, where that is another one."""
    if isinstance(objective, DistilledObjective) and objective.projects:
        width = objective.teachers[0].encoder.hidden_size
        projection = HiddenProjection(objective.spec.encoder.hidden_size, width, build.dtype, rngs)
        setattr(model, TRAINING_ONLY, projection)
    return model


@dataclasses.dataclass(frozen=True, eq=False)
class DistilledObjective:
    """A task's objective whose model learns from teachers too (implements core.objective.Objective).

    `LossContext.constants` are the parameters of the teachers, in their order; where rows bring the teachers' logits
    with them (`distil.cache`), none.

    Attributes:
      inner: of the task.
      teachers: that are learned from.
      config: how.
      pairs: (layer of the student, layer of the teacher) whose hidden states and attention are compared, from 1.
      relation_heads: that relations are computed by.
    """

    inner: LearnsFromTeachers
    teachers: tuple[Teacher, ...]
    config: DistilConfig
    pairs: tuple[tuple[int, int], ...] = ()
    relation_heads: int = 0

    whole_batch = False

    @property
    def spec(self) -> Spec:
        """What the student is beside its weights."""
        return self._task.spec

    @property
    def _task(self) -> Any:
        return self.inner

    @property
    def reads_layers(self) -> bool:
        """Whether more than outputs is learned."""
        return bool(self.config.hidden or self.config.attention or self.config.relations)

    @property
    def projects(self) -> bool:
        """Whether hidden states are mapped to another width before they are compared."""
        return bool(self.config.hidden) and self.spec.encoder.hidden_size != self.teachers[0].encoder.hidden_size

    @property
    def constants(self) -> Any:
        """The (abstract) parameters that a step reads."""
        return () if self.config.cache else tuple(teacher.abstract for teacher in self.teachers)

    def fields(self) -> BatchSpec:
        """Returns what rows have beside the task's own fields: with a cache the teachers' logits."""
        return {LOGITS: logits_field(self.inner, self.teachers[0])} if self.config.cache else {}

    def load_constants(self) -> Any:
        """Reads the parameters of the teachers."""
        if self.config.cache:
            return ()
        return tuple(load(teacher, getattr(self.spec, "labels", ())) for teacher in self.teachers)

    def loss(self, model: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the weighted sum of the task's loss and of what is learned from the teachers.

        Each is a mean; "loss_hard", "loss_soft" and so on are these. The mean over layers' tokens is one over the whole
        batch, which then has no micro-batches (see `distillation_checks`).
        """
        config = self.config
        seen = self.inner.seen(model, batch, context)
        own = record(model.encoder) if self.reads_layers else None
        hard, logits = self.inner.loss_and_logits(model, batch, context)
        known, theirs = self._taught(seen, batch, context.constants)
        total, metrics = self._of_outputs(config, hard, logits, known, seen)
        if own is not None and theirs is not None:
            for name, factor, mean in self._of_layers(config, model, own, *theirs):
                total += factor * mean * hard.weight
                metrics[f"loss_{name}"] = weighted(mean * hard.weight, hard.weight)
        return Loss(total, hard.weight, metrics)

    def _taught(
        self, seen: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], constants: Any
    ) -> tuple[jax.Array | None, tuple[Any, Recording] | None]:
        """Returns the mean of the teachers' logits, and the last teacher's model with what its layers say."""
        if self.config.cache:
            return batch[LOGITS], None
        found, theirs = [], None
        for teacher, params in zip(self.teachers, constants, strict=True):
            with jax.named_scope("teacher"):
                model = teacher.model(params)
                if self.reads_layers:
                    theirs = model, record(model.encoder)
                if teacher.objective is None:
                    model.encoder(seen)
                else:
                    found.append(jax.lax.stop_gradient(teacher.objective.logits(model, seen)))
        return jnp.stack(found).mean(axis=0) if found else None, theirs

    def _of_outputs(
        self,
        config: DistilConfig,
        hard: Loss,
        logits: jax.Array,
        known: jax.Array | None,
        seen: Mapping[str, jax.Array],
    ) -> tuple[jax.Array, Sums]:
        """Returns the weighted sum of the losses against targets and against the teachers' logits, and metrics."""
        total = config.hard * hard.total
        metrics: Sums = {**hard.metrics, "loss_hard": weighted(hard.total, hard.weight)}
        if known is None:
            return total, metrics
        soft, weight = self.inner.soft_loss(logits, known, seen, config.temperature)
        return total + config.soft * soft, {**metrics, "loss_soft": weighted(soft, weight)}

    def _of_layers(
        self, config: DistilConfig, model: Any, own: Recording, teacher: Any, theirs: Recording
    ) -> list[tuple[str, float, jax.Array]]:
        """Returns (name, weight, mean) of what is learned of the layers."""
        found = []
        segments_BT, positions = own.inputs[0].segment_ids_BT, own.inputs[0].positions_BT
        student_LBTD, teacher_LBTD = own.states[0], jax.lax.stop_gradient(theirs.states[0])
        if config.hidden:
            pairs = ((0, 0), *self.pairs)  # what the first layers read, too
            mine_LBTD = student_LBTD[jnp.asarray([mine for mine, _ in pairs])]
            if self.projects:
                mine_LBTD = getattr(model, TRAINING_ONLY)(mine_LBTD)
            known_LBTD = teacher_LBTD[jnp.asarray([known for _, known in pairs])]
            found.append((HIDDEN, config.hidden, layer_losses.hidden_loss(mine_LBTD, known_LBTD, segments_BT)))
        if config.attention:
            losses = [
                layer_losses.attention_loss(
                    attention_scores(model.encoder, mine - 1, student_LBTD[mine - 1], positions),
                    attention_scores(teacher.encoder, known - 1, teacher_LBTD[known - 1], positions),
                    segments_BT,
                )
                for mine, known in self.pairs
            ]
            found.append((ATTENTION, config.attention, jnp.stack(losses).sum()))
        if config.relations:
            mine = self.spec.encoder.num_layers - 1
            known = (config.relation_layer or self.teachers[0].encoder.num_layers) - 1
            kinds = zip(
                queries_keys_values(model.encoder, mine, student_LBTD[mine]),
                queries_keys_values(teacher.encoder, known, teacher_LBTD[known]),
                strict=True,
            )
            losses = [layer_losses.relation_loss(*pair, segments_BT, self.relation_heads) for pair in kinds]
            found.append((RELATIONS, config.relations, jnp.stack(losses).sum()))
        return found

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns those of the student."""
        return self._task.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Those of student and teachers."""
        count = 0 if self.config.cache or not self.config.soft else len(self.teachers)
        return self._task.logits_per_row() * (1 + count)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the student, and of the teachers' forward passes; what compares layers does not count."""
        whole = self._task.flops_per_row(adapt)
        for teacher in () if self.config.cache else self.teachers:
            objective: Any = teacher.objective
            plain, length = AdaptConfig(), self.spec.row_length
            if objective is None:
                whole += _FORWARD * flops.encoder_flops_per_row(teacher.encoder, length, plain)
            else:
                whole += _FORWARD * objective.flops_per_row(plain)
        return whole


def logits_field(inner: LearnsFromTeachers, teacher: Teacher) -> Field:
    """Returns what a teacher's logits of a row are, as a field of a batch."""
    task: Any = inner
    batch = {
        name: jax.ShapeDtypeStruct((1, *field.shape), field.dtype) for name, field in task.spec.batch_spec().items()
    }
    assert teacher.objective is not None, "see distillation_checks"
    objective = teacher.objective
    found = jax.eval_shape(
        lambda params, batch: objective.logits(teacher.model(params), batch), teacher.abstract, batch
    )
    tokens = len(found.shape) > 1 and found.shape[1] == task.spec.row_length and task.spec.row_length > 1
    return Field(found.shape[1:], jnp.dtype(jnp.float32), axes=("tokens",) if tokens else ())


def read_by_steps(objective: Objective) -> tuple[Any, BatchSpec]:
    """Returns what the steps of a session's objective read beside the task's batches: abstract constants, fields."""
    return (objective.constants, objective.fields()) if isinstance(objective, ReadsConstants) else ((), {})


def load_constants(objective: Objective) -> Any:
    """Returns what the steps of a session's objective read: the parameters of its teachers, for example; () for none.

    Raises UserError where they cannot be read.
    """
    return objective.load_constants() if isinstance(objective, ReadsConstants) else ()


def notes(objective: Objective) -> tuple[str, ...]:
    """Returns lines for the log about the teachers of a session's objective."""
    if not isinstance(objective, DistilledObjective):
        return ()
    return tuple(
        f"teacher: {teacher.known.uri}, {teacher.encoder.family} of {teacher.encoder.num_layers} layers, "
        f"{teacher.parameters:,} parameters ({4 * teacher.parameters / 2**20:,.0f} MiB over all devices)"
        + (", its outputs kept with the rows" if objective.config.cache else "")
        for teacher in objective.teachers
    )
