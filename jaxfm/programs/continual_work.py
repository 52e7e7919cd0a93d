"""What the stages of a stream are made of: folders, configs, the settings of methods, and what each method is."""

import dataclasses
import pathlib
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfm.config import Config
from jaxfm.core.grown_head import can_grow
from jaxfm.observe.progress import Progress
from jaxfm.programs.continual_stream import Stage
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import initial


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to learn in stages.

    Attributes:
      doc: what it does, in a line.
      lora: a stage trains a low-rank update beside frozen weights.
      own_run: each stage is scored with its own run, also after later ones.
    """

    doc: str
    lora: bool = False
    own_run: bool = False


METHODS: Mapping[str, Method] = types.MappingProxyType(
    {
        "naive": Method("goes on from the stage before"),
        "joint": Method("all data up to here, from the first weights: the upper bound"),
        "replay_reservoir": Method("with examples of before, a random store"),
        "replay_herding": Method("with examples of before, those nearest to the mean of their class"),
        "ewc": Method("important weights are held near their earlier values"),
        "lwf": Method("learns from the outputs of the stage before too"),
        "lora_merged": Method("a low-rank update a stage, merged into the weights", lora=True),
        "lora_apart": Method("a low-rank update a stage, for that stage alone", lora=True, own_run=True),
        "lora_orthogonal": Method("merged updates, orthogonal to those before", lora=True),
        "average": Method("the mean of the weights after all stages"),
    }
)

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


def runs_of(work: Work, method: str) -> Sequence[pathlib.Path]:
    """Returns the run directory of each stage."""
    return [work.run(method, index) for index in range(len(work.stages))]
