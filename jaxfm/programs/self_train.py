"""Trains on a model's own labels: `python -m jaxfm.self_train CONFIG --workdir=runs/st --input=FILE`, or --teacher=RUN.

Self-training: a teacher (a finished run, or one trained by the config first) labels unlabelled texts; a student learns
from the labelled data and from the labels that the teacher is sure of, and is the teacher of the next round. Rounds are
ordinary runs in WORKDIR-rounds. The one with the best score on the validation split is copied to WORKDIR, with a table
of the rounds (self_training.md). The same command again goes on where it was stopped.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.pseudo_labels import MIN, OVER
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.writers import to_json
from jaxfm.programs import plugins, program
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.model import COLUMNS, Text
from jaxfm.programs.prune import define_config_flags, given_keys
from jaxfm.programs.pruned_run import copy_run, new_output, written
from jaxfm.programs.self_train_rounds import (
    DATA,
    HARD,
    JSON_FILE,
    LABELS,
    TRAIN,
    VALID,
    Round,
    Rules,
    best_round,
    class_table,
    labelled_task,
    student_config,
    table,
    write_labels,
    write_report,
)
from jaxfm.programs.train import train
from jaxfm.programs.unlabelled_pool import Given, Pool, read_pool
from jaxfm.schema import to_dict
from jaxfm.training import grid
from jaxfm.training import workdir as workdirs
from jaxfm.training.ensemble import open_members
from jaxfm.training.pool_outputs import PoolModel
from jaxfm.training.saved_run import SavedRun

USAGE = (
    "usage: python -m jaxfm.self_train (CONFIG | --teacher=RUN) --workdir=DIR\n"
    "  (--input=FILE | --source=URI [--split=train]) [--rounds=3]\n"
    "  [--threshold=0.9] [--over=min|mean] [--per_class=N] [--balance]\n"
    "  [--labels=hard|soft] [--pool=N] [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, ner:files) or --config=FILE.py[:variant]"
)
ROUNDS, THRESHOLD = 3, 0.9
_ASKED = "asked.json"
_POOL = "pool.json"
_ROUND, _LABELS = "round_", "labels_"


def self_train(
    config: GivenConfig | None,
    workdir: str | pathlib.Path,
    texts: Iterable[Text] | None = None,
    *,
    teacher: str | pathlib.Path | None = None,
    input: str | os.PathLike[str] | None = None,
    source: str | None = None,
    split: str = "train",
    rounds: int = ROUNDS,
    threshold: float = THRESHOLD,
    over: str = MIN,
    per_class: int = 0,
    balance: bool = False,
    labels: str = HARD,
    pool: int = 0,
    columns: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains students on labelled data and on a teacher's labels of unlabelled texts, and keeps the best run.

    Args:
      config: of the teacher and the students, as for `train`; None with `teacher`, whose own config the students have.
      workdir: the run directory that is written: the best round's, by the validation split.
      texts: unlabelled texts, pairs of texts or records; or else `input` or `source`.
      teacher: a finished run, or a folder of several: an ensemble.
      input: a file of unlabelled texts, as `jaxfm.predict` reads it.
      source: the URI of a source, whose labels are not read.
      split: of the source.
      rounds: how many students are trained.
      threshold: least confidence of a record that is learned from: calibrated, where the teacher is.
      over: "min" or "mean": the confidence of a record of several words, or labels.
      per_class: most records of a class, the surest ones; 0: any number.
      balance: no class has more records than the rarest of those that are sure enough.
      labels: "hard", or "soft": students learn from the teacher's outputs too, as `config.distil` says.
      pool: most unlabelled records, drawn by the config's seed; 0: all.
      columns: `text_column`, `pair_column`, `words_column` of `input`, where they are not the usual ones.
      overrides: values of single keys of the config, by their dotted names.
      progress: where to show how far it is.

    Returns:
      The content of self_training.json: "metric", "kept" and, of each round, its labels and its scores.

    Raises:
      UserError: numbers out of range, a task whose examples cannot be pseudo-labelled, data without a validation split,
        no record sure enough, a workdir that holds something else; and as `train`.
      Preempted: stopped by a signal, after saving; the same call goes on.
    """
    rules = Rules(rounds, threshold, per_class, balance, over, labels)
    _check(rules)
    if (config is None) == (teacher is None):
        raise UserError("CONFIG, --teacher: give one of them: how a teacher is trained, or one that is finished.")
    folder = files.user_path(workdir, "--workdir")
    given = Given(input, source, None if texts is None else list(texts), split, dict(columns or {}))
    first = None if teacher is None else files.user_path(teacher, "--teacher")
    resolved = _resolved(config, first, overrides)
    asked = _identity(resolved, first, given, rules, pool)
    if (folder / JSON_FILE).is_file():
        return _finished(folder, asked, progress or Progress(None))
    new_output(folder)
    with (
        libraries_quieted(),
        progress or Progress(None) as shown,
        files.held(files.lock_beside(folder), f"--workdir={folder}"),
    ):
        new_output(folder)  # another process may have been here
        home = _home(folder, asked)
        return _train_rounds(folder, home, resolved, first, given, rules, pool, asked, shown)


def _check(rules: Rules) -> None:
    for flag, value, known in (("over", rules.over, OVER), ("labels", rules.labels, LABELS)):
        if value not in known:
            raise UserError(f"--{flag}={value}: is not one of {', '.join(known)}. {did_you_mean(value, known)}")
    if rules.rounds < 1:
        raise UserError(f"--rounds={rules.rounds}: must be at least 1.")
    if not 0 < rules.threshold <= 1:
        raise UserError(f"--threshold={rules.threshold:g}: must be a probability above 0.")
    if rules.per_class < 0:
        raise UserError(f"--per_class={rules.per_class}: must be 0 (any number) or more.")


def _resolved(config: GivenConfig | None, teacher: pathlib.Path | None, overrides: Mapping[str, Any] | None) -> Config:
    """Returns the students' config; UserError for what a round cannot be."""
    own = None if teacher is None else open_members(teacher)[0].config
    base = config if own is None else own
    assert base is not None
    resolved = resolve_config(base, overrides)
    if grid.asks_for_several(resolved):
        raise UserError(
            "config.train.seeds, learning_rates, weight_decays: a round is one run. Leave them as they are."
        )
    if own is not None and resolved.data.source != own.data.source:
        raise UserError(
            f"config.data.source={resolved.data.source}: the labelled data are those of --teacher. Give CONFIG in its "
            "place to train a teacher on others."
        )
    return resolved


def _identity(config: Config, teacher: pathlib.Path | None, given: Given, rules: Rules, pool: int) -> dict[str, Any]:
    """Returns what must be the same for rounds to go on; JSON values."""
    place = {"input": given.input, "source": given.source, "split": given.split, "columns": dict(given.columns)}
    return to_json(
        {
            "config": to_dict(config),
            "teacher": None if teacher is None else str(teacher.resolve()),
            **{name: str(value) if isinstance(value, os.PathLike) else value for name, value in place.items()},
            **dataclasses.asdict(rules),
            "pool": pool,
        }
    )


def _home(folder: pathlib.Path, asked: Mapping[str, Any]) -> pathlib.Path:
    """Returns the folder of the rounds; UserError where it holds those of another command."""
    home = folder.with_name(f"{folder.name}-rounds")
    if (home / _ASKED).is_file():
        # Until the first labels are written nothing depends on more than the config, and without a run on nothing.
        names = list(asked) if (home / f"{_LABELS}1").exists() else ["config"] if (home / f"{_ROUND}0").exists() else []
        now = {name: asked[name] for name in names}
        _compare(files.read_object(home / _ASKED), now, f"--workdir={folder}: {home} holds rounds of")
    elif home.exists() and any(home.iterdir()):
        raise UserError(
            f"--workdir={folder}: {home}, where rounds are kept, holds something else. Name another workdir."
        )
    home.mkdir(parents=True, exist_ok=True)
    files.write_json(home / _ASKED, dict(asked))
    return home


def _compare(before: Mapping[str, Any], asked: Mapping[str, Any], what: str) -> None:
    names = [name for name in asked if before.get(name) != asked[name]]
    if names:
        said = ", ".join(
            name if isinstance(asked[name], dict) else f"{name} {before.get(name)!r}, now {asked[name]!r}"
            for name in names
        )
        raise UserError(f"{what} another command ({said}). Name another workdir.")


def _finished(folder: pathlib.Path, asked: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Returns what a finished call has written; UserError where that was another command."""
    found = files.read_object(folder / JSON_FILE)
    _compare(found["asked"], asked, f"--workdir={folder}: holds what has come of")
    with progress as shown:
        shown.say(f"finished before: round {found['kept']} is kept in {folder}")
    return found


def _train_rounds(
    folder: pathlib.Path,
    home: pathlib.Path,
    config: Config,
    teacher: pathlib.Path | None,
    given: Given,
    rules: Rules,
    limit: int,
    asked: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Trains what is not trained yet, and writes the best run; returns the content of self_training.json."""
    if teacher is None:
        progress.say(f"\nround 0 of {rules.rounds}, the first teacher: {home / f'{_ROUND}0'}")
        train(config, home / f"{_ROUND}0")
        teacher = home / f"{_ROUND}0"
    model = PoolModel(teacher)
    first = model.run
    metric = first.config.eval.metric  # the config's may have been "auto"
    more_is_better = _more_is_better(first, metric)
    pool = read_pool(given, first, model.predictor, limit=limit, seed=config.seed, progress=progress)
    progress.say(pool.note())
    _check_pool(home, pool)
    rounds = [Round(0, first.workdir, {}, workdirs.read_report(first.workdir))]
    for number in range(1, rules.rounds + 1):
        labels = home / f"{_LABELS}{number}"
        before = home / f"{_LABELS}{number - 1}" if number > 1 else None
        facts = write_labels(labels, model, first, pool, rules, before, progress)
        if facts is None:
            progress.say(f"\nround {number - 1} is the last one: its run is sure of no unlabelled text")
            break
        progress.say(
            f"\nround {number} of {rules.rounds}: {facts['labelled']:,} labelled and {facts['pseudo_labelled']:,} "
            f"pseudo-labelled examples (of {facts['pool']:,} unlabelled ones): {home / f'{_ROUND}{number}'}"
        )
        workdir = home / f"{_ROUND}{number}"
        report = train(student_config(config, labels / DATA, metric, model, rules.labels), workdir)
        rounds.append(Round(number, workdir, facts, report))
        if number < rules.rounds:
            model = PoolModel(workdir)
    kept = best_round(rounds, metric, more_is_better=more_is_better)
    with written(folder) as made:
        copy_run(kept.workdir, made)
        write_report(made, rounds, metric, kept.number, asked)
    for each in (table(rounds, metric, kept.number), class_table(rounds)):
        progress.table(each)
    progress.say(f"round {kept.number} is kept, the best {metric} on {VALID}; its training data are in {home}")
    return files.read_object(folder / JSON_FILE)


def _more_is_better(run: SavedRun, metric: str) -> bool:
    if VALID not in workdirs.read_report(run.workdir)["splits"]:
        raise UserError(
            f"{run.workdir}: its data have no validation split, by which rounds are compared. Give one, or a share of "
            "train by config.data.holdout."
        )
    return bool(labelled_task(run, TRAIN).directions[metric])


def _check_pool(home: pathlib.Path, pool: Pool) -> None:
    """Keeps a hash of the unlabelled records; UserError where it is another one than before."""
    texts = [[record.get("text"), record.get("pair"), record.get("tokens")] for record in pool.records]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    path = home / _POOL
    if (home / f"{_LABELS}1").exists() and path.is_file() and files.read_object(path).get("sha256") != digest:
        raise UserError(f"{home}: its rounds are of other unlabelled texts than those given now. Name another workdir.")
    files.write_json(path, {"sha256": digest, "records": len(pool.records)})


def main() -> None:
    """The program."""
    values = flags.FLAGS
    by_teacher = values.teacher is not None
    config = None if by_teacher else values.config
    if not values.workdir or (config is None and not by_teacher):
        raise UserError(f"--{'config' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    overrides = {}
    if by_teacher:
        overrides = given_keys(str(open_members(files.user_path(values.teacher, "--teacher"))[0].workdir))
    else:
        program.say_shipped_config()
    self_train(
        config,
        values.workdir,
        teacher=values.teacher,
        input=values.input,
        source=values.source,
        split=values.split,
        rounds=values.rounds,
        threshold=values.threshold,
        over=values.over,
        per_class=values.per_class,
        balance=values.balance,
        labels=values.labels,
        pool=values.pool,
        columns={name: value for name in COLUMNS if (value := values[name].value)},
        overrides=overrides,
    )
    print(f"run finished; report: {values.workdir}/report.md, rounds: {values.workdir}/self_training.md")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_string("teacher", None, "A finished run, or a folder of several; the students have its config.")
    if any(word.lstrip("-").partition("=")[0] == "teacher" for word in sys.argv[1:] if word.startswith("-")):
        plugins.define_plugin_flag()
        define_config_flags()
    else:
        program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The run directory to write; the same one again goes on.")
    flags.DEFINE_string("input", None, "A file of unlabelled texts, as jaxfm predict reads it.")
    flags.DEFINE_string("source", None, "A source whose labels are not read, in place of --input.")
    flags.DEFINE_string("split", "train", "The split of --source.")
    flags.DEFINE_integer("rounds", ROUNDS, "How many students are trained, each on the labels of the one before.")
    flags.DEFINE_float("threshold", THRESHOLD, "Least confidence (calibrated probability) of a label to learn from.")
    flags.DEFINE_string("over", MIN, "The confidence of a text of words (or labels): the min or the mean of theirs.")
    flags.DEFINE_integer("per_class", 0, "Most pseudo-labelled texts of a class, the surest ones; 0: any number.")
    flags.DEFINE_bool("balance", False, "Whether no class may have more pseudo-labelled texts than the rarest one.")
    flags.DEFINE_string("labels", HARD, "hard: classes; soft: the teacher's outputs too, as config.distil says.")
    flags.DEFINE_integer("pool", 0, "Most unlabelled texts, drawn by the seed; 0: all.")
    for name in COLUMNS:
        what = name.removesuffix("_column")
        flags.DEFINE_string(name, None, f"The column of --input that is the {what}, where its name is not a usual one.")
    program.run(main, USAGE)
