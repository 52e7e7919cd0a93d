"""How a stage of a stream is trained, by method: from which weights, on which data, held to what."""

import dataclasses
import functools
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.consolidation_config import ConsolidationConfig
from jaxfm.core.build import Build
from jaxfm.distil_config import DistilConfig
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import continual_data
from jaxfm.programs.continual_work import Work
from jaxfm.programs.pruned_run import is_whole, written
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import batch_size, consolidation, cut_run, fisher, initial
from jaxfm.training import workdir as workdirs
from jaxfm.training.influence import Examples
from jaxfm.training.paths import flat
from jaxfm.training.pool_outputs import PoolModel
from jaxfm.training.results import Start, write_run
from jaxfm.training.saved_run import open_run
from jaxfm.training.setup import prepare
from jaxfm.training.stage_average import running_mean


def write_untrained(work: Work, index: int) -> None:
    """Writes the run of a stage's data at the first weights, its head drawn by the seed, without any update.

    Raises UserError for whatever is wrong with the stage's config or data.
    """
    folder = work.untrained(index)
    if is_whole(folder):
        return
    config = work.stages[index].config
    first = initial.resolve(config.model)
    task, loaded = registry.create(config, first)
    config, mesh = workdirs.with_values(config, task.chosen), make_mesh(config.parallel.mesh)
    metric, rows = config.eval.metric, task.datasets["train"]
    if not task.directions.get(metric, True):
        raise UserError(f"config.eval.metric: {metric!r}: less of it is better; measures of streams need the opposite.")
    config, _ = batch_size.batch_of_examples(config, rows.volume, mesh)
    config, _ = batch_size.autotune_batch_size(config, task.objective, mesh, most=len(rows))
    setup = prepare(config, task, loaded, mesh)
    with written(folder) as made:
        write_run(Start(config, first, task, setup, setup.initial_state().params), made, work.progress)


def _naive(work: Work, index: int) -> None:
    work.train(work.following("naive", index), work.run("naive", index))


def _joint(work: Work, index: int) -> None:
    config = work.first("joint", index)
    if not index:
        work.train(config, work.run("joint", index))
        return
    data = work.beside("joint", index, "data")
    continual_data.write_joint(data, [work.untrained(each) for each in range(index + 1)])
    steps = [stage.config.train.steps for stage in work.stages[: index + 1]]
    if all(steps):  # as many updates as stages have that are trained one after the other
        config = replaced(config, {"train.steps": sum(steps)})
    work.train(continual_data.over(config, data), work.run("joint", index))


def _replay_by_reservoir(work: Work, index: int) -> None:
    method = "replay_reservoir"
    _train_replayed(work, method, index)
    if index + 1 < len(work.stages):
        seed = (work.stages[index].config.seed, index)
        before, folder = _stores(work, method, index)
        run, name = work.untrained(index), work.stages[index].name
        continual_data.fill_reservoir(before, folder, run, name, work.options.store, seed)


def _replay_by_herding(work: Work, index: int) -> None:
    method = "replay_herding"
    _train_replayed(work, method, index)
    if index + 1 < len(work.stages):
        before, folder = _stores(work, method, index)
        run, name = work.untrained(index), work.stages[index].name
        see = functools.partial(_vectors, work.run(method, index))
        continual_data.fill_by_herding(before, folder, run, see, name, work.options.store)


def _train_replayed(work: Work, method: str, index: int) -> None:
    config = work.following(method, index)
    if index:
        store, _ = continual_data.read_store(work.beside(method, index - 1, "store"))
        data = work.beside(method, index, "data")
        continual_data.write_replayed(data, work.untrained(index), store, work.options.replay_times)
        config = continual_data.over(config, data)
    work.train(config, work.run(method, index))


def _stores(work: Work, method: str, index: int) -> tuple[pathlib.Path | None, pathlib.Path]:
    """Returns the stores before and after a stage."""
    folder = work.beside(method, index, "store")
    folder.parent.mkdir(parents=True, exist_ok=True)
    return work.beside(method, index - 1, "store") if index else None, folder


def _vectors(trained: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns a vector a record, f32 [N, D]: what the last layer of a run reads, of words their mean."""
    found = []
    for seen in PoolModel(trained).see(records, features=True):
        assert seen.features is not None
        width = seen.features.shape[-1]
        found.append(seen.features.mean(axis=0) if len(seen.features) else np.zeros(width, np.float32))
    return np.stack(found)


def _ewc(work: Work, index: int) -> None:
    config = work.following("ewc", index)
    if index:
        held = work.beside("ewc", index - 1, "safetensors")
        asked = ConsolidationConfig(importance=str(held.resolve()), weight=work.options.ewc_weight)
        config = dataclasses.replace(config, consolidate=asked)
    work.train(config, work.run("ewc", index))
    if index + 1 < len(work.stages):
        _write_importance(work, index)


def _write_importance(work: Work, index: int) -> None:
    """Writes how important each weight is for the stages so far."""
    path = work.beside("ewc", index, "safetensors")
    if path.is_file():
        return
    run = open_run(work.run("ewc", index))
    config = cut_run.config_from(run.config, run.workdir)
    start = cut_run.start(config, initial.resolve(config.model))
    rows: Any = start.task.datasets["train"]
    where = getattr(rows, "example_locations", None)
    if where is None:
        raise UserError(f"--method=ewc: rows of the task {config.task.name!r} do not say where their examples are.")
    seed = (work.stages[index].config.seed, index)
    examples = Examples(rows, fisher.drawn(len(where), work.options.ewc_examples or len(where), seed))
    session = start.setup.session
    with work.progress.task("measuring importance", len(examples.numbers)) as advance:
        found = fisher.fisher_diagonal(
            start.task.objective, session.graphdef, start.params, examples, session.mesh, advance
        )
    earlier = None if not index else consolidation.read(work.beside("ewc", index - 1, "safetensors"), "--method=ewc")
    params = _on_host(flat(start.params))
    path.parent.mkdir(parents=True, exist_ok=True)
    consolidation.write(path, fisher.consolidated(earlier, found, params, work.options.ewc_decay))


def _lwf(work: Work, index: int) -> None:
    config = work.following("lwf", index)
    if index:
        teacher = f"{initial.RUN}{work.run('lwf', index - 1).resolve()}"
        weights: dict[str, Any] = {
            "hard": 1.0,
            "soft": work.options.lwf_weight,
            "temperature": work.options.lwf_temperature,
        }
        config = dataclasses.replace(config, distil=DistilConfig(teacher=teacher, **weights))
    work.train(config, work.run("lwf", index))


def _lora_merged(work: Work, index: int) -> None:
    # A run that starts from one with low-rank updates has these merged into its first weights.
    work.train(work.following("lora_merged", index), work.run("lora_merged", index))


def _lora_apart(work: Work, index: int) -> None:
    work.train(work.first("lora_apart", index), work.run("lora_apart", index))


def _lora_orthogonal(work: Work, index: int) -> None:
    method = "lora_orthogonal"
    config = work.following(method, index)
    if index:
        held = work.beside(method, index - 1, "safetensors")
        asked = ConsolidationConfig(orthogonal_to=str(held.resolve()), orthogonal_weight=work.options.orthogonal_weight)
        config = dataclasses.replace(config, consolidate=asked)
    work.train(config, work.run(method, index))
    path = work.beside(method, index, "safetensors")
    if index + 1 == len(work.stages) or path.is_file():
        return
    earlier = consolidation.read(work.beside(method, index - 1, "safetensors"), f"--method={method}") if index else {}
    restored = open_run(work.run(method, index)).restore(make_mesh(config.parallel.mesh), Build())
    updates = {name: value for name, value in restored.to_host().items() if name.endswith("/lora/a")}
    path.parent.mkdir(parents=True, exist_ok=True)
    consolidation.write(path, {**earlier, f"{consolidation.EARLIER}-{index + 1}": updates})


def _average(work: Work, index: int) -> None:
    method = "average"
    folder = work.run(method, index)
    if not index:
        work.train(work.following(method, index), folder)
        return
    trained = work.beside(method, index, "trained")
    work.train(work.following(method, index), trained)
    if is_whole(folder):
        return
    run = open_run(trained)
    config = cut_run.config_from(run.config, trained)
    whole = initial.resolve(config.model)
    before = initial.resolve(initial.of_run(config.model, work.run(method, index - 1)))
    mean = running_mean(_on_host(before.params), _on_host(whole.params), index + 1)
    with written(folder) as made:
        write_run(cut_run.start(config, dataclasses.replace(whole, params=mean)), made, work.progress)


def _on_host(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.asarray(value) for path, value in params.items()}


TRAINERS: Mapping[str, Callable[[Work, int], None]] = types.MappingProxyType(
    {
        "naive": _naive,
        "joint": _joint,
        "replay_reservoir": _replay_by_reservoir,
        "replay_herding": _replay_by_herding,
        "ewc": _ewc,
        "lwf": _lwf,
        "lora_merged": _lora_merged,
        "lora_apart": _lora_apart,
        "lora_orthogonal": _lora_orthogonal,
        "average": _average,
    }
)
"""Name of a method -> trains one stage, or goes on with it, once all before are trained."""
