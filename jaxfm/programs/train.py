"""Trains: `python -m jaxfm.train --config=configs/ner.py[:variant] --workdir=runs/ner [--config.KEY=VALUE ...]`.

The same command again goes on where the run stopped. Several processes of one run are started alike; see
docs/multi_host.md.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import jax
from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.spec import SPEC_FILE
from jaxfm.data.records import in_memory
from jaxfm.errors import UserError
from jaxfm.observe import summary
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.shown import Report
from jaxfm.observe.wall_clock import WallClock
from jaxfm.parallel import distributed
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import program, usage
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.keys import explain
from jaxfm.tasks import registry
from jaxfm.training import averaging, batch_size, initial, results, retention
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints, check_room
from jaxfm.training.fit import fit
from jaxfm.training.setup import set_up

USAGE = (
    "usage: python -m jaxfm.train CONFIG --workdir=DIR [--data=URI] [--config.KEY=VALUE ...] [--explain]\n"
    "  CONFIG: a name (ner, ner:files, mlm:continue) or --config=FILE.py[:variant]"
)


def train(
    config: GivenConfig,
    workdir: str | pathlib.Path,
    *,
    data: Any = None,
    overrides: Mapping[str, Any] | None = None,
) -> Report:
    """Runs, resumes or merely reports a run.

    Args:
      config: a name ("ner", "classification:files"), the path of a config file ("my.py:variant"), a ConfigDict as such
        a file returns it, or a checked Config.
      workdir: the run directory; made if need be. Where the run has several processes (`distributed.start` was called
        before), one that all of them see.
      data: what to train on, in place of `config.data.source`: dicts, a row each; a dict of columns; a DataFrame of
        pandas or polars; a pyarrow Table; a datasets.Dataset; or a dict of these by split (train, valid, test). Without
        "valid" a share of the training data is kept for it, as `config.data.holdout` says. See docs/python.md.
      overrides: values of single keys, by their dotted names: {"train.epochs": 3}, as `--config.train.epochs=3`.

    Returns:
      The content of report.json, a dict that shows its scores.

    Raises:
      UserError: anything wrong with config, data, weights or workdir, or not the same on all processes; nothing is
        half-written then.
      Preempted: stopped by a signal, after saving.
    """
    config = resolve_config(config, overrides)
    workdir = files.user_path(workdir, "--workdir")
    with contextlib.ExitStack() as held:
        held.enter_context(libraries_quieted())
        if data is not None:
            source = held.enter_context(in_memory.provided(data))
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
        return Report(_train_or_report(config, workdir, held), workdir)


def _train_or_report(config: Config, workdir: pathlib.Path, held: contextlib.ExitStack) -> dict[str, Any]:
    wall_clock = WallClock()
    config = workdirs.with_chosen(workdir, config)  # a run goes on with the batch it began with
    _check_data(workdir, config.data.source)
    status = workdirs.status(workdir, config)
    distributed.agree("start", workdirs.identity(workdir, config) | {"the run in --workdir": status}, soon=True)
    if status == "finished":
        return _finished(config, workdir)
    if status == "half-way":
        workdirs.check_extensions(workdir, config)
        held.enter_context(workdirs.hold(workdir, config, status))
    return _train(config, workdir, status, wall_clock, held)


def _check_data(workdir: pathlib.Path, source: str) -> None:
    """Raises UserError where the run in `workdir` is of data in memory, and these are not the ones given now."""
    before = workdirs.source_of(workdir)
    if not in_memory.is_provided(before) or before == source:
        return
    given = f"the data given now ({source})" if in_memory.is_provided(source) else "no such data are given now"
    raise UserError(
        f"--workdir={workdir}: holds a run of data that were given in memory ({before}), and {given}"
        f"{' are others' if in_memory.is_provided(source) else ''}. Give the same data to go on with that run "
        "(data=...), or another --workdir for a new one."
    )


def _finished(config: Config, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the report of a finished run; ends the clean-up of its checkpoints where that was cut off."""
    report = workdirs.read_report(workdir)
    with Progress(None, quiet=not distributed.is_main()) as progress:
        if distributed.is_main() and retention.is_cut_off(workdir, report):
            with workdirs.hold(workdir, config, "finished"):
                progress.say(retention.drop_surplus(workdir, report))
        progress.headline(summary.headline(report, config.eval.metric))
    return report


def _train(
    config: Config, workdir: pathlib.Path, status: workdirs.Status, wall_clock: WallClock, held: contextlib.ExitStack
) -> dict[str, Any]:
    """Runs or resumes a run; a new run directory is made, and held by `held`, once nothing can be refused any more."""
    distributed.say_when_lost(lambda: workdirs.where_it_goes_on(workdir))
    local = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    distributed.agree("devices", {"the devices of a process": local}, soon=True)
    mesh = make_mesh(config.parallel.mesh)
    first = initial.resolve(workdirs.pinned(workdir, config.model))
    task, loaded = registry.create(config, first)
    averaging.check(config, task)
    rows = task.datasets["train"]
    config, by_examples = batch_size.batch_of_examples(workdirs.with_values(config, task.chosen), rows.volume, mesh)
    config, found = batch_size.autotune_batch_size(config, task.objective, mesh, most=len(rows))
    setup = set_up(config, task, loaded, mesh)
    check_room(workdir, setup.session.abstract)
    distributed.agree(
        "data",
        {
            "the commit of the weights": first.origin.revision if first.origin else "",
            "the training data's fingerprint": setup.fingerprint,
            "the validation data's fingerprint": setup.valid_fingerprint,
            "the number of steps": setup.total_steps,
            "the batch size": config.train.batch_size,
        },
    )
    # Everything that can be checked is checked: from here on the run directory exists.
    # config.json first: whatever follows may be cut short, and the same command still knows the run as its own.
    if status == "new":
        held.enter_context(workdirs.hold(workdir, config, status))
    if status == "new" and distributed.is_main():
        workdirs.write_config(workdir, config, first.origin)
    if not (workdir / SPEC_FILE).is_file() and distributed.is_main():
        task.save(workdir)
    distributed.agree("run directory", {})
    workdirs.check_shared(workdir)
    checkpoints = Checkpoints(workdir / workdirs.CHECKPOINTS_DIR, keep_last=config.checkpoint.keep_last)
    with Progress(setup.total_steps, quiet=not distributed.is_main()) as progress:
        for note in (*task.notes, *by_examples, *found, *setup.notes):
            progress.say(note)
        try:
            fitted = fit(config, task, setup, checkpoints, workdir, progress, wall_clock)
            fitted = averaging.choose(config, task, setup, fitted, checkpoints, workdir, progress, wall_clock)
        finally:
            checkpoints.close()
        report = results.finish(config, task, setup, fitted, workdir, progress, wall_clock)
        if distributed.is_main() and (dropped := retention.drop_surplus(workdir, report)):
            progress.say(dropped)
    # After the bar: the last lines of the screen are what the run comes to.
    if distributed.is_main():
        ((_, predict), *_) = results.commands(config, task, workdir, list(report["splits"]))
        predict = usage.as_called(predict, sys.argv[0])
        summary.show_summary(progress, report, workdir, config.eval.metric, predict)
    return report


def main() -> None:
    """The program."""
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    if config is not None and flags.FLAGS.explain:
        print("\n".join([f"config file: {program.config_path()}", *explain(registry.from_config_dict(config))]))
        return
    if config is None or not workdir:
        raise UserError(f"--{'config' if config is None else 'workdir'} is missing.\n{USAGE}")
    program.join()
    program.say_shipped_config()
    try:
        train(config, workdir)
    except workdirs.FinishedRunError as error:
        command = _command_to_go_on(registry.from_config_dict(config), files.user_path(workdir, "--workdir"))
        raise UserError(f"{error} The whole command:\n  {command}") from None
    if distributed.is_main():
        print(f"run finished; report: {workdir}/report.md")


def _command_to_go_on(config: Config, workdir: pathlib.Path) -> str:
    """Returns the command that trains the model of a finished run further, by what this command adds to it."""
    before = workdirs.read_config(workdir).train
    number = next(number for number in range(2, 1_000_000) if not pathlib.Path(f"{workdir}-{number}").exists())
    changed = {"model.init": f"run:{workdir}"}
    for key in ("preset", "tokenizer"):  # those of the run are taken
        changed |= {f"model.{key}": ""} if getattr(config.model, key) else {}
    for key in ("epochs", "steps"):  # what is asked for in all, less what is done
        more = getattr(config.train, key) - getattr(before, key)
        changed |= {f"train.{key}": f"{more:g}"} if more > 0 else {}
    names = [f"--config.{key}" for key in changed] + ["--workdir"]
    given, skip = [], False
    for word in sys.argv[1:]:
        name, equals, _ = word.partition("=")
        is_ours = f"--{name.lstrip('-')}" in names
        if not (skip or is_ours):
            given.append(word)
        skip = is_ours and not equals  # its value is the next word
    words = [*given, *(f"--config.{key}={value}" for key, value in changed.items()), f"--workdir={workdir}-{number}"]
    return f"python -m jaxfm.train {shlex.join(words)}"


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The run directory; the same one again resumes.")
    flags.DEFINE_boolean("explain", False, "Print every key with value, range and reason, and end.")
    program.define_process_flags()
    program.run(main, USAGE)
