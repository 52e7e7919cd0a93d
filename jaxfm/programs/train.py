"""Trains: `python -m jaxfm.train --config=configs/ner.py[:variant] --workdir=runs/ner [--config.KEY=VALUE ...]`.

The same command again goes on where the run stopped. Several processes of one run are started alike; see
docs/multi_host.md.
"""

import contextlib
import pathlib
import sys
from typing import Any

import jax
import ml_collections
from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.spec import SPEC_FILE
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.parallel import distributed
from jaxfm.parallel.mesh import make_mesh
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs import program
from jaxfm.programs.keys import explain
from jaxfm.tasks import registry
from jaxfm.training import averaging, batch_size, initial, results
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints, check_room
from jaxfm.training.fit import fit
from jaxfm.training.setup import set_up

USAGE = (
    "usage: python -m jaxfm.train CONFIG --workdir=DIR [--data=URI] [--config.KEY=VALUE ...] [--explain]\n"
    "  CONFIG: a name (ner, ner:files, mlm:continue) or --config=FILE.py[:variant]"
)


def train(config: Config | ml_collections.ConfigDict, workdir: str | pathlib.Path) -> dict[str, Any]:
    """Runs, resumes or merely reports a run.

    Args:
      config: a checked Config, or a ConfigDict as a config file returns it.
      workdir: the run directory; made if need be. Where the run has several processes (`distributed.start` was called
        before), one that all of them see.

    Returns:
      The content of report.json.

    Raises:
      UserError: anything wrong with config, data, weights or workdir, or not the same on all processes; nothing is
        half-written then.
      Preempted: stopped by a signal, after saving.
    """
    if not isinstance(config, Config):
        config = registry.from_config_dict(config)
    workdir = files.user_path(workdir, "--workdir")
    wall_clock = WallClock()
    config = workdirs.with_chosen(workdir, config)  # a run goes on with the batch it began with
    status = workdirs.status(workdir, config)
    distributed.agree("start", workdirs.identity(workdir, config) | {"the run in --workdir": status}, soon=True)
    if status == "finished":
        return workdirs.read_report(workdir)
    with contextlib.ExitStack() as held:
        if status == "half-way":
            held.enter_context(workdirs.hold(workdir, config, status))
        return _train(config, workdir, status, wall_clock, held)


def _train(
    config: Config, workdir: pathlib.Path, status: workdirs.Status, wall_clock: WallClock, held: contextlib.ExitStack
) -> dict[str, Any]:
    """Runs or resumes a run; a new run directory is made, and held by `held`, once nothing can be refused any more."""
    distributed.say_when_lost(lambda: workdirs.where_it_goes_on(workdir))
    local = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    distributed.agree("devices", {"the devices of a process": local}, soon=True)
    mesh = make_mesh(config.parallel.mesh)
    task, loaded = registry.create(config, initial.resolve(config.model))
    averaging.check(config, task)
    most = len(task.datasets["train"])
    config, found = batch_size.autotune_batch_size(config, task.objective, mesh, most=most)
    setup = set_up(config, task, loaded, mesh)
    check_room(workdir, setup.session.abstract)
    distributed.agree(
        "data",
        {
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
        workdirs.write_config(workdir, config)
    if not (workdir / SPEC_FILE).is_file() and distributed.is_main():
        task.save(workdir)
    distributed.agree("run directory", {})
    workdirs.check_shared(workdir)
    checkpoints = Checkpoints(workdir / workdirs.CHECKPOINTS_DIR, keep_last=config.checkpoint.keep_last)
    with Progress(setup.total_steps, quiet=not distributed.is_main()) as progress:
        for note in (*task.notes, *found, *setup.notes):
            progress.say(note)
        try:
            fitted = fit(config, task, setup, checkpoints, workdir, progress, wall_clock)
            fitted = averaging.choose(config, task, setup, fitted, checkpoints, workdir, progress, wall_clock)
        finally:
            checkpoints.close()
        return results.finish(config, task, setup, fitted, workdir, progress, wall_clock)


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
    except Preempted as stop:
        if distributed.is_main():
            print(f"{stop}. The same command goes on from there.", file=sys.stderr)
        sys.exit(program.stopped_by_signal(stop.signal_number))
    if distributed.is_main():
        print(f"run finished; report: {workdir}/report.md")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The run directory; the same one again resumes.")
    flags.DEFINE_boolean("explain", False, "Print every key with value, range and reason, and end.")
    program.define_process_flags()
    program.run(main, USAGE)
