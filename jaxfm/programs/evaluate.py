"""Scores a trained model: `python -m jaxfm.evaluate --workdir=runs/ner --split=test [--source=URI] [--output=FILE]`,
or two against each other, example by example: `--compare=runs/a,runs/b`; or computes an update again that a run has
skipped: `--workdir=runs/ner --replay=runs/ner/skipped/STEP.safetensors`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.core.build import Build
from jaxfm.core.task import Evaluation
from jaxfm.data.records import in_memory
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError
from jaxfm.evaluation import bootstrap
from jaxfm.evaluation.bootstrap import Comparison
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.evaluation.exits import read_rule
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.summary import result_of
from jaxfm.observe.writers import to_json
from jaxfm.parallel import distributed
from jaxfm.programs import plugins, program
from jaxfm.programs.replay import replay
from jaxfm.training import workdir as workdirs
from jaxfm.training.ensemble import make_ensemble, open_members, write_report
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.exit_scores import HeadEvaluator, RunExits, heads_of
from jaxfm.training.results import with_intervals
from jaxfm.training.saved_run import available_mesh
from jaxfm.training.session import compute_dtype, scans_layers

USAGE = (
    "usage: python -m jaxfm.evaluate (--workdir=DIR | --compare=DIR,DIR) [--split=test] [--source=URI] "
    "[--output=FILE.json]\n  [--config.data.words_column=NAME, tags_column, document_column, text_column, pair_column, "
    "label_column]\n       python -m jaxfm.evaluate --workdir=DIR --replay=FILE [--output=FILE.json]"
)
COLUMNS = ("words_column", "tags_column", "document_column", "text_column", "pair_column", "label_column")


def evaluate(
    workdir: str | pathlib.Path,
    split: str = "test",
    source: str | None = None,
    progress: Progress | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    data: Any = None,
) -> Evaluation:
    """Scores the run's chosen checkpoint on a split of its own source or of another one with the same labels.

    Probabilities are calibrated as the run's validation split asks for; each metric has its interval under "intervals".
    Of a run with early heads the metrics are those of all layers; "exits" of the scores says what leaving early gives.

    A folder of several runs (`train.seeds`, `jaxfm.seeds`) is scored as an ensemble: the mean of the runs' calibrated
    probabilities. Its members are scored beside it ("ensemble" of the scores); on the runs' own data the result is kept
    in ensemble.json and seeds.md of the folder.

    Args:
      workdir: a run directory, or a folder of runs.
      split: train, valid or test, or another usual name of them (dev, validation, testb ...).
      source: URI of other data.
      progress: where to show how far it is.
      columns: `words_column`, `label_column` and the like of `config.data`, where they are not those of the run.
      data: other data, in memory, in the forms that `train` takes; without splits they are the split asked for.

    Raises:
      UserError: no run or checkpoint there, no such split, a label the model does not know; both `source` and `data`;
        or not all processes of a run of several agree.
    """
    own = source is None and data is None and not columns
    with libraries_quieted(), _given(source, data, split) as source:
        evaluation = _evaluate(workdir, split, source, progress, columns)
    if own and "ensemble" in evaluation.scores and distributed.is_main():
        write_report(files.user_path(workdir, "--workdir"), require_split(split), evaluation)
    return evaluation


def _evaluate(
    workdir: str | pathlib.Path,
    split: str,
    source: str | None,
    progress: Progress | None,
    columns: Mapping[str, str] | None,
) -> Evaluation:
    workdir, split = files.user_path(workdir, "--workdir"), require_split(split)
    runs = open_members(workdir)
    run, ensemble = runs[0], make_ensemble(workdir, runs) if len(runs) > 1 else None
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, **dict(columns or {})))
    facts = workdirs.identity(run.workdir, config) | {"--split": split, "--source": source}
    distributed.agree("start", facts, soon=True)
    task = run.task(source or config.data.source, split, config)
    mesh, note = available_mesh(config)
    build = Build(compute_dtype(config.train.precision), scans_layers(config.model.scan_layers))
    restored, rows = run.restore(mesh, build), task.datasets[split]
    outputs: list[dict[str, Any]] = []
    distributed.agree("data", {f"the fingerprint of {split}": rows.fingerprint()})
    size = whole_batches(config.eval.batch_size, len(rows), mesh)
    evaluator = Evaluator(task.objective.outputs, restored.graphdef, mesh, size)
    progress = progress or Progress(None)
    with progress:
        for text in filter(None, (note, workdirs.missing_metrics(run.workdir, config))):
            progress.say(text)
        for each in runs:  # one program, and one run's parameters at a time
            params = restored.params if each is run else each.restore(mesh, build).params
            with progress.task(f"scoring {split}", len(rows)) as advance:
                outputs.append(evaluator(params, rows, advance))
    scorer = task.scorer(split)
    if ensemble is not None:
        return ensemble.report(scorer, outputs)
    calibration = read_calibration(run.workdir)
    evaluation = with_intervals(scorer.report(outputs[0], calibration))
    if not (heads := heads_of(run.spec)):
        return evaluation
    evaluator = HeadEvaluator(task.objective.spec, restored.graphdef, mesh, size)
    exits = RunExits(config, task, evaluator, restored.params, read_rule(run.workdir, heads), run.workdir)
    return exits.added(evaluation, split, scorer, calibration)


def compare(
    a: str | pathlib.Path,
    b: str | pathlib.Path,
    split: str = "test",
    source: str | None = None,
    progress: Progress | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    data: Any = None,
) -> Comparison:
    """Scores two runs on the same examples, and says of every metric that both have how sure its difference is.

    Each run is scored on the split of its own source unless there are a `source` or `data` for both; further as
    `evaluate`.

    Raises:
      UserError: as `evaluate`; or the two runs' splits are not the same examples with the same gold targets.
    """
    names = (str(a), str(b))
    pair, groups = [], []
    with libraries_quieted(), _given(source, data, split) as source:
        for workdir in names:
            evaluation = _evaluate(workdir, split, source, progress, columns)
            if evaluation.bootstrap_data is None:
                raise UserError(
                    f"--compare={','.join(names)}: the task of {workdir} is not scored by independent units."
                )
            pair.append(evaluation.bootstrap_data)
            groups += [] if evaluation.group_data is None else [evaluation.group_data]
    comparison = bootstrap.compare(*pair, names=names)
    if len(groups) < len(pair):
        return comparison
    return dataclasses.replace(comparison, groups=bootstrap.compare(*groups, names=names))


def _given(source: str | None, data: Any, split: str) -> contextlib.AbstractContextManager[str | None]:
    """Returns a context that yields the source to score on: the one named, or that of data in memory."""
    if data is None:
        return contextlib.nullcontext(source)
    if source is not None:
        raise UserError(f"source={source!r} and data: give one of them.")
    return in_memory.provided(data, alone=split)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if bool(values.workdir) == bool(values.compare):
        raise UserError(f"give one of --workdir and --compare.\n{USAGE}")
    pair = values.compare.split(",") if values.compare else []
    if pair and (len(pair) != 2 or not all(pair)):
        raise UserError(f"--compare={values.compare}: needs two run directories with a comma between them.\n{USAGE}")
    if values.replay is not None:
        _replay_main()
        return
    split, columns = require_split(values.split), program.given_columns(COLUMNS)
    output = None if values.output is None else files.output_file(values.output, "--output")
    program.join()
    progress = Progress(None, quiet=not distributed.is_main())
    asked = {"split": split, "source": values.source}
    if pair:
        comparison = compare(pair[0], pair[1], split, values.source, progress, columns)
        tables, warnings = bootstrap.comparison_tables(comparison, split), ()
        found: dict[str, Any] = asked | comparison.to_dict()
    else:
        evaluation = evaluate(values.workdir, split, values.source, progress, columns)
        metric = open_members(files.user_path(values.workdir, "--workdir"))[0].config.eval.metric
        if result := result_of({split: {**evaluation.metrics, **evaluation.scores}}, metric):
            progress.headline(str(result))
        tables, warnings = evaluation.tables, evaluation.warnings
        found = {"workdir": values.workdir, **asked, "scores": {**evaluation.metrics, **evaluation.scores}}
        found |= {"warnings": list(warnings)} if warnings else {}
    for table in tables:
        progress.table(table)
    for warning in warnings:
        progress.say(f"WARNING: {split}: {warning}")
    if pair:
        progress.say(f"\n{bootstrap.HOW_TO_READ}")
    if output is not None and distributed.is_main():
        files.write_json(output, to_json(found))


def _replay_main() -> None:
    """The program with --replay."""
    values = flags.FLAGS
    names = ("compare", "split", "source", *(f"config.data.{name}" for name in COLUMNS))
    others = [f"--{name}" for name in names if flags.FLAGS[name].present]
    if not values.workdir or others:
        wrong = f"{', '.join(others)} cannot change it" if others else "--workdir says of which"
        raise UserError(f"--replay computes one update of a run again, and {wrong}.\n{USAGE}")
    output = None if values.output is None else files.output_file(values.output, "--output")
    program.join()
    progress = Progress(None, quiet=not distributed.is_main())
    found = replay(values.workdir, values.replay, progress)
    for table in found.tables():
        progress.table(table)
    progress.say(found.verdict())
    if output is not None and distributed.is_main():
        files.write_json(output, to_json({"workdir": values.workdir, "file": values.replay, **found.to_dict()}))


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory, or a folder of several runs: an ensemble.")
    flags.DEFINE_string("compare", None, "Two run directories, with a comma between them.")
    flags.DEFINE_string("split", "test", "train, valid or test, or another usual name of them (dev, testb ...).")
    flags.DEFINE_string("source", None, "Data to score on; the run's own if not given.")
    flags.DEFINE_alias("data", "source")
    flags.DEFINE_string(
        "replay", None, "The batch of a skipped update (WORKDIR/skipped/STEP.safetensors), computed again."
    )
    flags.DEFINE_string("output", None, "A JSON file for the scores.")
    program.define_column_flags(COLUMNS)
    program.define_process_flags()
    program.run(main, USAGE)
