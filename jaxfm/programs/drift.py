"""Says whether to train again: `python -m jaxfm.drift --workdir=RUN --data=FILE|URI [--labelled]` compares new data.

New texts are compared with those that the run was trained on (words, pieces, lengths), and what the run says of them
with what it says of its validation split (vectors, confidence, predicted classes, estimated accuracy). Tests divide the
records anew, so that few records are not accused. The exit code is 0 for nothing, 4 for look, 3 for train again: of the
score with --labelled, else of the estimated accuracy or of texts that a classifier tells from the others.
"""

import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.core.evaluation import Evaluation
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import drift_rules
from jaxfm.evaluation.drift_rules import LOOK, TRAIN_AGAIN, Drop, Thresholds
from jaxfm.evaluation.drift_samples import Looked
from jaxfm.evaluation.error_estimate import ESTIMATES, ErrorEstimate, estimate_error
from jaxfm.evaluation.intervals import intervals
from jaxfm.evaluation.label_shift import ClassShares, class_shares
from jaxfm.evaluation.score_drop import score_drop
from jaxfm.evaluation.two_samples import ROUNDS
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.programs import plugins, program
from jaxfm.programs.drift_data import Reader, Side, check_given
from jaxfm.programs.drift_model import DriftModel
from jaxfm.programs.drift_report import MARKDOWN_FILE, DriftReport, Scores, Unlike, write_drift
from jaxfm.programs.drift_tests import Draws, model_tests, text_tests
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import COLUMNS
from jaxfm.training.ensemble import open_members
from jaxfm.training.saved_run import SavedRun

USAGE = (
    "usage: python -m jaxfm.drift --workdir=RUN --data=FILE|URI [--split=test]\n"
    "  [--labelled] [--max_drop=0.05] [--alpha=0.01] [--least=0.1] [--far=0.9]\n"
    "  [--estimate=atc|doc] [--metric=NAME] [--reference=URI]\n"
    "  [--text_split=train] [--held_out=valid] [--limit=2000] [--rounds=2000]\n"
    "  [--seed=0] [--output=DIR] [--config.data.text_column=NAME, pair_column, ...]"
)
EXIT_AGAIN, EXIT_LOOK = 3, 4
EXIT_CODES = {TRAIN_AGAIN: EXIT_AGAIN, LOOK: EXIT_LOOK}
FOLDER = "drift"
LIMIT = 2000
_TESTS = 8  # at most
_VALID = "valid"


def drift(
    workdir: str | pathlib.Path,
    data: str | os.PathLike[str] | Iterable[Any],
    split: str = "test",
    *,
    labelled: bool = False,
    thresholds: Thresholds | None = None,
    estimate: str = "atc",
    metric: str | None = None,
    reference: str | None = None,
    text_split: str = "train",
    held_out: str | None = None,
    limit: int = LIMIT,
    rounds: int = ROUNDS,
    seed: int = 0,
    output: str | pathlib.Path | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> DriftReport:
    """Compares new data with those that a run was trained on, and says whether to train again.

    Args:
      workdir: a run directory of a task over texts.
      data: a file of texts, as `jaxfm.predict` reads it, the URI of a source or, in memory, texts or records.
      split: of a source.
      labelled: whether the data have labels, in the form of the run's own; they are then scored too.
      thresholds: of the rules.
      estimate: the estimate of accuracy that the rules look at, "atc" or "doc" (`evaluation.error_estimate`).
      metric: the score of labelled data; by default that which chose the checkpoint.
      reference: URI of the data of the run, where they have moved.
      text_split: the split that texts are compared with.
      held_out: the split that what the run says is compared with; by default valid, where there is one.
      limit: most records of a side that are compared, drawn by the seed; 0: all.
      rounds: divisions of the records that each test draws.
      seed: of all draws.
      output: the folder to write; WORKDIR/drift by default, "" for none.
      columns: `text_column`, `pair_column`, `words_column` of a file.
      progress: where to show how far it is.

    Raises:
      UserError: a run that reads images, or a folder of several; data or splits that cannot be read or have fewer than
        20 records; labels that the run does not know; numbers outside of their range.
    """
    asked = _Asked(require_split(split), labelled, thresholds or Thresholds(), estimate, metric, rounds, seed)
    asked.check(limit)
    data = os.fspath(data) if isinstance(data, str | os.PathLike) else list(data)
    check_given(data)
    run = _open(files.user_path(workdir, "--workdir"))
    folder = run.workdir / FOLDER if output is None else files.user_path(output, "--output") if str(output) else None
    if folder is not None:
        files.check_parents(folder, "--output")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--output={folder}: is a file; name a directory.")
    shown = progress or Progress(None, quiet=True)
    with libraries_quieted():
        reader = Reader(run, limit, seed)
        sides, notes = _sides(reader, data, dict(columns or {}), asked, reference, (text_split, held_out), shown)
        report = _report(run, reader, sides, asked, notes, _scored(run, data, asked, sides, reference, shown), shown)
    if folder is not None:
        write_drift(folder, report)
    return report


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked for."""

    split: str
    labelled: bool
    thresholds: Thresholds
    estimate: str
    metric: str | None
    rounds: int
    seed: int

    def check(self, limit: int) -> None:
        """Raises UserError for numbers that cannot be."""
        found = self.thresholds
        if self.estimate not in ESTIMATES:
            raise UserError(f"--estimate={self.estimate}: {did_you_mean(self.estimate, ESTIMATES)}")
        if not 0 < found.alpha < 1:
            raise UserError(f"--alpha={found.alpha:g}: must be above 0 and below 1.")
        for name, low, high in (("least", 0, 1), ("far", 0.5, 1), ("max_drop", 0, math.inf)):
            if not low <= (value := getattr(found, name)) <= high:
                raise UserError(f"--{name}={value:g}: must be {low} to {high}.")
        if limit < 0:
            raise UserError(f"--limit={limit}: must be 0 (all) or more.")
        if _TESTS / (self.rounds + 1) >= found.alpha:
            fewest = int(_TESTS / found.alpha)
            raise UserError(
                f"--rounds={self.rounds}: {_TESTS} tests could not show anything at --alpha={found.alpha:g}; "
                f"{fewest} rounds are the fewest."
            )
        if self.metric is not None and not self.labelled:
            raise UserError(f"--metric={self.metric}: is a score of labelled data; give --labelled too.")


@dataclasses.dataclass(frozen=True)
class _Sides:
    """What is compared.

    Attributes:
      text: texts that the run was trained on.
      held_out: records that what the run says is compared with; None: there are none.
      held_out_split: their split.
      new: the new records.
    """

    text: Side
    held_out: Side | None
    held_out_split: str
    new: Side


def _open(workdir: pathlib.Path) -> SavedRun:
    run, *others = open_members(workdir)
    if others:
        raise UserError(f"--workdir={workdir}: holds {1 + len(others)} runs. Name one of them, as {run.workdir}.")
    return run


def _sides(
    reader: Reader,
    data: Any,
    columns: Mapping[str, str],
    asked: _Asked,
    reference: str | None,
    splits: tuple[str, str | None],
    progress: Progress,
) -> tuple[_Sides, list[str]]:
    """Reads all sides; returns also lines for a person."""
    text_split, notes = require_split(splits[0]), []
    with progress.task("reading", None):
        text = reader.of_run(text_split, reference)
        held_out_split, held_out = require_split(splits[1] or _VALID), None
        try:
            held_out = reader.of_run(held_out_split, reference)
        except UserError as error:
            if splits[1] is not None:
                raise
            notes.append(
                f"NOTE: what the run says is not compared, as there is no split that it was not trained on: {error} "
                "Name one by --held_out."
            )
        new = reader.new(data, asked.split, columns, progress, labelled=asked.labelled)
    notes += [
        f"{side.name}: {len(side.records):,} of {side.available:,} records, drawn by the seed"
        for side in (text, held_out, new)
        if side is not None and len(side.records) < side.available
    ]
    return _Sides(text, held_out, held_out_split, new), notes


def _scored(
    run: SavedRun, data: Any, asked: _Asked, sides: _Sides, reference: str | None, progress: Progress
) -> Scores | None:
    """Scores labelled data and those that were held out; None without labels."""
    if not asked.labelled:
        return None
    if sides.held_out is None:
        raise UserError("--labelled: a score is compared with that of held-out data; name their split by --held_out.")
    metric = asked.metric or run.config.eval.metric
    given: dict[str, Any] = {"source": data} if isinstance(data, str) else {"data": data}
    quiet = Progress(None, quiet=True)
    with progress.task("scoring labelled data", None):
        before = evaluate(run.workdir, sides.held_out_split, reference, quiet)
        after = evaluate(run.workdir, asked.split, progress=quiet, **given)
    values = [_value(each, metric) for each in (before, after)]
    held_out, new = before.bootstrap_data, after.bootstrap_data
    if held_out is None or new is None or metric not in held_out.metrics(np.arange(held_out.count)):
        raise UserError(
            f"--labelled: {metric} is not a function of independent units of this task, so that no fall of it could "
            "be shown. Name another one by --metric."
        )
    found = [intervals(each, {metric: value})[metric] for each, value in zip((held_out, new), values, strict=True)]
    return Scores(metric, found[0], found[1], score_drop(held_out, new, metric, seed=asked.seed))


def _value(evaluation: Evaluation, metric: str) -> float:
    if metric not in evaluation.metrics or math.isnan(evaluation.metrics[metric]):
        known = [name for name, value in evaluation.metrics.items() if not math.isnan(value)]
        raise UserError(f"--metric={metric}: cannot be computed. {did_you_mean(metric, known)}")
    return evaluation.metrics[metric]


def _report(
    run: SavedRun,
    reader: Reader,
    sides: _Sides,
    asked: _Asked,
    notes: list[str],
    scores: Scores | None,
    progress: Progress,
) -> DriftReport:
    draws, model = Draws(asked.rounds, asked.seed), DriftModel(reader)
    with progress.task("tests of texts", None):
        tests, words = text_tests(draws, model.tokenizer, sides.text, sides.new)
    unlike: tuple[Unlike, ...] = ()
    estimated: ErrorEstimate | None = None
    shares: ClassShares | None = None
    before: Looked | None = None
    after: Looked | None = None
    if sides.held_out is not None:
        before, after = model.look(sides.held_out, progress), model.look(sides.new, progress)
        with progress.task("tests of what the run says", None):
            more, found = model_tests(draws, before, after)
            tests += more
            estimated, shares = _estimated(before, after, asked)
        texts, records = sides.new.texts, sides.new.records
        unlike = tuple(
            Unlike(texts[number], str(records[number].get("origin", "")), witness) for number, witness in found
        )
    measures = drift_rules.measures(tests, asked.thresholds)
    name = ESTIMATES[asked.estimate]
    fallen = None if estimated is None else Drop(f"accuracy of {model.unit} ({name})", estimated.drop[name])
    real = None if scores is None else Drop(scores.metric.replace("_", " "), scores.drop)
    verdict, rules = drift_rules.judge(measures, fallen, real, asked.thresholds)
    confidences = None
    if before is not None and after is not None and before.judged is not None and after.judged is not None:
        confidences = (before.judged.of_records(), after.judged.of_records())
    return DriftReport(
        workdir=str(run.workdir),
        step=model.step,
        reference=_named(sides.text),
        held_out=None if sides.held_out is None else _named(sides.held_out),
        new=_named(sides.new),
        measures=measures,
        words=words,
        unlike=unlike,
        estimate=estimated,
        unit=model.unit,
        classes=() if before is None else before.classes,
        shares=shares,
        scores=scores,
        thresholds=asked.thresholds,
        verdict=verdict,
        rules=rules,
        confidences=confidences,
        seed=asked.seed,
        rounds=asked.rounds,
        notes=tuple(notes),
    )


def _named(side: Side) -> tuple[str, int]:
    return side.name, len(side.records)


def _estimated(before: Looked, after: Looked, asked: _Asked) -> tuple[ErrorEstimate | None, ClassShares | None]:
    """Returns estimated accuracies and shares of classes, as far as the task and the held-out records give them."""
    if before.judged is None or before.judged.right is None or after.judged is None:
        return None, None
    estimated = None
    if len(before.judged.confidence) and len(after.judged.confidence):
        estimated = estimate_error(before.judged, after.judged, seed=asked.seed)
    shares = None
    if before.gold is not None:
        assert before.predicted is not None and after.predicted is not None
        predicted = (before.predicted.argmax(axis=-1), after.predicted.argmax(axis=-1))
        shares = class_shares(before.gold, *predicted, before.classes, seed=asked.seed)
    return estimated, shares


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("workdir", "data"):
        if not values[name].value:
            raise UserError(f"--{name} is missing.\n{USAGE}")
    with Progress(None) as progress:
        report = drift(
            values.workdir,
            values.data,
            values.split,
            labelled=values.labelled,
            thresholds=Thresholds(values.alpha, values.least, values.max_drop, values.far),
            estimate=values.estimate,
            metric=values.metric,
            reference=values.reference,
            text_split=values.text_split,
            held_out=values.held_out,
            limit=values.limit,
            rounds=values.rounds,
            seed=values.seed,
            output=values.output,
            columns=program.given_columns(COLUMNS),
            progress=progress,
        )
        for note in report.notes:
            progress.say(note)
        for table in report.tables:
            progress.table(table)
        progress.say("\n" + "\n".join(report.lines()))
    folder = pathlib.Path(values.workdir).expanduser() / FOLDER if values.output is None else values.output
    if folder:
        print(f"\nwritten: {pathlib.Path(folder) / MARKDOWN_FILE}, .html, .json")
    if report.verdict in EXIT_CODES:
        sys.exit(EXIT_CODES[report.verdict])


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    usual = Thresholds()
    flags.DEFINE_string("workdir", None, "A run directory of a task over texts.")
    flags.DEFINE_string("data", None, "New data: a file of texts, as jaxfm predict reads it, or a source.")
    flags.DEFINE_string("split", "test", "The split of a source.")
    flags.DEFINE_bool("labelled", False, "The source has labels, in the form of the run's own: it is scored too.")
    flags.DEFINE_float("max_drop", usual.max_drop, "Most that the score, or the estimated accuracy, may fall.")
    flags.DEFINE_float("alpha", usual.alpha, "How often equal data may be said to differ, all tests together.")
    flags.DEFINE_float("least", usual.least, "A distance beyond chance that is of no consequence below this.")
    flags.DEFINE_float("far", usual.far, "Area under ROC of a classifier of new texts from which on to train again.")
    flags.DEFINE_string("estimate", "atc", "The estimate that counts: atc (Garg 2022) or doc (Guillory 2021).")
    flags.DEFINE_string("metric", None, "With --labelled: the score; that which chose the checkpoint, if not given.")
    flags.DEFINE_string("reference", None, "A source in place of the run's own, where its data have moved.")
    flags.DEFINE_string("text_split", "train", "The split that texts are compared with.")
    flags.DEFINE_string("held_out", None, "The split that what the run says is compared with; valid if not given.")
    flags.DEFINE_integer("limit", LIMIT, "Most records of a side that are compared, drawn by the seed; 0: all.")
    flags.DEFINE_integer("rounds", ROUNDS, "Divisions of the records that each test draws.")
    flags.DEFINE_integer("seed", 0, "Of all draws.")
    flags.DEFINE_string("output", None, f"The folder to write; WORKDIR/{FOLDER} if not given.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE)
