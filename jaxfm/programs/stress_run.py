"""A trained run over changed inputs: opened once, scored many times with one compiled program."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.core.build import Build
from jaxfm.core.records import WORDS, ChangesRecords, Record, TextsRecord, WordsRecord, reads_records
from jaxfm.core.task import Scorer, Task
from jaxfm.data.perturbations.kinds import ENTITIES, KINDS, Resources, perturb_all
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.evaluation.robustness import Effect, Scored, effect_of, scored
from jaxfm.observe.progress import Progress
from jaxfm.tasks.perturbed_copies import training_entities
from jaxfm.training.ensemble import Ensemble, make_ensemble, open_members
from jaxfm.training.evaluation import Evaluator, OutputsFn, whole_batches
from jaxfm.training.saved_run import SavedRun, available_mesh
from jaxfm.training.session import compute_dtype, scans_layers

TRAIN = "train"


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run, or a folder of several as an ensemble, with the inputs of one split.

    Attributes:
      runs: one, or the members of an ensemble.
      ensemble: how the members answer together; None for one run.
      task: over the split.
      split: that is scored.
      metric: that is compared.
      less_is_better: its direction.
      index: numbers of the records that are scored.
      restored: the structure of the model and the parameters of each run.
      mesh: of the devices.
      notes: lines for a person.
    """

    runs: tuple[SavedRun, ...]
    ensemble: Ensemble | None
    task: Task
    split: str
    metric: str
    less_is_better: bool
    index: tuple[int, ...]
    restored: tuple[Any, ...]
    mesh: Any
    notes: tuple[str, ...]

    @property
    def changes(self) -> ChangesRecords:
        """The task as one whose inputs can be changed."""
        return reads_records(self.task, self.runs[0].config.task.name)

    @property
    def records(self) -> list[Record]:
        """The inputs that are scored."""
        records = self.changes.records(self.split)
        return [records[number] for number in self.index]

    def evaluator(self, rows: int, outputs: OutputsFn | None = None) -> "Outputs":
        """Returns what computes outputs of rows, a batch of which is no larger than `rows` need."""
        size = whole_batches(self.runs[0].config.eval.batch_size, rows, self.mesh)
        function = self.task.objective.outputs if outputs is None else outputs
        return Outputs(self, Evaluator(function, self.restored[0].graphdef, self.mesh, size))


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Computes outputs of rows and scores them."""

    opened: Opened
    evaluator: Evaluator

    def of(self, rows: Dataset, advance: Callable[[int], None] | None = None) -> list[dict[str, np.ndarray]]:
        """Returns the outputs of each run."""
        return [self.evaluator(each.params, rows, advance) for each in self.opened.restored]

    def together(self, rows: Dataset) -> dict[str, np.ndarray]:
        """Returns the outputs of one run, or those of all together, calibrated."""
        found = self.of(rows)
        return found[0] if self.opened.ensemble is None else self.opened.ensemble.mean_outputs(found)

    def scored(self, task: Task) -> Scored:
        """Returns the scores of a task over the split."""
        opened = self.opened
        scorer: Scorer = task.scorer(opened.split)
        outputs = self.together(task.datasets[opened.split])
        calibration = read_calibration(opened.runs[0].workdir) if opened.ensemble is None else {}
        return scored(scorer.report(outputs, calibration), opened.metric, opened.less_is_better)


def open_stress(
    workdir: pathlib.Path, split: str, source: str | None, metric: str | None, limit: int, seed: int
) -> Opened:
    """Opens a run and the split; `limit` is the most records, drawn by the seed, 0: all.

    Raises:
      UserError: no run, split or checkpoint; a task whose inputs cannot be changed; an unknown metric.
    """
    runs = open_members(workdir)
    run = runs[0]
    ensemble = make_ensemble(workdir, runs) if len(runs) > 1 else None
    config = run.config
    task = run.task(source or config.data.source, split)
    count = len(reads_records(task, config.task.name).records(split))
    metric = metric or config.eval.metric
    if metric not in task.directions:
        raise UserError(f"--metric={metric}: is not one of this task: {', '.join(task.directions)}.")
    index = range(count)
    if 0 < limit < count:
        index = sorted(np.random.default_rng(seed).choice(count, limit, replace=False).tolist())
    mesh, note = available_mesh(config)
    build = Build(compute_dtype(config.train.precision), scans_layers(config.model.scan_layers))
    restored = tuple(each.restore(mesh, build) for each in runs)
    less_is_better = not task.directions[metric]
    return Opened(
        runs, ensemble, task, split, metric, less_is_better, tuple(index), restored, mesh, (note,) if note else ()
    )  # fmt: skip


def entities_of(run: SavedRun, task: ChangesRecords) -> tuple[dict[str, list[tuple[str, ...]]], str]:
    """Returns the entities of the training split by type, and a note where it cannot be read."""
    if task.reads != WORDS:
        return {}, ""
    try:
        train = reads_records(run.task(run.config.data.source, TRAIN), run.config.task.name)
    except UserError as error:
        return {}, f"NOTE: no entities are exchanged for those of train, which cannot be read: {error}"
    return training_entities(train.records(TRAIN)), ""


def effects(
    opened: Opened,
    kinds: Sequence[str],
    severities: Sequence[int],
    resources: Resources,
    seed: int,
    progress: Progress,
) -> tuple[Scored, list[Effect]]:
    """Scores the split as it is and by each kind and severity, in this order."""
    records, changes = opened.records, opened.changes
    plain = changes.with_records(opened.split, records, opened.index)
    outputs = opened.evaluator(len(plain.datasets[opened.split]))
    found = []
    with progress.task("scoring changed inputs", 1 + len(kinds) * len(severities)) as advance:
        clean = outputs.scored(plain)
        advance(1)
        for kind in kinds:
            for severity in severities:
                changed = perturb_all(records, kind, severity, seed, resources)
                after = outputs.scored(changes.with_records(opened.split, changed, opened.index))
                pairs = list(zip(records, changed, strict=True))
                touched = float(np.mean([differs(*pair) for pair in pairs]))
                aligned = [is_aligned(*pair) for pair in pairs]
                found.append(effect_of(clean, after, kind, severity, touched=touched, aligned=aligned))
                advance(1)
    return clean, found


def differs(before: Record, after: Record) -> bool:
    """Whether a record was changed at all."""
    if isinstance(before, TextsRecord | WordsRecord):
        return before != after
    assert not isinstance(after, TextsRecord | WordsRecord)
    return not np.array_equal(before.pixels, after.pixels)


def is_aligned(before: Record, after: Record) -> bool:
    """Whether each word still is the one that it was, so that tags can be compared one by one."""
    return not isinstance(before, WordsRecord) or (isinstance(after, WordsRecord) and before.tags == after.tags)


def needs_entities(kinds: Sequence[str]) -> bool:
    """Whether one of the kinds exchanges entities for those of train; none named: all that can be computed."""
    return not kinds or any(name in KINDS and KINDS[name].needs == ENTITIES for name in kinds)


def shown_record(record: Record) -> str:
    """Returns a record in one line."""
    if isinstance(record, TextsRecord):
        return " | ".join(record.texts)
    if isinstance(record, WordsRecord):
        return " ".join(record.words)
    return f"{record.pixels.shape[1]} x {record.pixels.shape[0]} pixels"


def described(prediction: Mapping[str, Any]) -> str:
    """Returns what was predicted of a unit, and how sure that is, in a few words."""
    predicted = prediction.get("predicted")
    if "words" in prediction:
        found = [*prediction.get("right", ()), *prediction.get("invented", ())]
        return ", ".join(f"{each['text']} ({each['type']})" for each in found) or "no entity"
    named = ", ".join(predicted) if isinstance(predicted, list | tuple) else str(predicted)
    scores = prediction.get("scores") or {}
    return f"{named} ({scores[predicted]:.2f})" if isinstance(predicted, str) and predicted in scores else named
