"""A run that is not trained by steps on its labels: its head is fitted to vectors, or nothing of it is new.

Where the encoder learns from pairs of examples first, that is an ordinary run in WORKDIR/stages/pairs. What follows is
a function of its weights and the data, so whenever the whole is stopped the same call goes on: with the stage as any
run does, or by writing WORKDIR again.
"""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import AUTO, Config
from jaxfm.core.build import Build
from jaxfm.core.few_labels import FitPlan, FitsHead, LearnsFromPairs
from jaxfm.core.initial import HostArray
from jaxfm.core.task import Task
from jaxfm.data.records import in_memory
from jaxfm.errors import UserError
from jaxfm.observe import summary
from jaxfm.observe.progress import Progress
from jaxfm.observe.shown import Report
from jaxfm.observe.writers import METRICS_FILE
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.programs import usage
from jaxfm.programs.stages import TrainOne
from jaxfm.tasks import registry
from jaxfm.training import batch_size, continuation, grid, initial, results
from jaxfm.training import workdir as workdirs
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.fit import Pause, never
from jaxfm.training.history import Turn, write_history
from jaxfm.training.paths import flat, nested
from jaxfm.training.setup import Setup, prepare

PAIRS_STAGE = "pairs"
_HEAD = "head/"


def train_fitted(
    plan: FitPlan, config: Config, workdir: pathlib.Path, train_one: TrainOne, *, pause: Pause = never
) -> Report:
    """Makes a run as a plan says, or goes on where that was stopped, or reports it; returns its report.

    Args:
      plan: what the config asks for.
      config: of the run.
      workdir: its run directory.
      train_one: runs, resumes or reports a run by steps.
      pause: as for `jaxfm.train`, of the stage that learns from pairs.

    Raises:
      UserError: keys that do not go with the plan, weights that lack a part that is not fitted, and as `jaxfm.train`.
      Stopped: by `pause` or a signal.
    """
    _check(plan, config)
    if (workdir / workdirs.CONFIG_FILE).is_file():
        if workdirs.status(workdir, workdirs.with_chosen(workdir, config)) == "finished":
            return train_one(config, workdir, pause=pause)
    else:
        continuation.check_free(workdir)
    stage = workdir / continuation.STAGES_DIR / PAIRS_STAGE
    first = initial.resolve(workdirs.pinned(stage if plan.pairs else workdir, config.model))
    mesh = make_mesh(config.parallel.mesh)
    task, loaded = registry.create(config, first)
    asked, config = config, workdirs.with_values(config, task.chosen)
    _check_parts(plan, config, task, loaded, mesh)
    turns = []
    if plan.pairs:
        steps, count = _train_on_pairs(config, task, stage, train_one, pause)
        first = initial.resolve(initial.of_run(config.model, stage))
        task, loaded = registry.create(config, first)
        names = (workdirs.read_config(stage).task.name, config.task.name)
        why = f"vectors were learned from {count:,} pairs of examples, and the head is fitted to them"
        turns = [Turn(steps, files.relative_path(stage, workdir), {"task.name": names}, why)]
    workdir.mkdir(parents=True, exist_ok=True)
    with files.held(workdir / workdirs.LOCK_FILE, f"--workdir={workdir}"), Progress(None) as progress:
        if (workdir / workdirs.JSON_FILE).is_file():  # another process has been here
            return train_one(asked, workdir, pause=pause)
        for note in task.notes:
            progress.say(note)
        config, _ = batch_size.batch_of_examples(config, task.datasets["train"].volume, mesh)
        setup = prepare(config, task, loaded, mesh)
        params = setup.initial_state().params
        if plan.head:
            params = _with_fitted_head(config, task, setup, params, progress)
        _clear(workdir)
        if turns:
            write_history(workdir, turns)
        report = results.write_run(results.Start(config, first, task, setup, params), workdir, progress)
        ((_, predict), *_) = results.commands(config, task, workdir, list(report["splits"]))
        predict = usage.as_called(predict, sys.argv[0])
        summary.show_summary(progress, report, workdir, config.eval.metric, predict)
    return Report(dict(report), workdir)


def _check(plan: FitPlan, config: Config) -> None:
    """Raises UserError for keys that do not go with a plan."""
    if grid.asks_for_several(config):
        raise UserError(
            f"config.train.seeds: several runs in one program do not go with {plan.key}. Start them singly."
        )
    if jax.process_count() > 1:
        raise UserError(f"{plan.key}: a run of several processes cannot do this. Start it as one process.")
    adapt, plain = config.adapt, AdaptConfig()
    values: dict[str, tuple[Any, Any]] = {
        "adapt.lora.rank": (adapt.lora.rank, plain.lora.rank),
        "adapt.adapter_size": (adapt.adapter_size, plain.adapter_size),
        "adapt.prefix_length": (adapt.prefix_length, plain.prefix_length),
        "adapt.quantise.bits": (adapt.quantise.bits, plain.quantise.bits),
        "grow.layers": (config.grow.layers, ()),
        "supernet.depths": (config.supernet.depths, ()),
        "supernet.heads": (config.supernet.heads, ()),
        "supernet.ffn_sizes": (config.supernet.ffn_sizes, ()),
        "exits.every": (config.exits.every, 0),
        "distil.teacher": (config.distil.teachers, ()),
        "consolidate.importance": (config.consolidate.importance, ""),
        "consolidate.orthogonal_to": (config.consolidate.orthogonal_to, ""),
        "privacy.clip_norm": (config.privacy.clip_norm, 0.0),
        "checkpoint.mirror": (config.checkpoint.mirror, ""),
    }
    for key, (value, default) in values.items():
        if value != default:
            raise UserError(f"config.{key}: {value!r}: does not go with {plan.key}. Leave it at {default!r}.")
    if config.train.batch_size == AUTO:
        raise UserError(f"config.train.batch_size: 'auto' does not go with {plan.key}. Give a number, or 'examples'.")
    if plan.pairs and config.adapt.train == "head":
        raise UserError(f"config.adapt.train: 'head', but {plan.key} trains the encoder on pairs. Set 'all'.")


def _check_parts(plan: FitPlan, config: Config, task: Task, loaded: Mapping[str, HostArray], mesh: Mesh) -> None:
    """Raises UserError where a part of the model is neither loaded nor learned."""
    _, abstract = build_abstract(lambda: task.objective.spec.make_model(Build(), nnx.Rngs(0)), mesh)
    missing = sorted(flat(abstract).keys() - loaded.keys())
    missing = [path for path in missing if not (plan.head and path.startswith(_HEAD))]
    if missing and not plan.pairs:
        raise UserError(
            f"{plan.key}: {missing[0]} is not in the weights of {config.model.init!r}, and nothing would train it. "
            "Name weights that have it, or set config.task.fit=gradient."
        )


def _train_on_pairs(
    config: Config, task: Task, stage: pathlib.Path, train_one: TrainOne, pause: Pause
) -> tuple[int, int]:
    """Trains the encoder on pairs of the examples of a task, or goes on with that; returns updates and pairs."""
    assert isinstance(task, FitsHead)
    definition = registry.definition_with(LearnsFromPairs)
    records = task.pair_records(config)
    spec: Any = task.objective.spec
    with in_memory.provided({"train": records}) as source:
        of_pairs = definition.config_of_pairs(config, source, pooling=spec.pooling, window=spec.window)
        report = train_one(of_pairs, stage, pause=pause)
    return int(report["training"]["steps"]), len(records)


def _with_fitted_head(config: Config, task: Task, setup: Setup, params: Any, progress: Progress) -> Any:
    """Returns the parameters with a last layer that is fitted to the vectors of the training rows."""
    assert isinstance(task, FitsHead)
    rows, session = task.datasets["train"], setup.session
    evaluate = Evaluator(task.head_vectors, session.graphdef, session.mesh, config.eval.batch_size)
    with progress.task("vectors of the training examples", len(rows)) as advance:
        outputs = evaluate(params, rows, advance)
    leaves = flat(params)
    for path, value in task.fitted_head(outputs, config).items():
        assert leaves[path].shape == value.shape
        leaves[path] = jax.device_put(np.asarray(value, leaves[path].dtype), leaves[path].sharding)
    return nested(leaves)


def _clear(workdir: pathlib.Path) -> None:
    """Removes what a call that was killed has left of the run itself; config.json, by which it is known, stays."""
    for name in (workdirs.CHECKPOINTS_DIR, "predictions", "plots"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (workdir / METRICS_FILE).unlink()
