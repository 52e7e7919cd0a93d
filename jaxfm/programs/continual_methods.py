"""How a stage of a stream is trained, by method: from which weights, on which data, held to what."""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import Config
from jaxfm.consolidation_config import ConsolidationConfig
from jaxfm.core.build import Build
from jaxfm.core.grown_head import can_grow
from jaxfm.distil_config import DistilConfig
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import continual_data
from jaxfm.programs.continual_stream import Stage
from jaxfm.programs.pruned_run import is_whole, written
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import batch_size, consolidation, cut_run, fisher, initial
from jaxfm.training import workdir as workdirs
from jaxfm.training.influence import Examples
from jaxfm.training.paths import flat
from jaxfm.training.results import Start, write_run
from jaxfm.training.saved_run import open_run
from jaxfm.training.setup import prepare
from jaxfm.training.stage_average import running_mean

Train = Callable[[Config, pathlib.Path], Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of methods.

    Attributes:
      split: of each stage's source that is scored.
      store: examples that replay keeps.
      replay_times: how often each of them stands in the data of a stage.
      ewc_weight: of the penalty of EWC.
      ewc_decay: what is kept of the importance of earlier stages.
      ewc_examples: training examples of a stage on which importance is measured; 0: all.
      lwf_weight: of what is learned from the stage before, beside the targets, which weigh 1.
      lwf_temperature: of these probabilities.
      lora_rank: of the low-rank update of a stage, where the config says none.
      orthogonal_weight: of the penalty of lora_orthogonal.
    """

    split: str = "test"
    store: int = 200
    replay_times: int = 1
    ewc_weight: float = 400.0
    ewc_decay: float = 1.0
    ewc_examples: int = 256
    lwf_weight: float = 1.0
    lwf_temperature: float = 2.0
    lora_rank: int = 8
    orthogonal_weight: float = 0.5


@dataclasses.dataclass(frozen=True)
class Work:
    """What the stages of one seed are made of.

    Attributes:
      folder: of the seed.
      stages: of the stream, with the configs of this seed.
      options: of the methods.
      train: trains or resumes a run.
      progress: where to show how far it is.
    """

    folder: pathlib.Path
    stages: tuple[Stage, ...]
    options: Options
    train: Train
    progress: Progress

    def name(self, index: int) -> str:
        """Returns the name of a stage's folder."""
        return f"{index + 1}_{self.stages[index].name}"

    def untrained(self, index: int) -> pathlib.Path:
        """Returns the run of a stage's data before any training."""
        return self.folder / "untrained" / self.name(index)

    def run(self, method: str, index: int) -> pathlib.Path:
        """Returns the run directory that stands for a method after a stage; methods share runs that are the same."""
        if index:
            return self.folder / method / self.name(index)
        return self.folder / ("first_stage_lora" if METHODS[method].lora else "first_stage") / self.name(0)

    def beside(self, method: str, index: int, what: str) -> pathlib.Path:
        """Returns a file or folder of a method after a stage that is no run."""
        return self.folder / method / f"{self.name(index)}.{what}"

    def first(self, method: str, index: int) -> Config:
        """Returns the config of a stage that starts from the first weights."""
        config = self.stages[index].config
        return self._with_lora(config) if METHODS[method].lora else config

    def following(self, method: str, index: int) -> Config:
        """Returns the config of a stage that goes on from the stage before; the head grows where it can."""
        config = self.first(method, index)
        if not index:
            return config
        model = initial.of_run(config.model, self.run(method, index - 1))
        config = dataclasses.replace(config, model=model)
        grows = can_grow(registry.definition(config.task.name), config)
        return replaced(config, {"model.grow_head": grows})

    def _with_lora(self, config: Config) -> Config:
        return config if config.adapt.lora.rank else replaced(config, {"adapt.lora.rank": self.options.lora_rank})


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


def _replay(method: str) -> Callable[[Work, int], None]:
    def train(work: Work, index: int) -> None:
        config = work.following(method, index)
        if index:
            store, _ = continual_data.read_store(work.beside(method, index - 1, "store"))
            data = work.beside(method, index, "data")
            continual_data.write_replayed(data, work.untrained(index), store, work.options.replay_times)
            config = continual_data.over(config, data)
        work.train(config, work.run(method, index))
        if index + 1 < len(work.stages):
            _fill(work, method, index)

    return train


def _fill(work: Work, method: str, index: int) -> None:
    before = work.beside(method, index - 1, "store") if index else None
    folder, stage, size = work.beside(method, index, "store"), work.stages[index].name, work.options.store
    run = work.untrained(index)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if method == _HERDING:
        continual_data.fill_by_herding(before, folder, run, work.run(method, index), stage, size)
    else:
        seed = (work.stages[index].config.seed, index)
        continual_data.fill_reservoir(before, folder, run, stage, size, seed)


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
        weights = {"hard": 1.0, "soft": work.options.lwf_weight, "temperature": work.options.lwf_temperature}
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


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to learn in stages.

    Attributes:
      train: trains one stage, or goes on with it, once all before are trained.
      doc: what it does, in a line.
      lora: a stage trains a low-rank update beside frozen weights.
      own_run: each stage is scored with its own run, also after later ones.
    """

    train: Callable[[Work, int], None]
    doc: str
    lora: bool = False
    own_run: bool = False


_HERDING = "replay_herding"
METHODS: Mapping[str, Method] = types.MappingProxyType(
    {
        "naive": Method(_naive, "goes on from the stage before"),
        "joint": Method(_joint, "all data up to here, from the first weights: the upper bound"),
        "replay_reservoir": Method(_replay("replay_reservoir"), "with examples of before, a random store"),
        _HERDING: Method(_replay(_HERDING), "with examples of before, those nearest to the mean of their class"),
        "ewc": Method(_ewc, "important weights are held near their earlier values"),
        "lwf": Method(_lwf, "learns from the outputs of the stage before too"),
        "lora_merged": Method(_lora_merged, "a low-rank update a stage, merged into the weights", lora=True),
        "lora_apart": Method(
            _lora_apart, "a low-rank update a stage, used for its stage alone", lora=True, own_run=True
        ),
        "lora_orthogonal": Method(_lora_orthogonal, "merged updates, orthogonal to those before", lora=True),
        "average": Method(_average, "the mean of the weights after all stages"),
    }
)


def runs_of(work: Work, method: str) -> Sequence[pathlib.Path]:
    """Returns the run directory of each stage."""
    return [work.run(method, index) for index in range(len(work.stages))]
