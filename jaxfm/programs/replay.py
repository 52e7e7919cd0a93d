"""An update that a run has skipped, computed again: which parameters and which rows make it not finite, or a spike."""

# B batch over all hosts

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.batch import Batch, BatchSpec, Dataset
from jaxfm.core.initial import HostArray
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.tables import Table
from jaxfm.parallel import distributed
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks import registry
from jaxfm.training import initial, skipped_batch
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.loading import put
from jaxfm.training.paths import path_name
from jaxfm.training.rounded_start import start_state
from jaxfm.training.saved_run import available_mesh, open_run
from jaxfm.training.schedule import train_batches
from jaxfm.training.session import Session, make_session
from jaxfm.training.skipped_batch import SkippedBatch
from jaxfm.training.state import TrainState
from jaxfm.training.step import moved_part
from jaxfm.training.teachers import tokenizer_of

_SHOWN_ROWS, _SHOWN_ARRAYS, _TEXT_LENGTH = 10, 20, 60


@dataclasses.dataclass(frozen=True)
class Row:
    """What one row of a batch gives by itself, at its place in the batch: dropout and masks are those of the update.

    Attributes:
      index: in the batch.
      number: in the training data.
      weight: of its targets.
      loss: mean over these; NaN where it has none.
      gradient_norm: of its part of the batch's gradient.
      text: the beginning of its tokens as text; empty where it has none.
    """

    index: int
    number: int
    weight: float
    loss: float
    gradient_norm: float
    text: str

    @property
    def is_finite(self) -> bool:
        """Whether it could be taken by itself."""
        return bool(np.isfinite(self.gradient_norm) and (np.isfinite(self.loss) or not self.weight))


@dataclasses.dataclass(frozen=True)
class Replay:
    """An update, computed again.

    Attributes:
      step: number of the update, counted from 1.
      checkpoint: step whose parameters it was computed with; 0: the run's first ones.
      loss: mean over the batch's targets.
      weight: of these.
      gradient_norm: global, of the mean.
      parameters: path -> scalars of it that are not finite; empty: all are.
      gradients: path -> scalars of its gradient that are not finite; empty: all are.
      rows: those that are not finite first, then by gradient norm.
      same_data: the batch is the one that the training data give now.
    """

    step: int
    checkpoint: int
    loss: float
    weight: float
    gradient_norm: float
    parameters: Mapping[str, int]
    gradients: Mapping[str, int]
    rows: tuple[Row, ...]
    same_data: bool

    @property
    def is_finite(self) -> bool:
        """Whether the update could be taken."""
        return bool(np.isfinite(self.loss) and np.isfinite(self.gradient_norm))

    def to_dict(self) -> dict[str, Any]:
        """Returns everything for JSON."""
        rows = [{**dataclasses.asdict(row), "is_finite": row.is_finite} for row in self.rows]
        return {**dataclasses.asdict(self), "is_finite": self.is_finite, "rows": rows, "verdict": self.verdict()}

    def tables(self) -> list[Table]:
        """Returns what a person reads."""
        facts = [
            ["update", f"{self.step} (with parameters of step {self.checkpoint})"],
            ["loss", f"{self.loss:.6g}"],
            ["weight of the targets", f"{self.weight:g}"],
            ["gradient norm", f"{self.gradient_norm:.6g}"],
            ["parameters not finite", f"{sum(self.parameters.values()):,} scalars in {len(self.parameters)} arrays"],
            ["gradients not finite", f"{sum(self.gradients.values()):,} scalars in {len(self.gradients)} arrays"],
        ]
        tables = [Table(f"Update {self.step}, computed again", ("what", "value"), facts)]
        if self.gradients:
            shown = list(self.gradients.items())[:_SHOWN_ARRAYS]
            title = f"Gradients that are not finite ({len(shown)} of {len(self.gradients)} arrays)"
            tables.append(Table(title, ("parameter", "scalars"), shown))
        rows = [
            [row.index, row.number, row.weight, f"{row.loss:.6g}", f"{row.gradient_norm:.6g}", row.text]
            for row in self.rows[:_SHOWN_ROWS]
        ]
        columns = ("row of the batch", "row of the data", "weight", "loss", "gradient norm", "text")
        title = f"Rows by themselves: not finite, then by gradient norm ({len(rows)} of {len(self.rows)})"
        return [*tables, Table(title, columns, rows, formats={"weight": "g", **dict.fromkeys(columns[:2], "d")})]

    def verdict(self) -> str:
        """Returns what follows, in a sentence or two."""
        said = [] if self.same_data else ["NOTE: the batch in the file is not the one that the training data give now."]
        bad = [str(row.index) for row in self.rows if not row.is_finite]
        if self.parameters:
            said.append(f"Parameters of step {self.checkpoint} are not finite: {', '.join(list(self.parameters)[:3])}.")
        elif bad and len(bad) < len(self.rows):
            said.append(f"Not finite by itself: row{'s' * (len(bad) > 1)} {', '.join(bad)} of the batch.")
        elif bad:
            said.append("Every row is not finite by itself: the parameters make it so, not a single row.")
        elif not self.is_finite:
            said.append("No row is not finite by itself: their sum is.")
        else:
            said.append(
                f"The update is finite here, with parameters of step {self.checkpoint}. If updates after that step "
                "were taken, the parameters that these led to may be the reason; else suspect a device "
                "(config.train.verify_every_steps)."
            )
        return " ".join(said)


class _Computed(NamedTuple):
    """Of one batch; `counts` [arrays] of scalars of the gradient that are not finite."""

    loss: jax.Array
    weight: jax.Array
    norm: jax.Array
    counts: jax.Array


def replay(workdir: str | pathlib.Path, file: str | pathlib.Path, progress: Progress | None = None) -> Replay:
    """Computes the update of a skipped batch again, with the newest whole checkpoint before it.

    Needs the run's data and first weights, as going on with the run does: losses may depend on them.

    Args:
      workdir: the run directory.
      file: WORKDIR/skipped/STEP.safetensors, written by the run that stopped.
      progress: where to show how far it is.

    Raises:
      UserError: a file that is not of this run, damaged or not such a file; no run; data that are not there.
    """
    with libraries_quieted():
        workdir, path = files.user_path(workdir, "--workdir"), files.user_path(file, "--replay")
        config, skipped = open_run(workdir).config, skipped_batch.read(path)
        facts = {"the step of --replay": skipped.step, "the config (hash)": skipped.config_sha256}
        distributed.agree("start", workdirs.identity(workdir, config) | facts, soon=True)
        workdirs.check_extensions(workdir, config)
        task, loaded = registry.create(config, initial.resolve(workdirs.pinned(workdir, config.model)))
        skipped_batch.check(path, skipped, config, task.objective.spec.batch_spec())
        if config.distil.cache:
            raise UserError("--replay: rows of a run with config.distil.cache have a teacher's outputs, not kept here.")
        mesh, note = available_mesh(config)
        teachers = initial.find_teachers(config)
        session = make_session(
            config,
            task.objective,
            mesh,
            total_steps=skipped.total_steps,
            teachers=teachers,
            find_tokenizer=lambda: tokenizer_of(task),
        )
        now = train_batches(config, task.datasets["train"], mesh).whole_batch(skipped.step - 1)
        same = all(np.array_equal(values, now[name]) for name, values in skipped.batch.items())
        checkpoint, state = _state(config, session, workdir, skipped, loaded, task.datasets["train"])
        progress = progress or Progress(None)
        with progress:
            if note:
                progress.say(note)
            return _compute(session, state, skipped, checkpoint, same, _texts(workdir, skipped.batch), progress)


def _state(
    config: Config,
    session: Session,
    workdir: pathlib.Path,
    skipped: SkippedBatch,
    loaded: Mapping[str, HostArray],
    rows: Dataset,
) -> tuple[int, TrainState]:
    """Returns the step of the parameters that there are, and the state before the skipped update with these."""
    folder = workdir / workdirs.CHECKPOINTS_DIR
    if workdirs.newest_checkpoint(workdir) is None:
        state, at = start_state(session, rows, config.eval.batch_size, config.seed, loaded), 0
    else:
        checkpoints = Checkpoints(folder, read_only=True)
        try:
            if session.adaptation.averaging:  # the weights that the optimizer moves lie beside the optimizer's state
                sums = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), session.empty_sums())
                restored = checkpoints.restore_latest(session.abstract, sums)
                assert restored is not None, "there is a checkpoint"
                state, at = restored[0], int(restored[0].step)
            else:
                at, params = _params(checkpoints, session, folder, skipped.step)
                state = TrainState(step=None, params=params, opt_state=None, key=None)
        finally:
            checkpoints.close()
    abstract = session.abstract
    step = put(np.asarray(skipped.step - 1, np.int32), abstract.step)
    state = dataclasses.replace(state, step=step, key=put(skipped.key, abstract.key), opt_state=None, guard=None)
    return at, state


def _params(checkpoints: Checkpoints, session: Session, folder: pathlib.Path, step: int) -> tuple[int, Any]:
    """Returns the newest whole parameters of before an update, or else the oldest of after it, and their step."""
    steps = checkpoints.steps()
    before = [each for each in reversed(steps) if each < step]
    for each in (*before, *(each for each in steps if each >= step)):
        with contextlib.suppress(UserError):
            return each, checkpoints.restore_params(each, session.abstract.params)
    raise UserError(f"{folder}: none of the checkpoints {steps} is whole.")


def _compute(
    session: Session,
    state: TrainState,
    skipped: SkippedBatch,
    checkpoint: int,
    same_data: bool,
    texts: list[str],
    progress: Progress,
) -> Replay:
    compute, names = _program(session)
    own, spec = meshes.host_rows(session.mesh, len(skipped.rows)), session.batch_spec

    def computed(batch: Batch) -> _Computed:
        arrays = session.shard({name: values[own] for name, values in batch.items()})
        with jax.set_mesh(session.mesh):
            return jax.device_get(compute(state, arrays))

    meshes.check_batch_size("the rows of the batch", len(skipped.rows), session.mesh, accumulate=session.accumulate)
    whole = computed(skipped.batch)
    weight, rows = float(whole.weight), []
    with progress.task("computing each row by itself", len(skipped.rows)) as advance:
        for index, number in enumerate(skipped.rows.tolist()):
            one = computed(_alone(skipped.batch, spec, index))
            share = max(float(one.weight), 1.0) / max(weight, 1.0)
            loss = float(one.loss) / float(one.weight) if one.weight else float("nan")
            rows.append(Row(index, number, float(one.weight), loss, float(one.norm) * share, texts[index]))
            advance(1)
    rows.sort(key=lambda row: (row.is_finite, -row.gradient_norm if row.is_finite else 0.0, row.index))
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    odd = jax.device_get(_count_odd([leaf for _, leaf in leaves]))
    return Replay(
        step=skipped.step,
        checkpoint=checkpoint,
        loss=float(whole.loss) / max(weight, 1.0),
        weight=weight,
        gradient_norm=float(whole.norm),
        parameters={path_name(path): int(count) for (path, _), count in zip(leaves, odd, strict=True) if count},
        gradients={name: int(count) for name, count in zip(names, whole.counts, strict=True) if count},
        rows=tuple(rows),
        same_data=same_data,
    )


def _program(session: Session) -> tuple[Callable[..., _Computed], list[str]]:
    """Returns what computes a batch, and the paths of the parameters that are trained."""
    constants = session.constants

    def compute(state: TrainState, batch: Mapping[str, jax.Array]) -> _Computed:
        found = session.gradients(moved_part(state, session.adaptation), state, batch, constants)
        norm = optax.tree.norm(found.grads) / jnp.maximum(found.weight, 1.0)
        return _Computed(found.loss, found.weight, norm, _count_odd(jax.tree.leaves(found.grads)))

    trained = session.adaptation.partition.trained(session.abstract.params)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained)]
    # Whole on every device: each process reads the same numbers.
    return jax.jit(compute, out_shardings=meshes.replicated(session.mesh)), names


@jax.jit
def _count_odd(leaves: list[jax.Array]) -> jax.Array:
    """Returns for each array the number of its scalars that are not finite, int32 [arrays]."""
    return jnp.stack([jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32) for leaf in leaves])


def _alone(batch: Batch, spec: BatchSpec, index: int) -> Batch:
    """Returns the batch with every row but one empty: that one keeps its place, and so its random numbers."""

    def only(name: str, values: np.ndarray) -> np.ndarray:
        empty = np.full_like(values, spec[name].fill)
        empty[index] = values[index]
        return empty

    return {name: only(name, values) for name, values in batch.items()}


def _texts(workdir: pathlib.Path, batch: Batch) -> list[str]:
    """Returns the beginning of each row as text; empty where rows are not text, or several texts apart."""
    tokens, segments = batch.get("tokens"), batch.get("segment_ids")
    if tokens is None or segments is None or tokens.ndim != 2 or not (workdir / TOKENIZER_DIR).is_dir():
        return [""] * len(next(iter(batch.values())))
    tokenizer = load_tokenizer(workdir / TOKENIZER_DIR)
    pairs = zip(tokens, segments, strict=True)
    texts = [str(tokenizer.decode(row[used != 0], skip_special_tokens=True)) for row, used in pairs]
    return [text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]} ..." for text in texts]
