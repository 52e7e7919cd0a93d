"""The mean of a run's best checkpoints, which stands for the run where it is better than the best of them."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.config import Config
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.training.adaptation import Partition
from jaxfm.training.best import tie_breaker
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.member import TrainResult
from jaxfm.training.setup import Setup
from jaxfm.training.workdir import AVERAGED_DIR


def check(config: Config, task: Task) -> None:
    """Raises UserError where there will be no best checkpoints to average."""
    if config.adapt.average_best < 2:
        return
    key = f"config.adapt.average_best: {config.adapt.average_best}"
    if config.eval.select != "best":
        raise UserError(f"{key} contradicts config.eval.select={config.eval.select!r}. Set select='best', or 0 here.")
    if "valid" not in task.datasets:
        raise UserError(f"{key} needs a split 'valid' to choose by, and {config.data.source} has none. Set 0.")


def choose(
    config: Config,
    task: Task,
    setup: Setup,
    fitted: TrainResult,
    checkpoints: Checkpoints,
    workdir: pathlib.Path,
    progress: Progress,
    wall_clock: WallClock,
) -> TrainResult:
    """Returns the mean of the best checkpoints where it scores better on "valid" than the best of them.

    How many is `config.adapt.average_best`. The mean is kept in the run directory (`training/saved_run.py` reads it).
    Only the trained part is averaged: what is frozen keeps its bits.
    """
    best, steps = fitted.best, fitted.best.kept
    if config.adapt.average_best < 2 or len(steps) < 2:
        return fitted
    rows = task.datasets["valid"]
    whole = [fitted.step]

    def others() -> Iterator[Any]:
        for step in steps[1:]:
            restored = checkpoints.restore_or_set_aside(step, setup.session.abstract.params)
            if restored is not None:
                whole.append(step)
                yield restored

    params = mean_of(fitted.params, others(), setup.session.adaptation.partition)
    if len(whole) < 2:
        return fitted
    steps = tuple(whole)
    with wall_clock.during("evaluate"), progress.task("validating the mean", len(rows)) as advance:
        outputs = setup.evaluate(params, rows, advance)
        metrics = task.scorer("valid").metrics(outputs)
    name, last = config.eval.metric, fitted.last_step + 1
    value, listed = metrics.get(name, math.nan), ", ".join(map(str, steps))
    won = (
        best.update(
            last,
            value,
            more_is_better=task.directions[name],
            loss=tie_breaker(metrics, task.directions)[1],
        ).step
        == last
    )
    progress.say(
        f"mean of the checkpoints of steps {listed}: {name} {value:.4f} on valid; the best of them "
        f"{best.describe_value()} at step {best.step}: the {'mean' if won else 'best'} is used"
    )
    if not won:
        return fitted
    with wall_clock.during("checkpoint"):
        kept = Checkpoints(workdir / AVERAGED_DIR)
        kept.save_params(fitted.step, params, {"best": dataclasses.asdict(best), "averaged": steps})
        kept.close()
    return dataclasses.replace(fitted, params=params, averaged=steps, valid_outputs=outputs)


def mean_of(first: Any, others: Iterable[Any], partition: Partition) -> Any:
    """Returns the mean of parameters in their trained part, and those of `first` in the rest.

    Three programs are compiled, however many there are to average; one of `others` is held at a time.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), first)
    shardings = _shardings(partition.trained(shapes))
    add = jax.jit(lambda total, tree: jax.tree.map(jnp.add, total, partition.trained(tree)), out_shardings=shardings)
    total, count = jax.jit(partition.trained, out_shardings=shardings)(first), 1
    for tree in others:
        total, count = add(total, tree), count + 1

    def put(total: Any, count: jax.Array, tree: Any) -> Any:
        return partition.put(jax.tree.map(lambda leaf: leaf / count, total), tree)

    return jax.jit(put, out_shardings=_shardings(first))(total, count, first)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)
