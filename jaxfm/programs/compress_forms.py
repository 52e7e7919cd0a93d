"""The smaller forms of a run that `jaxfm compress` tries: how each is made, what it comes to, which one is the best."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError
from jaxfm.observe.compress_plots import Form
from jaxfm.observe.report import JSON_FILE
from jaxfm.planning.targets import LATENCY, LOSS, SIZE, Target
from jaxfm.programs.pruned_run import Measured, build_of, is_whole
from jaxfm.training import latency
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import PARAMS_ITEM
from jaxfm.training.cut_run import VALID
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.quantised_weights import WEIGHTS_FILE
from jaxfm.training.saved_run import SavedRun, available_mesh, open_run
from jaxfm.tuning.trials import Trial, pareto_front

_TOKENIZER = "tokenizer"
_SMALL_LOSS = 0.01  # what a loss above a limit is counted in where that is 0: a point


@dataclasses.dataclass(frozen=True)
class Tried:
    """A form that was made.

    Attributes:
      name: of its folder.
      made_of: the form that it was made of.
      score: of the run's metric on the validation split.
      lost: what the score is worse by than the first model's.
      test: the metric on the test split; None where there is none.
      size: bytes on the disk of weights and tokenizer.
      size_share: the same as a share of the first model's.
      seconds: of a forward pass.
      latency_share: the same as a share of the first model's, measured in turns with it.
    """

    name: str
    made_of: str
    score: float
    lost: float
    test: float | None
    size: int
    size_share: float
    seconds: float
    latency_share: float

    def value(self, target: Target) -> float:
        """Returns what a target limits."""
        if target.name == SIZE:
            return float(self.size) if target.in_bytes else self.size_share
        return {LATENCY: self.latency_share, LOSS: self.lost}[target.name]

    def reaches(self, targets: Sequence[Target]) -> bool:
        """Whether it is within all targets."""
        return all(self.value(each) <= each.limit for each in targets)

    def excess(self, targets: Sequence[Target]) -> float:
        """Returns how far it is from the targets: the parts of each limit that it is above it by, summed."""
        return sum(max(self.value(each) - each.limit, 0.0) / max(each.limit, _SMALL_LOSS) for each in targets)

    @property
    def cost(self) -> float:
        """Size times latency, of the first model 1."""
        return self.size_share * self.latency_share


def size_on_disk(run: SavedRun) -> int:
    """Returns the bytes of a run's chosen weights and of its tokenizer."""
    home = run.workdir
    if (home / WEIGHTS_FILE).is_file():
        paths = [home / WEIGHTS_FILE]
    else:
        folder = home / (workdirs.AVERAGED_DIR if (home / workdirs.AVERAGED_DIR).is_dir() else workdirs.CHECKPOINTS_DIR)
        mesh, _ = available_mesh(run.config)
        step = run.restore(mesh, build_of(run.config)).step
        paths = [*(folder / str(step) / PARAMS_ITEM).rglob("*")]
    paths += (home / _TOKENIZER).rglob("*")
    return sum(path.stat().st_size for path in paths if path.is_file())


def tried(name: str, made_of: str, folder: pathlib.Path, base: Measured, first_size: int) -> Tried:
    """Returns what a form comes to, its latency measured in turns with the first model's."""
    run = open_run(folder)
    config = base.whole.config
    task = run.task(config.data.source, VALID)
    mesh, _ = available_mesh(run.config)
    restored = run.restore(mesh, build_of(run.config))
    call = latency.forward_pass(
        task.objective.outputs, restored.graphdef, restored.params, task.datasets[VALID], mesh, config.eval.batch_size
    )
    seconds = latency.in_turns({"first": base.forward, "form": call})
    if (folder / JSON_FILE).is_file():
        splits = workdirs.read_report(folder)["splits"]
    else:  # rounded weights of a run that has not ended
        rows = task.datasets[VALID]
        size = whole_batches(config.eval.batch_size, len(rows), mesh)
        outputs = Evaluator(task.objective.outputs, restored.graphdef, mesh, size)(restored.params, rows)
        splits = {VALID: task.scorer(VALID).metrics(outputs)}
    score = float(splits[VALID][base.metric])
    size = size_on_disk(run)
    return Tried(
        name, made_of, score, base.lost(score), splits.get("test", {}).get(base.metric), size, size / first_size,
        seconds["form"], seconds["form"] / seconds["first"],
    )  # fmt: skip


def best_of(forms: Sequence[Tried], targets: Sequence[Target]) -> Tried | None:
    """Returns the form within all targets to write; None where none is.

    Where a loss is allowed that is the one whose size times latency is the least, otherwise the one that scores best.
    """
    within = [each for each in forms if each.reaches(targets)]
    if any(each.name == LOSS for each in targets):
        return min(within, key=lambda each: (each.cost, each.lost), default=None)
    return min(within, key=lambda each: (each.lost, each.cost), default=None)


def nearest(forms: Sequence[Tried], targets: Sequence[Target]) -> str:
    """Says which form is the nearest to the targets, and what it has."""
    found = min(forms, key=lambda each: (each.excess(targets), each.lost))
    shown = ", ".join(f"{each.name} {_shown(found, each)} (at most {str(each).partition(':')[2]})" for each in targets)
    return f"the nearest is {found.name}: {shown}"


def _shown(form: Tried, target: Target) -> str:
    return f"{form.size / 1e6:.2f}MB" if target.in_bytes else f"{form.value(target):.3g}"


def numbers_of_front(forms: Sequence[Tried], more_is_better: bool) -> set[int]:
    """Returns the numbers of the forms that none surpasses in score, size and latency."""
    points = [
        Trial(number, "finished", values=(each.score, each.size_share, each.latency_share))
        for number, each in enumerate(forms)
        if math.isfinite(each.score)
    ]
    return {each.number for each in pareto_front(points, (more_is_better, False, False))}


def drawn(forms: Sequence[Tried], front: set[int], chosen: str) -> list[Form]:
    """Returns the forms as they are drawn; the first of them is the first model."""
    return [
        Form(number, each.score, each.size_share, each.latency_share, number in front, not number, each.name == chosen)
        for number, each in enumerate(forms)
        if math.isfinite(each.score)
    ]


def made(folder: pathlib.Path, make: Callable[[], Any]) -> str:
    """Makes a form unless it is there; returns why it cannot be made, "" where it is there now."""
    if is_whole(folder):
        return ""
    try:
        make()
    except UserError as error:
        return str(error)
    return ""


def to_json(form: Tried, targets: Sequence[Target], on_front: bool) -> Mapping[str, Any]:
    """Returns JSON values."""
    return {**dataclasses.asdict(form), "reaches": form.reaches(targets), "on_front": on_front}
