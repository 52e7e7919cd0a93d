"""Several runs before their first step, whose updates one program makes."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.initial import HostArray
from jaxfm.core.objective import Objective
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.models.kernels import KERNELS, XLA, attention_problems, choose
from jaxfm.training import private_rows
from jaxfm.training.session import run_build
from jaxfm.training.setup import Setup, prepare, with_constants
from jaxfm.training.stepping import StackedRuns
from jaxfm.training.teachers import KnownTeacher


def set_up_several(
    runs: Mapping[str, Config],
    tasks: Mapping[str, Task],
    loaded: Mapping[str, Mapping[str, HostArray]],
    mesh: Mesh,
    teachers: Sequence[KnownTeacher] = (),
) -> tuple[dict[str, Setup], StackedRuns]:
    """Does what `set_up` does for runs whose updates are made by one program; `runs`, `tasks` and `loaded` are by run.

    The runs share session and evaluator. Seed, rate and decay may differ, and with the seed the rows.

    Raises:
      UserError: as `set_up`; or runs of other shapes, numbers of updates or losses.
    """
    setups: dict[str, Setup] = {}
    for name, config in runs.items():
        private_rows.check_alone(config)
        first = next(iter(setups.values()), None)
        setups[name] = prepare(config, tasks[name], loaded[name], mesh, first, teachers)
    steps = {name: f"{setup.total_steps:,} updates" for name, setup in setups.items()}
    most = max(setup.total_steps for setup in setups.values())
    _check_same(steps, f"Each seed packs its own rows; give the number of updates, as --config.train.steps={most}.")
    _check_same(
        {name: f"a batch of {config.train.batch_size:,} rows" for name, config in runs.items()},
        "Give the rows of a batch, as --config.train.batch_size=16.",
    )
    objectives = {name: task.objective for name, task in tasks.items()}
    _check_same(
        {name: f"{each.spec.batch_spec()} in its batches" for name, each in objectives.items()},
        "Give the length of rows (--config.data.row_length), or train one after the other (jaxfm.seeds).",
    )
    one, *others = objectives.values()
    if any(each != one for each in others):
        raise UserError(
            "config.train.seeds: the model or the loss of these runs depends on the seed, so that they cannot be "
            "trained at once. Train one after the other (jaxfm.seeds)."
        )
    _check_kernels(next(iter(runs.values())), one, mesh)
    first, optims = next(iter(setups.values())), tuple(config.optim for config in runs.values())
    stack = StackedRuns(first.session, optims)
    for size in first.batches.sizes:
        stack.lower(size)
    return {name: with_constants(setup) for name, setup in setups.items()}, stack


def _check_kernels(config: Config, objective: Objective, mesh: Mesh) -> None:
    """Raises UserError where the runs' attention is a kernel that cannot be stacked."""
    build, _ = run_build(config, objective, mesh)
    spec = objective.spec
    for problem in attention_problems(spec.encoder, build, spec.row_length, mesh, training=True):
        path = choose(build.attention, problem)
        # JAX stacks cuDNN's mask as one that each head has its own of.
        if path != XLA and KERNELS[path].needs_mask(problem):
            raise UserError(
                f"config.model.attention: the kernel {path!r} needs a mask for these rows, and with one it cannot "
                "compute several runs at once. Take 'xla', or rows of one example (config.data.packed=False), or train "
                "one run after the other (jaxfm.seeds)."
            )


def _check_same(what: Mapping[str, Any], choice: str) -> None:
    """Raises UserError where runs that are to be stacked differ in something; `what`: name of the run -> its value."""
    first, *others = what.items()
    for name, value in others:
        if value != first[1]:
            raise UserError(
                f"config.train.seeds: runs that are trained at once have one shape, but {first[0]} has {first[1]} and "
                f"{name} has {value}. {choice}"
            )
