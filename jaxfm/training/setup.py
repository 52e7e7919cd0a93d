"""Everything the loop works with, built and checked before the first array is made."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jaxfm.analysis.profiling import parse_steps
from jaxfm.config import Config
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.task import Objective, Task
from jaxfm.data.pipeline import Rows, TrainBatches
from jaxfm.data.text.packing import BATCH_FIELDS, ArrayRows, PackedRows
from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.flops import flops_per_token
from jaxfm.models.kernels import describe
from jaxfm.observe import metrics as metrics_lib
from jaxfm.parallel import chips, target
from jaxfm.parallel import mesh as meshes
from jaxfm.training.adaptation import Adaptation, make_adaptation
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.optim import Schedule, learning_rate_at, make_optimizer, make_schedule
from jaxfm.training.state import Size, TrainState, abstract_state, new_state, size_of
from jaxfm.training.step import make_train_step, metric_names


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      batches: the batch of each step.
      fingerprint: sha256 of the packed training rows; a checkpoint remembers it.
      valid_fingerprint: the same of the validation rows, "" without any.
      total_steps: optimizer updates of the whole run.
      profiled: of these updates, counted from 0, those that are recorded.
      schedule: step -> learning rate, as the optimizer computes it.
      learning_rate: the same on the host, which waits for no device.
      adaptation: which parameters are trained, and how.
      model_size: how many parameters there are, and how many are trained.
      mfu_of_token: model FLOPs utilisation of one useful token a second; None: the devices' peak is not known.
      abstract: shapes and shardings of the state.
      metric_names: names of the sums that a step adds to.
      lowered: for each batch size of the run the step, traced but not compiled: (state, sums, batch) -> (state, sums).
      evaluate: (params, rows) -> the task's outputs.
      initial_state: makes the state of step 0.
      notes: lines for the log.
    """

    batches: TrainBatches
    fingerprint: str
    valid_fingerprint: str
    total_steps: int
    profiled: range
    schedule: Schedule
    learning_rate: Callable[[int], float]
    adaptation: Adaptation
    model_size: Size
    mfu_of_token: float | None
    abstract: TrainState
    metric_names: tuple[str, ...]
    lowered: Mapping[int, jax.stages.Lowered]
    evaluate: Evaluator
    initial_state: Callable[[], TrainState]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """The train step of a model and a loss over a mesh, from shapes alone.

    Attributes:
      mesh: of devices that may lie elsewhere, or exist nowhere (a topology to compile for).
      graphdef: of the model.
      schedule: step -> learning rate.
      adaptation: which parameters are trained, and how.
      optimizer: of those that are.
      abstract: shapes and shardings of the state.
      metric_names: names of the sums that a step adds to.
      make_model: builds the model.
      traced: batch size -> the step, neither lowered nor compiled.
      notes: lines for the log.
    """

    mesh: Mesh
    graphdef: nnx.GraphDef[Any]
    schedule: Schedule
    adaptation: Adaptation
    optimizer: optax.GradientTransformation
    abstract: TrainState
    metric_names: tuple[str, ...]
    make_model: Callable[[nnx.Rngs], nnx.Module]
    traced: Callable[[int], jax.stages.Traced]
    notes: tuple[str, ...]

    def lower(self, batch_size: int, platform: str | None = None) -> jax.stages.Lowered:
        """Lowers the step for the mesh's devices, or for a platform ("cuda") that it only stands for."""
        with jax.set_mesh(self.mesh):  # for the constraints on activations
            traced = self.traced(batch_size)
            return traced.lower() if platform is None else traced.lower(lowering_platforms=(platform,))


def compute_dtype(precision: str) -> jnp.dtype:
    """Returns the dtype of activations that `config.train.precision` means on the platform traced for."""
    if precision == "auto":
        precision = "f32" if target.platform() == "cpu" else "bf16"
    return jnp.dtype(jnp.bfloat16 if precision == "bf16" else jnp.float32)


def _narrower(precision: str) -> tuple[str, ...]:
    """Says so where the same run would be faster in bf16 and nobody has chosen: on CPU "auto" never does."""
    if precision != "auto" or target.platform() != "cpu" or not target.cpu_multiplies_bf16():
        return ()
    return (
        "NOTE: computing in f32. This CPU has matrix units for bf16: --config.train.precision=bf16 took half to "
        "four fifths of the time with scores that could not be told apart (profiles/README.md, docs/results.md)",
    )


def scans_layers(choice: bool | None) -> bool:
    """Returns what `config.model.scan_layers` means on the platform traced for (measured: profiles/NOTES.md)."""
    return target.platform() != "cpu" if choice is None else choice


def trace_step(config: Config, objective: Objective, mesh: Mesh, *, row_length: int, total_steps: int) -> TracedStep:
    """Builds the train step without any data or array, for the platform of `target`.

    Args:
      config: of the run; of the batch only what divides it is read.
      objective: the model and its loss.
      mesh: of the run's devices, or of those it is planned for.
      row_length: tokens a row.
      total_steps: of the whole run, for schedules.

    Raises:
      UserError: rows that cannot be cut along the mesh, a kernel that cannot compute this attention, a pattern that
        matches nothing.
    """
    meshes.check_row_length("config.data.row_length", row_length, mesh)
    devices = target.chosen()
    dtype, scan = compute_dtype(config.train.precision), scans_layers(config.model.scan_layers)

    attention = AttentionConfig(config.model.attention, one_segment=not config.data.packed)
    build = Build(dtype, scan, config.model.remat, attention, config.adapt.freeze_layers)
    note = describe(objective.encoder, build, row_length, mesh)

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        model: Any = objective.make_model(rngs, dtype=dtype, scan=scan, remat=config.model.remat)
        model.encoder.build = build
        return model

    graphdef, params = meshes.build_abstract(lambda: make_model(nnx.Rngs(0)), mesh)
    schedule = make_schedule(config.optim, total_steps)
    adaptation = make_adaptation(config.adapt, objective.encoder, params, total_steps)
    optimizer = make_optimizer(config.optim, schedule, params, adaptation)
    abstract = abstract_state(params, optimizer, mesh, adaptation)

    def loss(params: Any, batch: Mapping[str, jax.Array], key: jax.Array, progress: jax.Array) -> Any:
        params = meshes.constrain_like(params, abstract.params)  # and so their gradients
        with jax.named_scope("head"):  # in profiles: what of it has no name of its own (see observe/traces.py)
            return objective.loss(nnx.merge(graphdef, params), batch, key, progress)

    def batch(size: int) -> dict[str, jax.ShapeDtypeStruct]:
        one_label, kind = objective.label_shape(row_length)
        shapes = {name: (size, row_length) for name in BATCH_FIELDS} | {"labels": (size, *one_label)}
        types = dict.fromkeys(BATCH_FIELDS, np.dtype(np.int32)) | {"labels": kind}
        places = meshes.batch_shardings(shapes, mesh)
        return {name: jax.ShapeDtypeStruct(shapes[name], types[name], sharding=places[name]) for name in BATCH_FIELDS}

    names = metric_names(loss, params, batch(config.train.batch_size))
    whole = meshes.replicated(mesh)
    sums = {name: jax.ShapeDtypeStruct((2,), jnp.float32, sharding=whole) for name in names}
    step = jax.jit(
        make_train_step(
            loss, optimizer, total_steps=total_steps, accumulate=config.train.accumulate, adaptation=adaptation
        ),
        donate_argnums=(0, 1),
        out_shardings=jax.tree.map(lambda leaf: leaf.sharding, (abstract, sums)),
    )

    def traced(size: int) -> jax.stages.Traced:
        key = "config.train.batch_size" if size == config.train.batch_size else "config.train.first_batch_size"
        meshes.check_batch_size(key, size, mesh, accumulate=config.train.accumulate)
        with target.tracing_for(devices):
            return step.trace(abstract, sums, batch(size))

    notes = (note, *_narrower(config.train.precision))
    return TracedStep(mesh, graphdef, schedule, adaptation, optimizer, abstract, names, make_model, traced, notes)


def set_up(config: Config, task: Task, loaded: Mapping[str, np.ndarray], mesh: Mesh) -> Setup:
    """Checks sizes and builds the functions of the loop; makes no array yet.

    Raises:
      UserError: a batch that cannot be divided, an unknown metric, a pattern that matches nothing.
    """
    meshes.check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    if config.eval.metric not in task.selection_metrics:
        raise UserError(
            f"config.eval.metric: {config.eval.metric!r}. {did_you_mean(config.eval.metric, task.selection_metrics)}"
        )
    if not config.data.packed:
        for split in task.splits():
            _check_one_segment(task.rows(split))
    batches = TrainBatches(
        task.rows("train"),
        batch_size=config.train.batch_size,
        first_batch_size=config.train.first_batch_size,
        warmup_steps=config.train.batch_warmup_steps,
        seed=config.seed,
        host_rows=functools.partial(meshes.host_rows, mesh),
    )
    total_steps = config.train.steps or batches.steps_for(config.train.epochs)
    row_length = task.rows("train").row_length
    step = trace_step(config, task, mesh, row_length=row_length, total_steps=total_steps)
    return Setup(
        batches=batches,
        fingerprint=task.rows("train").fingerprint(),
        valid_fingerprint=task.rows("valid").fingerprint() if "valid" in task.splits() else "",
        total_steps=total_steps,
        profiled=parse_steps(config.profile.steps, total_steps),
        schedule=step.schedule,
        learning_rate=functools.partial(learning_rate_at, config.optim, total_steps),
        adaptation=step.adaptation,
        model_size=size_of(step.abstract, step.adaptation, task.encoder),
        mfu_of_token=mfu_of_token(config, task.encoder, mesh),
        abstract=step.abstract,
        metric_names=step.metric_names,
        lowered={size: step.lower(size) for size in batches.sizes},
        evaluate=Evaluator(task.outputs, step.graphdef, mesh, config.eval.batch_size),
        initial_state=lambda: new_state(
            step.make_model, step.optimizer, step.abstract, config.seed, loaded, step.adaptation
        ),
        notes=(*step.notes, *_shorter_rows(config, task, mesh)),
    )


def _some(rows: Rows) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields all rows that are in memory, a thousand at a time; of a corpus, which lies on disk, the first ones."""
    for first in range(0, len(rows), 1024):
        yield rows.take(np.arange(first, min(first + 1024, len(rows))))
        if not isinstance(rows, PackedRows | ArrayRows):
            return


def _shorter_rows(config: Config, task: Task, mesh: Mesh) -> tuple[str, ...]:
    """Says so where rows are twice as long as any example: attention costs a row's length squared, needed or not.

    The flags in the note are ones that this run would have taken as well.
    """
    looked_at = [some["positions"] for split in task.splits() for some in _some(task.rows(split))]
    longest, length = 1 + max(int(positions.max(initial=0)) for positions in looked_at), config.data.row_length
    # Splash attention, which TPUs compute rows by, wants whole registers; a sequence axis cuts rows in equal parts.
    unit = math.lcm(128 if target.platform() == "tpu" else 8, mesh.shape["sequence"])
    enough = -(-longest // unit) * unit
    if 2 * enough > length:
        return ()
    more = length // enough if config.data.packed else 1
    first, batch = config.train.first_batch_size, config.train.batch_size
    change = {
        "data.row_length": enough,
        **({"data.window": 0} if config.data.window > enough else {}),
        **({"data.overlap": enough // 4} if config.data.overlap > enough // 4 else {}),
        **({"train.batch_size": more * batch} if more > 1 else {}),
        **({"train.first_batch_size": more * first} if more > 1 and first else {}),
    }
    flags = " ".join(f"--config.{key}={value}" for key, value in change.items())
    same = "the same examples" if more == 1 else "about as many examples"
    return (
        f"NOTE: no example seen has more than {longest} tokens, and rows have {length}. A new run with "
        f"{flags} computes {same} a step with less attention (longer texts to come would be cut or split at {enough})",
    )


def _check_one_segment(rows: Rows) -> None:
    """Rows of several segments under a kernel that knows of none would leak from one to another, silently."""
    some = next(_some(rows))["segment_ids"]
    assert some.max(initial=0) <= 1 and (np.diff(some, axis=1) <= 0).all(), "a task ignores config.data.packed"


def mfu_of_token(config: Config, encoder: EncoderConfig, mesh: Mesh) -> float | None:
    """Returns the share of the devices' dense bf16 peak that one useful token a second takes; None: no known peak."""
    peak = chips.peak_flops(mesh.devices.flat[0].device_kind)
    return None if peak is None else flops_per_token(config, encoder) / (peak * mesh.size)


def empty_sums(names: tuple[str, ...], mesh: Mesh) -> metrics_lib.Sums:
    """Returns open metric sums of nothing, on every device."""
    return _empty_sums(names, mesh)()


@functools.lru_cache(maxsize=1)
def _empty_sums(names: tuple[str, ...], mesh: Mesh) -> Callable[[], metrics_lib.Sums]:
    # Compiled, not put there: over several processes, device_put first compares what each of them would put.
    return jax.jit(lambda: metrics_lib.zeros_like(dict.fromkeys(names)), out_shardings=meshes.replicated(mesh))
