"""Probabilities of the classes of records by models that have not seen them: a run a fold, each resumable."""

# N records, W words, C classes, F folds

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.core.labels import GROUP, with_class_labels
from jaxfm.data.records import in_memory
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.audit_records import TEST, TRAIN, Records, readable
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.training import grid
from jaxfm.training import workdir as workdirs
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.saved_run import available_mesh, open_run
from jaxfm.training.session import compute_dtype, scans_layers

FOLDER = "folds"
_COLUMNS = ("words", "tags", "document", "text", "pair", "image", "label", "time")


class Fold(NamedTuple):
    """One fold.

    Attributes:
      number: from 0.
      config: of the run that is trained on the others.
      folder: of this run.
      data: split -> rows that it is trained on.
      held_out: numbers of the records of train that it never sees.
    """

    number: int
    config: Config
    folder: pathlib.Path
    data: Mapping[str, Sequence[Mapping[str, Any]]]
    held_out: np.ndarray


def check_config(config: Config) -> None:
    """Raises UserError for configs of which the folds cannot be runs."""
    if grid.asks_for_several(config):
        raise UserError(
            "config.train.seeds, learning_rates, weight_decays: train several runs in one program (jaxfm.train); the "
            "run of a fold is one. Leave these keys as they are by default."
        )
    if config.checkpoint.mirror:
        raise UserError("config.checkpoint.mirror: is the place of one run, and there is one a fold. Leave it empty.")


def make_folds(config: Config, records: Records, fold_N: np.ndarray, workdir: pathlib.Path) -> list[Fold]:
    """Returns the folds, after a look at what lies in their folders.

    Raises UserError where a folder holds another run.
    """
    rows = {split: readable(split, found) for split, found in records.items() if split != TEST}
    # Columns are found by their usual names, whatever those of the source are.
    unnamed = {f"data.{name}_column": "" for name in _COLUMNS}
    # What a fold's run holds out are whole groups too; folds are of all times.
    unnamed["data.group_column"] = GROUP if config.data.group_column else ""
    folds = []
    for number in range(int(fold_N.max()) + 1):
        data = {split: found for split, found in rows.items() if split != TRAIN}
        data = {TRAIN: [row for row, fold in zip(rows[TRAIN], fold_N, strict=True) if fold != number]} | data
        with in_memory.provided(data) as source:
            chosen = replaced(config, {"data.source": source} | unnamed)
        folder = workdir / FOLDER / f"fold{number}"
        workdirs.status(folder, workdirs.with_chosen(folder, chosen))
        folds.append(Fold(number, chosen, folder, data, np.flatnonzero(fold_N == number)))
    return folds


def out_of_fold(
    folds: Sequence[Fold], records: Records, class_names: Sequence[str], progress: Progress
) -> dict[str, list[np.ndarray]]:
    """Trains what is not trained yet and returns split -> the probabilities float64 [W, C] of each record.

    Records of train are judged by the model of their fold, those of other splits by the mean of all models.

    Raises:
      UserError: as `jaxfm.train`.
      Preempted: stopped by a signal, after saving.
    """
    found: dict[str, list[np.ndarray]] = {
        split: [np.zeros((len(each.classes), len(class_names))) for each in own] for split, own in records.items()
    }
    for fold in folds:
        log = fold.folder.with_name(f"{fold.folder.name}.log")
        progress.say(f"fold {fold.number + 1} of {len(folds)}: {fold.folder} (log: {log})")
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(log, "a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            in_memory.provided(fold.data),
        ):
            train(fold.config, fold.folder)
        # All that the model has not seen is one table: it is encoded and computed once.
        unseen = [(TRAIN, number) for number in fold.held_out.tolist()]
        unseen += [(split, number) for split, own in records.items() if split != TRAIN for number in range(len(own))]
        rows = readable(TRAIN, [records[TRAIN][number] for number in fold.held_out.tolist()])
        rows += [row for split, own in records.items() if split != TRAIN for row in readable(split, own)]
        for (split, number), probabilities in zip(unseen, judge(fold.folder, rows, class_names), strict=True):
            found[split][number] += probabilities / (1 if split == TRAIN else len(folds))
    return found


def judge(workdir: pathlib.Path, rows: Sequence[Mapping[str, Any]], class_names: Sequence[str]) -> Iterator[np.ndarray]:
    """Yields the probabilities [W, C] that a trained run gives to each row of a table in memory."""
    run = open_run(workdir)
    mesh, _ = available_mesh(run.config)
    build = Build(compute_dtype(run.config.train.precision), scans_layers(run.config.model.scan_layers))
    restored = run.restore(mesh, build)
    with in_memory.provided({TEST: rows}) as source:
        task = run.task(source, TEST)
    judged = with_class_labels(task, run.config.task.name)
    encoded = task.datasets[TEST]
    size = whole_batches(run.config.eval.batch_size, len(encoded), mesh)
    outputs = Evaluator(task.objective.outputs, restored.graphdef, mesh, size)(restored.params, encoded)
    # The order of classes is that of all data, and the model of a fold may have another one.
    index = {name: number for number, name in enumerate(class_names)}
    columns = [index[name] for name in judged.class_names]
    for probabilities in judged.class_probabilities(TEST, outputs):
        whole = np.zeros((len(probabilities), len(class_names)))
        whole[:, columns] = probabilities
        yield whole
