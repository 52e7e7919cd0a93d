"""Deep ensembles: a folder of runs from several seeds, used as one model whose probabilities are the runs' mean."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm import files
from jaxfm.core.evaluation import Evaluation
from jaxfm.core.task import TOKENIZER_DIR, AveragesModels, ComparesModels, Predictor, Scorer
from jaxfm.errors import UserError
from jaxfm.evaluation import many_runs
from jaxfm.observe.writers import to_json
from jaxfm.training import workdir as workdirs
from jaxfm.training.results import with_intervals
from jaxfm.training.saved_run import SavedRun, open_run

# Of the calibration of a split, beside its metrics.
_CALIBRATION = ("nll", "ece", "brier")


def open_members(workdir: pathlib.Path) -> tuple[SavedRun, ...]:
    """Opens a run directory, or the runs of a folder of several that has a seeds.json.

    Of several settings it is the runs of the best one.

    Raises:
      UserError: as `open_run`; or runs that are not of the same task, labels, shape and tokenizer.
    """
    if (workdir / workdirs.CONFIG_FILE).is_file() or not (workdir / many_runs.JSON_FILE).is_file():
        return (open_run(workdir),)
    runs = tuple(open_run(folder) for folder in many_runs.folders_of(workdir, many_runs.read(workdir)))
    one, *others = runs
    for run in others:
        if run.spec != one.spec or _tokenizer(run) != _tokenizer(one):
            raise UserError(
                f"--workdir={workdir}: {one.workdir.name} and {run.workdir.name} differ in task, labels, shape or "
                "tokenizer, so that they are no ensemble. Name one of them."
            )
    return runs


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """How what several runs say is put together.

    Attributes:
      runs: of one task.
      predictors: of each, with its calibration.
    """

    runs: tuple[SavedRun, ...]
    predictors: tuple[AveragesModels, ...]

    @property
    def predictor(self) -> Predictor:
        """What decodes the outputs of all together."""
        return self.predictors[0].uncalibrated()

    def calibrated(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Returns the outputs of each run with its own calibration."""
        return [one.calibrated(each) for one, each in zip(self.predictors, outputs, strict=True)]

    def mean_outputs(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Returns the outputs of all together, of which those of each run are given."""
        return self.predictors[0].mean_outputs(self.calibrated(outputs))

    def report(self, scorer: Scorer, outputs: Sequence[Mapping[str, np.ndarray]]) -> Evaluation:
        """Scores the ensemble, and its members beside it: the table "Ensemble", and "ensemble" among the scores.

        Metrics, and NLL, ECE and Brier score of calibrated probabilities; and how far the members disagree.
        """
        of_members = self.calibrated(outputs)
        together = scorer.report(self.predictors[0].mean_outputs(of_members))
        alone = [_numbers(scorer.report(each)) for each in of_members]
        metrics = {
            name: {"ensemble": value, **many_runs.statistics_of([each.get(name, float("nan")) for each in alone])}
            for name, value in _numbers(together).items()
        }
        apart = scorer.disagreement(of_members) if isinstance(scorer, ComparesModels) else {}
        facts = {"members": len(self.runs), "metrics": metrics, "disagreement": apart}
        found = with_intervals(together)
        table = dataclasses.replace(many_runs.ensemble_table("", facts), title=f"Ensemble of {len(self.runs)}")
        return dataclasses.replace(found, scores={**found.scores, "ensemble": facts}, tables=(table, *found.tables))


def make_ensemble(workdir: pathlib.Path, runs: tuple[SavedRun, ...]) -> Ensemble:
    """Returns how to use the runs of a folder together; UserError where their task has no mean of several models."""
    predictors = tuple(run.predictor() for run in runs)
    problem = "what models of this task say has no mean that could be decoded."
    averaging = tuple(each for each in predictors if isinstance(each, AveragesModels))
    if len(averaging) == len(predictors):
        problem = averaging[0].average_problem()
    if problem:
        raise UserError(
            f"--workdir={workdir}: holds {len(runs)} runs of the task {runs[0].config.task.name}: {problem} "
            f"Name one of them, as --workdir={runs[0].workdir}."
        )
    return Ensemble(runs, averaging)


def write_report(workdir: pathlib.Path, split: str, evaluation: Evaluation) -> None:
    """Adds a split to ensemble.json of a folder of runs, and to its seeds.md."""
    path, facts = workdir / many_runs.ENSEMBLE_FILE, dict(evaluation.scores["ensemble"])
    found = many_runs.read(workdir)
    before = files.read_object(path) if path.is_file() else {}
    splits = before.get("splits", {}) if before.get("runs") == found["runs"] else {}  # else of other members
    splits = {**splits, split: facts}
    files.write_json(path, to_json({"task": found["task"], "runs": found["runs"], "splits": splits}))
    files.write_text(workdir / many_runs.MARKDOWN_FILE, many_runs.to_text(workdir, found))


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    """Returns the metrics of an evaluation, and what it says of the probabilities that it was given."""
    model = evaluation.scores.get("calibration", {}).get("model", {})
    return {**evaluation.metrics} | {name: model[name] for name in _CALIBRATION if name in model}


def _tokenizer(run: SavedRun) -> str:
    """Returns a hash of the files of a run's tokenizer."""
    digest, folder = hashlib.sha256(), run.workdir / TOKENIZER_DIR
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()
