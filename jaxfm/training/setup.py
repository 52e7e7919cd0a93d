"""Everything a run works with, built and checked before the first array is made."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from jaxfm.analysis.profiling import parse_steps
from jaxfm.config import Config
from jaxfm.core.batch import Dataset, Volume
from jaxfm.core.initial import HostArray
from jaxfm.core.objective import Objective
from jaxfm.core.task import Task
from jaxfm.data.pipeline import TrainBatches
from jaxfm.errors import UserError, did_you_mean
from jaxfm.parallel import chips, target
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.fine_tuning import SHORTEST_ROWS
from jaxfm.training import mup, optimizers, private_rows, supernet_order
from jaxfm.training.distillation_checks import check
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.rate_schedules import learning_rate_at
from jaxfm.training.rounded_start import start_state
from jaxfm.training.schedule import count_updates, train_batches
from jaxfm.training.session import Session, make_session, run_build
from jaxfm.training.state import Size, TrainState, size_of
from jaxfm.training.teacher_cache import taught_rows
from jaxfm.training.teachers import KnownTeacher, check_teachers, tokenizer_of

_CHECKED_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      session: the train step.
      batches: the batch of each step.
      volume: what a training row is worth.
      fingerprint: sha256 of the training rows; a checkpoint remembers it.
      valid_fingerprint: the same of the validation rows, "" without any.
      privacy: of its training rows; None where it has none.
      constants_hash: of what every update reads (weights of teachers), "" for none; as the fingerprint.
      total_steps: optimizer updates of the whole run.
      profiled: of these updates, counted from 0, those that are recorded.
      learning_rate: step -> rate, on the host, which waits for no device.
      model_size: how many parameters the model has, and how many are trained.
      mfu_of_unit: model FLOPs utilisation of one useful unit a second; None: the devices' peak is not known.
      evaluate: (params, rows) -> the objective's outputs.
      initial_state: makes the state of step 0.
      notes: lines for the log.
    """

    session: Session
    batches: TrainBatches
    volume: Volume
    fingerprint: str
    valid_fingerprint: str
    total_steps: int
    profiled: range
    learning_rate: Callable[[int], float]
    model_size: Size
    mfu_of_unit: float | None
    evaluate: Evaluator
    initial_state: Callable[[], TrainState]
    notes: tuple[str, ...]
    constants_hash: str = ""
    privacy: private_rows.PrivacyOfRun | None = None


def set_up(
    config: Config,
    task: Task,
    loaded: Mapping[str, HostArray],
    mesh: Mesh,
    teachers: Sequence[KnownTeacher] = (),
) -> Setup:
    """Checks sizes and builds the functions of a run; makes no array yet.

    Raises:
      UserError: a batch that cannot be divided, an unknown metric, a pattern that matches nothing, muP from loaded
        weights.
    """
    setup = prepare(config, task, loaded, mesh, teachers=teachers)
    for size in setup.batches.sizes:  # so that what is wrong with a step is said before the run directory exists
        setup.session.lower(size)
    return with_constants(setup)


def with_constants(setup: Setup) -> Setup:
    """Returns a setup that knows what its updates read beside their batches; it is read now.

    Raises UserError where it cannot be read.
    """
    return dataclasses.replace(setup, constants_hash=setup.constants_hash or setup.session.constants_hash)


def prepare(
    config: Config,
    task: Task,
    loaded: Mapping[str, HostArray],
    mesh: Mesh,
    first: Setup | None = None,
    teachers: Sequence[KnownTeacher] = (),
) -> Setup:
    """Does what `set_up` says but for lowering; `first` is a run whose session and evaluator this one shares."""
    meshes.check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    if config.eval.metric not in task.directions:
        raise UserError(
            f"config.eval.metric: {config.eval.metric!r}. {did_you_mean(config.eval.metric, task.directions)}"
        )
    mup.check_fresh(config.optim.mup, loaded)
    private_rows.check(config, task.objective)
    datasets = task.datasets
    if not config.data.packed:
        for rows in datasets.values():
            _check_one_segment(rows)
    check_teachers(config, task, teachers)
    train = datasets["train"]
    taught = ""
    if config.distil.cache and (learning := check(config, task.objective)) is not None:
        build, _ = run_build(config, task.objective, mesh)
        train = taught_rows(config, learning, teachers, train, build, mesh)
        taught = train.teachers
    batches = train_batches(config, train, mesh)
    total_steps, update_notes = count_updates(config, batches)
    config, privacy = private_rows.resolve(config, batches, len(train), total_steps)
    session = (
        first.session
        if first
        else make_session(
            config,
            task.objective,
            mesh,
            total_steps=total_steps,
            teachers=teachers,
            find_tokenizer=functools.partial(tokenizer_of, task),
        )
    )
    volume = train.volume
    return Setup(
        session=session,
        batches=batches,
        volume=volume,
        fingerprint=train.fingerprint(),
        valid_fingerprint=datasets["valid"].fingerprint() if "valid" in datasets else "",
        total_steps=total_steps,
        profiled=parse_steps(config.profile.steps, total_steps),
        learning_rate=functools.partial(learning_rate_at, config.optim, total_steps),
        model_size=size_of(session.abstract, session.adaptation, task.objective.spec.encoder),
        mfu_of_unit=mfu_of_unit(config, session.objective, volume, mesh),
        evaluate=first.evaluate if first else session.evaluator(config.eval.batch_size),
        initial_state=lambda: start_state(
            session,
            train,
            config.eval.batch_size,
            config.seed,
            supernet_order.first_weights(config, session, loaded, batches),
        ),
        notes=(
            *session.notes,
            *update_notes,
            *private_rows.notes(config, privacy, total_steps),
            *optimizers.notes(config.optim, session.adaptation, loaded),
            *_shorter_rows(config, datasets, mesh),
        ),
        constants_hash=taught,
        privacy=privacy,
    )


def _shorter_rows(config: Config, datasets: Mapping[str, Dataset], mesh: Mesh) -> tuple[str, ...]:
    """Says so where rows are twice as long as any example: attention costs a row's length squared, needed or not.

    Packed rows of the shortest length that `data.row_length=auto` chooses are left alone.

    The flags in the note are ones that this run would have taken as well.
    """
    volumes = [rows.volume for rows in datasets.values()]
    longest, length = max(volume.longest for volume in volumes), config.data.row_length
    if not longest or volumes[0].per_row != length:
        return ()
    # Splash attention, which TPUs compute rows by, wants whole registers; a sequence axis cuts rows in equal parts.
    multiple = math.lcm(128 if target.platform() == "tpu" else 8, mesh.shape["sequence"])
    enough = -(-longest // multiple) * multiple
    if 2 * enough > length or (config.data.packed and length == SHORTEST_ROWS):
        return ()
    more = length // enough if config.data.packed else 1
    first, batch = config.train.first_batch_size, config.train.batch_size
    overlap = getattr(config.task, "overlap", 0)
    change = {
        "data.row_length": enough,
        **({"data.window": 0} if config.data.window > enough else {}),
        **({"task.overlap": enough // 4} if overlap > enough // 4 else {}),
        **({"train.batch_size": more * batch} if more > 1 else {}),
        **({"train.first_batch_size": more * first} if more > 1 and first else {}),
    }
    flags = " ".join(f"--config.{key}={value}" for key, value in change.items())
    same = "the same examples" if more == 1 else "about as many examples"
    return (
        f"NOTE: no example seen has more than {longest} tokens, and rows have {length}. A new run with "
        f"{flags} computes {same} a step with less attention (longer texts to come would be cut or split at {enough})",
    )


def _check_one_segment(rows: Dataset) -> None:
    """Rows of several segments under a kernel that knows of none would leak from one to another, silently."""
    if "segment_ids" in rows.spec:
        some = rows.take(np.arange(min(len(rows), _CHECKED_ROWS)))["segment_ids"]
        assert some.max(initial=0) <= 1 and (np.diff(some, axis=1) <= 0).all(), "a task ignores config.data.packed"


def mfu_of_unit(config: Config, objective: Objective, volume: Volume, mesh: Mesh) -> float | None:
    """Returns the share of the devices' dense bf16 peak that one useful unit a second takes; None: no known peak."""
    peak = chips.peak_flops(mesh.devices.flat[0].device_kind)
    if peak is None:
        return None
    return objective.flops_per_row(config.adapt) / volume.per_row / (peak * mesh.size)
