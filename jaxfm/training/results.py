"""From the chosen parameters to all that a run leaves: scores, tables, plots, predictions, report."""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.config import Config
from jaxfm.core.initial import Initial, Origin
from jaxfm.core.reads_files import ReadsFiles
from jaxfm.core.task import DrawsPictures, Evaluation, ReadsEntities, ReadsImages, Task
from jaxfm.data.records.key_division import key_notes, leak_warnings
from jaxfm.data.records.source_keys import split_keys
from jaxfm.evaluation import intervals
from jaxfm.evaluation.calibration import write_calibration
from jaxfm.models.adapters import is_mergeable
from jaxfm.observe import plots
from jaxfm.observe.progress import Progress
from jaxfm.observe.report import how_to_use, write_report
from jaxfm.observe.summary import result_of
from jaxfm.observe.tables import Table
from jaxfm.observe.wall_clock import WallClock, goodput
from jaxfm.observe.writers import MetricsWriter, read_metrics, to_json, write_predictions
from jaxfm.parallel import distributed, host_memory
from jaxfm.schema import describe
from jaxfm.tasks import registry
from jaxfm.training import exit_scores, history, private_rows, retention
from jaxfm.training.best import Best
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.member import TrainResult
from jaxfm.training.setup import Setup
from jaxfm.training.teacher_scores import score_teachers, teacher_tables
from jaxfm.training.workdir import CHECKPOINTS_DIR, device_name, versions, write_config

VALID = "valid"


def finish(
    config: Config,
    task: Task,
    setup: Setup,
    fitted: TrainResult,
    workdir: pathlib.Path,
    progress: Progress,
    wall_clock: WallClock,
) -> dict[str, Any]:
    """Scores every split but train, writes calibration.json, predictions/, plots/ and reports; returns report.json's.

    Where a run has several processes all compute, and return the report; the first one writes.
    """
    evaluations: dict[str, Evaluation] = {}
    calibration: dict[str, float] = {}
    heads = exit_scores.heads_of_run(config, task, setup, fitted.params, workdir)
    # "valid" first: what is fitted to it is used on the others.
    for split in sorted((name for name in task.datasets if name != "train"), key=lambda name: name != "valid"):
        rows, scorer = task.datasets[split], task.scorer(split)
        with wall_clock.during("evaluate"), progress.task(f"scoring {split}", len(rows)) as advance:
            known = fitted.valid_outputs if split == "valid" else None
            outputs = setup.evaluate(fitted.params, rows, advance) if known is None else known
            if split == "valid":
                calibration = scorer.calibrate(outputs)
            evaluations[split] = with_intervals(scorer.report(outputs, calibration))
            if heads is not None:
                evaluations[split] = heads.added(evaluations[split], split, scorer, calibration)
        if distributed.is_main():
            write_predictions(workdir / "predictions" / f"{split}.jsonl", evaluations[split].predictions)
    if distributed.is_main():
        write_calibration(workdir, calibration)
    splits = {
        split: {
            **evaluation.metrics,
            **evaluation.scores,
            **({"warnings": list(evaluation.warnings)} if evaluation.warnings else {}),
        }
        for split, evaluation in evaluations.items()
    }
    result = result_of(splits, config.eval.metric)
    report = {
        "task": config.task.name,
        "result": None if result is None else to_json(dataclasses.asdict(result)),
        "directions": dict(task.directions),
        "splits": splits,
        "training": training_facts(setup, fitted, wall_clock),
        "model": {**dataclasses.asdict(setup.model_size), "init": config.model.init},
        "data": {"source": config.data.source, "fingerprint": setup.fingerprint, **_kept_apart(config, task)},
        "seed": config.seed,
        "checkpoint": retention.plan(
            fitted.step, averaged=bool(fitted.averaged), keep_optimizer=config.checkpoint.keep_optimizer
        ),
        "device": device_name(),
        "versions": versions(),
    }
    if setup.privacy is not None:
        report["privacy"] = setup.privacy.spent(fitted.last_step)
        progress.say(private_rows.sentence(report["privacy"]))
    if turns := history.read_history(workdir):
        report["history"] = [to_json(dataclasses.asdict(turn)) for turn in turns]
    with wall_clock.during("evaluate"):
        taught = score_teachers(config, task, setup, evaluations)
    if taught is not None:
        report["distillation"] = to_json(taught)
    if distributed.is_main():
        more = _history_tables(workdir) | teacher_tables(taught, evaluations)
        if "privacy" in report:
            more["Differential privacy"] = [private_rows.table(report["privacy"])]
        _write(config, task, evaluations, report, fitted.step, workdir, more)
    return report


def _kept_apart(config: Config, task: Task) -> dict[str, Any]:
    """Returns by which columns splits are kept apart, what the task's notes say of it, and leaks that are allowed."""
    if not split_keys(config.data):
        return {}
    columns = {"group_column": config.data.group_column, "time_column": config.data.time_column}
    found = {name: column for name, column in columns.items() if column}
    warnings = leak_warnings(task.notes)
    return {**found, "splits": key_notes(task.notes), **({"warnings": warnings} if warnings else {})}


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """A model with known weights, and the data of its run.

    Attributes:
      config: of the run.
      first: where its weights and its tokenizer are from.
      task: with all splits of the data.
      setup: of the run.
      params: on the devices.
    """

    config: Config
    first: Initial
    task: Task
    setup: Setup
    params: Any

    @property
    def origin(self) -> Origin | None:
        """Where the weights were first read from."""
        return self.first.origin


def write_run(begun: Start, workdir: pathlib.Path, progress: Progress, outputs: Any = None) -> Mapping[str, Any]:
    """Writes a finished run of no update, scored on its own data; returns report.json.

    Args:
      begun: the model.
      workdir: absent or empty. report.json is written last.
      progress: where to show how far it is.
      outputs: of the validation split, where they are known.
    """
    wall_clock = WallClock()
    workdir.mkdir(parents=True, exist_ok=True)
    write_config(workdir, begun.config, begun.origin)
    begun.task.save(workdir)
    checkpoints = Checkpoints(workdir / CHECKPOINTS_DIR)
    checkpoints.save_params(0, begun.params, {"best": dataclasses.asdict(Best())})
    checkpoints.close()
    valid = begun.task.datasets.get(VALID)
    if outputs is None and valid is not None:
        with progress.task("scoring the model", len(valid)) as advance:
            outputs = begun.setup.evaluate(begun.params, valid, advance)
    with MetricsWriter(workdir, resume_step=None, tensorboard=False) as writer:
        if outputs is not None:
            writer.write(0, VALID, begun.task.scorer(VALID).metrics(outputs))
    fitted = TrainResult(begun.params, 0, 0, Best(), valid_outputs=outputs)
    return finish(begun.config, begun.task, begun.setup, fitted, workdir, progress, wall_clock)


def _write(
    config: Config,
    task: Task,
    evaluations: Mapping[str, Evaluation],
    report: Mapping[str, Any],
    chosen: int,
    workdir: pathlib.Path,
    more: Mapping[str, list[Table]],
) -> None:
    """Writes plots, report.md, report.html and, last, report.json; `more` are further headings with their tables."""
    write_report(
        workdir,
        report,
        {**{split: evaluation.tables for split, evaluation in evaluations.items()}, **more},
        draw(config, evaluations, workdir, chosen),
        metric=config.eval.metric,
        wrong={split: evaluation.wrong for split, evaluation in evaluations.items()},
        settings=[(key.name, repr(key.value), repr(key.default), key.doc) for key in describe(config)],
        commands=commands(config, task, workdir, list(evaluations)),
    )


def _history_tables(workdir: pathlib.Path) -> dict[str, list[Table]]:
    """Returns a heading and a table of what changed in the middle of a run; nothing where nothing did."""
    turns = history.read_history(workdir)
    rows = [(f"{turn.step:,}", history.describe_changes(turn), turn.why, turn.run) for turn in turns]
    table = Table("Changes on the way", ("after update", "what changed", "why", "went on from"), rows)
    return {"How it came about": [table]} if turns else {}


def commands(config: Config, task: Task, workdir: pathlib.Path, splits: Sequence[str]) -> list[tuple[str, str]]:
    """Returns what can be done with a run that scored these splits: (what it does, command line), to predict first."""
    spec = task.objective.spec
    predictor = registry.definition(config.task.name).predictor(workdir, spec)
    images = isinstance(predictor, ReadsImages)
    reads_files = isinstance(predictor, ReadsFiles)
    one = "IMAGE" if images else "FILE" if reads_files else '"TEXT"'
    if isinstance(predictor, DrawsPictures) and not images:
        one = f"--pictures=FILE.png {shlex.quote(predictor.labels[0])}"
    if predictor.pairs:
        one += ' --pair="SECOND TEXT"'
    if isinstance(predictor, ReadsEntities):
        one = f"--entities=DIR {one}"
    return how_to_use(
        workdir,
        splits,
        record=one,
        several=f"--input={'FOLDER' if images or reads_files else 'FILE'}",
        export=not predictor.hf_problem() and is_mergeable(spec.encoder) and not spec.encoder.quantisation.weights,
    )


def with_intervals(evaluation: Evaluation) -> Evaluation:
    """Adds how sure each metric is: a table before the others, and "intervals" among the scores.

    Metrics of groups have a second table; "groups" of "intervals" describes them as it does the others.
    """
    bootstrap_data, group_data = evaluation.bootstrap_data, evaluation.group_data
    if bootstrap_data is None:
        return evaluation
    found = intervals.intervals(bootstrap_data, evaluation.metrics)
    described, tables = intervals.describe_intervals(found, bootstrap_data), evaluation.tables
    if group_data is not None:
        of_groups = intervals.intervals(group_data, evaluation.metrics)
        described["groups"] = intervals.describe_intervals(of_groups, group_data)
        tables = (intervals.interval_table(of_groups, group_data), *tables)
    return dataclasses.replace(
        evaluation,
        scores={**evaluation.scores, "intervals": described},
        tables=(intervals.interval_table(found, bootstrap_data), *tables),
    )


def draw(
    config: Config, evaluations: Mapping[str, Evaluation], workdir: pathlib.Path, chosen: int
) -> Sequence[pathlib.Path]:
    """Draws loss and metric curves with the chosen step, and the plots of each split; returns the files."""
    curves = workdir / "plots" / "curves.png"
    plots.plot_curves(read_metrics(workdir / "metrics.jsonl"), curves, score=config.eval.metric, chosen=chosen)
    paths = [curves]
    for split, evaluation in evaluations.items():
        for name, drawn in evaluation.plots.items():
            paths.append(workdir / "plots" / f"{split}_{name}.png")
            drawn(paths[-1])
    return paths


def training_facts(setup: Setup, fitted: TrainResult, wall_clock: WallClock) -> dict[str, Any]:
    """The part "training" of the report: how much, how fast, and where the time went."""
    seconds = wall_clock.seconds()
    volume = setup.volume
    busy = max(wall_clock.busy(), 1e-9)
    units = setup.batches.rows_before(fitted.last_step) * volume.per_row
    useful = units * volume.useful_share / busy
    return {
        "steps": fitted.last_step,
        "epochs": setup.batches.epoch_of(fitted.last_step),
        "chosen_step": fitted.step,
        **({"averaged_steps": ", ".join(map(str, fitted.averaged))} if fitted.averaged else {}),
        "seconds": sum(seconds.values()),
        "unit": volume.unit,
        f"{volume.unit}_per_second": units / busy,
        f"useful_{volume.unit}_per_second": useful,
        **({} if setup.mfu_of_unit is None else {"mfu": useful * setup.mfu_of_unit}),
        f"useful_{volume.singular}_share": volume.useful_share,
        "peak_process_mib": host_memory.peak_resident() / 2**20,
        "goodput_share": goodput(seconds),
        "goodput": seconds,
    }
