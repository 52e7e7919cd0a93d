"""A train step free of any run: a model, its loss and an optimizer over a mesh, from shapes alone.

`jaxfm.training.fit` makes a run of it. Other programs use the same pieces: a round of federated training takes a few
items of `steps` for each client and averages; many seeds are `jax.vmap` of `train_step` (`jaxfm.training.stepping`);
distillation is an objective that reads `constants`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.batch import BatchSpec, axes_of
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.initial import HostArray
from jaxfm.core.objective import Loss, LossContext, Objective
from jaxfm.models.kernels import describe
from jaxfm.observe import metrics as metrics_lib
from jaxfm.observe.metrics import Sums
from jaxfm.optim_config import OptimConfig
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel import target
from jaxfm.training import (
    augmentation,
    consolidation,
    distillation,
    exits,
    mixup,
    mup,
    optimizers,
    supernet,
    whole_batch,
)
from jaxfm.training.adaptation import Adaptation, make_adaptation
from jaxfm.training.corruption import Verifier, check_deterministic
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.hashes import hash_of
from jaxfm.training.optim import make_optimizer, range_rates
from jaxfm.training.private_rows import make_row_privacy
from jaxfm.training.rate_schedules import Schedule, make_schedule
from jaxfm.training.spikes import make_spike_guard
from jaxfm.training.state import NO_PARAMS, TrainState, abstract_state, new_state
from jaxfm.training.step import Gradients, StepFn, make_gradients, make_train_step, metric_names
from jaxfm.training.teachers import KEY, KnownTeacher


@dataclasses.dataclass(slots=True)
class Stepped:
    """One update of `Session.steps`.

    Attributes:
      step: updates done since the state was made.
      state: after the update; its buffers are given away to the next one, so take what you need before you go on.
      sums: of metrics, over the updates since they were last taken.
    """

    step: int
    state: TrainState
    sums: Sums
    _empty_sums: Callable[[], Sums]

    def take_sums(self) -> Sums:
        """Returns the open sums; the next update begins with empty ones."""
        taken, self.sums = self.sums, self._empty_sums()
        return taken


@dataclasses.dataclass(frozen=True, eq=False)
class Session:
    """The functions of training for one objective, one optimizer and one mesh.

    Attributes:
      objective: the model and its loss.
      mesh: of devices that may lie elsewhere, or exist nowhere (a topology to compile for).
      graphdef: of the model.
      schedule: step -> learning rate, as the optimizer computes it.
      adaptation: which parameters are trained, and how.
      optimizer: of those that are.
      abstract: shapes and shardings of the state.
      metric_names: names of the sums that a step adds to.
      make_model: builds the model.
      train_step: (state, sums, batch, constants) -> (state after one update, sums with its metrics added); pure, not
        jitted: it can be vmapped.
      step_with: makes the same of another `config.optim`, whose numbers may be traced.
      step_by: makes the same of another optimizer of the trained part (`with_optimizer` changes the session).
      gradients: (moved part, state, batch, constants) -> `step.Gradients` of that update; pure, not jitted.
      batch_spec: the arrays of a batch.
      batch_keys: size -> the config key that gives it, for messages.
      accumulate: micro-batches of a batch.
      verify_every: updates between two that are computed twice (`training/corruption.py`); 0: none is.
      notes: lines for the log.
      factors: of parameters when they are drawn, and of their rates (`training/mup.py`).
      abstract_constants: shapes and shardings of what every update reads (`LossContext.constants`).
      changes: of the words of training rows; None: they are read as they are.
    """

    objective: Objective
    mesh: Mesh
    graphdef: nnx.GraphDef[Any]
    schedule: Schedule
    adaptation: Adaptation
    optimizer: optax.GradientTransformation
    abstract: TrainState
    metric_names: tuple[str, ...]
    make_model: Callable[[nnx.Rngs], nnx.Module]
    train_step: StepFn
    step_with: Callable[[OptimConfig], StepFn]
    step_by: Callable[[optax.GradientTransformation], StepFn]
    gradients: Callable[..., Gradients]
    batch_spec: BatchSpec
    batch_keys: Mapping[int, str]
    accumulate: int
    verify_every: int
    notes: tuple[str, ...]
    factors: mup.Factors
    abstract_constants: Any
    changes: augmentation.TextChanges | None
    _devices: target.Target | None
    _lowered: dict[int, jax.stages.Lowered] = dataclasses.field(default_factory=dict)
    _compiled: dict[int, jax.stages.Compiled] = dataclasses.field(default_factory=dict)

    def with_optimizer(self, optimizer: optax.GradientTransformation) -> "Session":
        """Returns the same with another optimizer of the trained part: of local training, which corrects gradients."""
        abstract = abstract_state(self.abstract.params, optimizer, self.mesh, self.adaptation)
        return dataclasses.replace(
            self,
            optimizer=optimizer,
            abstract=dataclasses.replace(abstract, guard=self.abstract.guard),
            train_step=self.step_by(optimizer),
            _lowered={},
            _compiled={},
        )

    def trace(self, batch_size: int, constants: Any = None) -> jax.stages.Traced:
        """Traces the step for batches of that many rows over all devices and hosts; constants: the session's own.

        Raises UserError for a size that cannot be cut over micro-batches and devices.
        """
        key = self.batch_keys.get(batch_size, "batch size")
        meshes.check_batch_size(key, batch_size, self.mesh, accumulate=self.accumulate)
        batch = abstract_batch(self.batch_spec, batch_size, self.mesh)
        shapes = jax.tree.map(_abstract, self.abstract_constants if constants is None else constants)
        with target.tracing_for(self._devices):
            return self._jitted.trace(self.abstract, self._abstract_sums, batch, shapes)

    def lower(self, batch_size: int, constants: Any = None) -> jax.stages.Lowered:
        """Lowers the step for batches of that many rows, once: what is wrong with it is found here."""
        if batch_size not in self._lowered:
            with jax.set_mesh(self.mesh):  # for the constraints on activations
                self._lowered[batch_size] = self.trace(batch_size, constants).lower()
        return self._lowered[batch_size]

    def lower_for(self, platform: str, batch_size: int) -> jax.stages.Lowered:
        """Lowers the step for a platform ("cuda") that the mesh's devices only stand for."""
        with jax.set_mesh(self.mesh):
            return self.trace(batch_size).lower(lowering_platforms=(platform,))

    def compiled(self, batch_size: int, constants: Any = None) -> jax.stages.Compiled:
        """Returns the compiled step for batches of that many rows, (state, sums, batch, constants); compiled once."""
        if batch_size not in self._compiled:
            self._compiled[batch_size] = self.lower(batch_size, constants).compile()
            del self._lowered[batch_size]
        return self._compiled[batch_size]

    def initial_state(self, seed: int, loaded: Mapping[str, HostArray] = NO_PARAMS) -> TrainState:
        """Makes the state of step 0: parameters of `loaded` (path -> array) as they are, all others initialised."""
        return new_state(
            self.make_model, self.optimizer, self.abstract, seed, loaded, self.adaptation, self.factors.init
        )

    def empty_sums(self) -> Sums:
        """Returns open metric sums of nothing, on every device."""
        return _empty_sums(self.metric_names, self.mesh)()

    def evaluator(self, batch_size: int) -> Evaluator:
        """Returns what computes the objective's outputs, `batch_size` rows at a time."""
        return Evaluator(self.objective.outputs, self.graphdef, self.mesh, batch_size)

    def shard(self, batch: Mapping[str, Any]) -> Mapping[str, jax.Array]:
        """Puts a host's rows of a batch on its devices; a batch that lies there already is returned as it is."""
        if all(isinstance(value, jax.Array) for value in batch.values()):
            return batch
        return meshes.shard_batch(batch, axes_of(self.batch_spec), self.mesh)

    def steps(
        self,
        state: TrainState,
        batches: Iterable[Mapping[str, Any]],
        constants: Any = None,
        *,
        sums: Sums | None = None,
    ) -> Iterator[Stepped]:
        """Yields once after each update, one for each batch; an update is dispatched and not waited for.

        Args:
          state: to start from; its buffers are given away.
          batches: this host's rows of each global batch, or batches that lie on the devices (`shard`).
          constants: arrays that every update reads (`LossContext.constants`); None: the session's own.
          sums: open metric sums to go on with; empty ones by default.

        Raises CorruptionError at an update of `verify_every` where devices or two computations differ.
        """
        open_sums = self.empty_sums() if sums is None else sums
        constants = self.constants if constants is None else constants
        for step, batch in enumerate(batches, start=int(state.step) + 1):
            arrays = self.shard(batch)
            program = self.compiled(len(next(iter(arrays.values()))), constants)
            if self.verify_every and step % self.verify_every == 0:
                state, open_sums = self._verifier.step(program, step, state, open_sums, arrays, constants)
            else:
                with jax.transfer_guard("disallow"):
                    state, open_sums = program(state, open_sums, arrays, constants)
            stepped = Stepped(step, state, open_sums, self.empty_sums)
            yield stepped
            open_sums = stepped.sums

    def verify_copies(self, step: int, state: TrainState, sums: Sums) -> None:
        """Raises CorruptionError where copies of an array on several devices differ; only where updates are verified.

        For what is about to be saved; waits for the devices.
        """
        if self.verify_every:
            self._verifier.check_copies((state, sums), f"after update {step}")

    @functools.cached_property
    def constants(self) -> Any:
        """What every update reads and never changes: the parameters of frozen models, read when first asked for.

        Raises UserError where they cannot be read.
        """
        inner = self.teacher_constants
        return inner if self.changes is None else self.changes.load(inner)

    @functools.cached_property
    def teacher_constants(self) -> Any:
        """The part of `constants` that the objective reads: the parameters of its teachers, read when first asked for.

        Raises UserError where they cannot be read.
        """
        return distillation.load_constants(self.objective)

    @functools.cached_property
    def constants_hash(self) -> str:
        """A hash of `constants`; "" without any."""
        return hash_of(self.constants)

    @functools.cached_property
    def _verifier(self) -> Verifier:
        return Verifier((self.abstract, self._abstract_sums), self.mesh)

    @functools.cached_property
    def _abstract_sums(self) -> dict[str, jax.ShapeDtypeStruct]:
        whole = meshes.replicated(self.mesh)
        return {name: jax.ShapeDtypeStruct((2,), jnp.float32, sharding=whole) for name in self.metric_names}

    @functools.cached_property
    def _jitted(self) -> Any:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, (self.abstract, self._abstract_sums))
        return jax.jit(self.train_step, donate_argnums=(0, 1), out_shardings=shardings)


def make_session(
    config: Config,
    objective: Objective,
    mesh: Mesh,
    *,
    total_steps: int,
    teachers: Sequence[KnownTeacher] = (),
    find_tokenizer: augmentation.FindTokenizer | None = None,
) -> Session:
    """Builds the train step without any data or array, for the platform of `target`.

    Args:
      config: of the run; of the batch only what divides it is read.
      objective: the model and its loss, of the task; that of the session may be one around it (`_around`).
      mesh: of the run's devices, or of those it is planned for.
      total_steps: of the whole run, for schedules.
      teachers: what `config.distil` and `config.augment` name (`initial.find_teachers`).
      find_tokenizer: reads the tokenizer of the rows, where `config.augment` changes words; None: nothing is trained.

    Raises:
      UserError: rows that cannot be cut along the mesh, a kernel that cannot compute this attention, a pattern that
        matches nothing, muP where its rules do not hold; subnets, early heads, teachers, changed rows that do not fit.
    """
    changes, build, objective, notes = _around(config, objective, mesh, teachers, find_tokenizer)
    accumulate, spec = config.train.accumulate, objective.spec

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return distillation.extended(objective, spec.make_model(build, rngs), build, rngs)

    graphdef, params = meshes.build_abstract(lambda: make_model(nnx.Rngs(0)), mesh)
    supernet.check_model(config, params)
    objective = consolidation.around(config, objective, params)
    schedule, guard = make_schedule(config.optim, total_steps), make_spike_guard(config.optim)
    adaptation = make_adaptation(config.adapt, spec.encoder, params, total_steps)
    optimizers.check(config.optim, adaptation)
    adaptation = dataclasses.replace(adaptation, averaging=adaptation.averaging or optimizers.averaging(config.optim))
    factors = mup.make_factors(config, spec.encoder, params)
    rates = {**factors.rate, **range_rates(params)}
    optimizer = make_optimizer(config.optim, schedule, params, adaptation, rates)
    abstract = abstract_state(params, optimizer, mesh, adaptation, guard)

    def loss(params: Any, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        params = meshes.constrain_like(params, abstract.params)  # and so their gradients
        batch, context = augmentation.apply(changes, batch, context)
        with jax.named_scope("head"):  # in profiles: what of it has no other name (see analysis/traces.py)
            return whole_batch.loss_of(objective, nnx.merge(graphdef, params), batch, context, accumulate)

    def step_with(optim: OptimConfig) -> StepFn:
        return step_by(make_optimizer(optim, make_schedule(optim, total_steps), params, adaptation, rates))

    constants, more_fields = augmentation.read_by_steps(changes, objective)
    batch_spec = {**spec.batch_spec(), **more_fields}
    settings = _settings(config, objective, adaptation, total_steps)
    step_by = functools.partial(make_train_step, loss, **settings, guard=guard)
    shapes = abstract_batch(batch_spec, config.train.batch_size, mesh)
    sizes = {config.train.first_batch_size: "config.train.first_batch_size"}
    return Session(
        objective=objective,
        mesh=mesh,
        graphdef=graphdef,
        schedule=schedule,
        adaptation=adaptation,
        optimizer=optimizer,
        abstract=abstract,
        metric_names=metric_names(loss, params, shapes, constants, guard=guard),
        make_model=make_model,
        train_step=step_by(optimizer),
        step_with=step_with,
        step_by=step_by,
        gradients=make_gradients(loss, **settings),
        batch_spec=batch_spec,
        batch_keys=sizes | {config.train.batch_size: "config.train.batch_size"},
        accumulate=accumulate,
        verify_every=config.train.verify_every_steps,
        notes=(*notes, *consolidation.notes(objective)),
        factors=factors,
        abstract_constants=constants,
        changes=changes,
        _devices=target.chosen(),
    )


def _settings(config: Config, objective: Objective, adaptation: Adaptation, total_steps: int) -> dict[str, Any]:
    """Returns what gradients are computed by, for `make_gradients` and `make_train_step`."""
    return {
        "total_steps": total_steps,
        "accumulate": 1 if objective.whole_batch else config.train.accumulate,
        "adaptation": adaptation,
        "privacy": make_row_privacy(config, objective),
    }


def _around(
    config: Config,
    task: Objective,
    mesh: Mesh,
    teachers: Sequence[KnownTeacher],
    find_tokenizer: augmentation.FindTokenizer | None,
) -> tuple[augmentation.TextChanges | None, Build, Objective, tuple[str, ...]]:
    """Returns what changes rows, how models compute, the objective that a run trains, and notes for the log."""
    objective = exits.around(config, supernet.around(config, mixup.around(config, task)))
    build, notes = run_build(config, objective, mesh)
    objective = distillation.around(config, objective, [each for each in teachers if each.key == KEY], build, mesh)
    changes = augmentation.text_changes(config, task, teachers, build, mesh, find_tokenizer)
    check_deterministic(config.train.verify_every_steps)
    meshes.check_row_length("config.data.row_length", objective.spec.row_length, mesh)
    notes += (*distillation.notes(objective), *mixup.notes(objective), *augmentation.notes(changes))
    return changes, build, objective, notes


def run_build(config: Config, objective: Objective, mesh: Mesh) -> tuple[Build, tuple[str, ...]]:
    """Returns how a run's model computes on the platform traced for, and notes for the log.

    Raises UserError for a kernel that cannot compute this attention.
    """
    dtype, spec = compute_dtype(config.train.precision), objective.spec
    attention = AttentionConfig(config.model.attention, one_segment=not config.data.packed)
    build = Build(
        dtype=dtype,
        scan=scans_layers(config.model.scan_layers),
        remat=config.model.remat,
        attention=attention,
        frozen_layers=config.adapt.freeze_layers,
    )
    return build, (describe(spec.encoder, build, spec.row_length, mesh), *_narrower(config.train.precision))


def abstract_batch(spec: BatchSpec, size: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, types and shardings of a batch of `size` rows."""
    shardings = meshes.batch_shardings(axes_of(spec), mesh)
    return {
        name: jax.ShapeDtypeStruct((size, *field.shape), field.dtype, sharding=shardings[name])
        for name, field in spec.items()
    }


def compute_dtype(precision: str) -> jnp.dtype:
    """Returns the dtype of activations that `config.train.precision` means on the platform traced for."""
    if precision == "auto":
        precision = "f32" if target.platform() == "cpu" else "bf16"
    return jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)


def scans_layers(choice: bool | None) -> bool:
    """Returns what `config.model.scan_layers` means on the platform traced for (measured: profiles/NOTES.md)."""
    return target.platform() != "cpu" if choice is None else choice


def _narrower(precision: str) -> tuple[str, ...]:
    """Says so where the same run would be faster in bf16 and nobody has chosen: on CPU "auto" never does."""
    if precision != "auto" or target.platform() != "cpu" or not target.cpu_multiplies_bf16():
        return ()
    return (
        "NOTE: computing in f32. This CPU has matrix units for bf16: --config.train.precision=bf16 took half to "
        "four fifths of the time with scores that could not be told apart (profiles/README.md, docs/results.md)",
    )


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


@functools.lru_cache(maxsize=1)
def _empty_sums(names: tuple[str, ...], mesh: Mesh) -> Callable[[], Sums]:
    # Compiled, not put there: over several processes, device_put first compares what each of them would put.
    return jax.jit(lambda: metrics_lib.zeros_like(dict.fromkeys(names)), out_shardings=meshes.replicated(mesh))
