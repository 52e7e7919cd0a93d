"""Trains: `python -m jaxfm.train --config=configs/ner.py[:variant] --workdir=runs/ner [--config.KEY=VALUE ...]`.

The same command again goes on where the run stopped. Several processes of one run are started alike; see
docs/multi_host.md.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.few_labels import PlansFit
from jaxfm.core.initial import HostArray, Initial
from jaxfm.core.spec import SPEC_FILE
from jaxfm.core.task import Task
from jaxfm.data.records import in_memory
from jaxfm.errors import UserError
from jaxfm.evaluation import many_runs
from jaxfm.hub.initial import SIZES
from jaxfm.observe import summary
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.shown import Report
from jaxfm.observe.summary import MOST_METRICS
from jaxfm.observe.trackers import check_tracker
from jaxfm.observe.wall_clock import WallClock
from jaxfm.observe.watchdog import STALLS_FILE, Watchdog
from jaxfm.parallel import distributed
from jaxfm.parallel.mesh import make_mesh
from jaxfm.parallel.preemption import Stopped
from jaxfm.parallel.rendezvous import say
from jaxfm.programs import program, usage
from jaxfm.programs.fitted_run import train_fitted
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.keys import explain
from jaxfm.programs.stages import Stage, train_stages
from jaxfm.tasks import registry
from jaxfm.training import averaging, batch_size, grid, growth, initial, mirror, results, retention
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints, check_room
from jaxfm.training.fit import Pause, fit, never
from jaxfm.training.member import Member, TrainResult
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.several import set_up_several
from jaxfm.training.stepping import SingleRun, Stepping

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
    pause: Pause = never,
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
      pause: asked after each evaluation, once its scores are in metrics.jsonl, with the updates done and those of the
        whole run; True stops there, after saving. The same call, without it or where it says False, goes on from that
        step, and ends with the weights of a run that was never stopped. In a run of several processes it must answer
        alike in all of them.

    Returns:
      The content of report.json, a dict that shows its scores; of several runs (`train.seeds`) that of seeds.json.

    Raises:
      UserError: anything wrong with config, data, weights or workdir, or not the same on all processes; nothing is
        half-written then.
      Preempted: stopped by a signal, after saving.
      Paused: stopped by `pause`, after saving.
    """
    config = resolve_config(config, overrides)
    workdir = files.user_path(workdir, "--workdir")
    check_tracker(config.log.tracker)
    with contextlib.ExitStack() as held:
        held.enter_context(libraries_quieted())
        if data is not None:
            source = held.enter_context(in_memory.provided(data))
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
        definition = registry.definition(config.task.name)
        plan = definition.fit_plan(config) if isinstance(definition, PlansFit) else None
        if plan is not None:
            return train_fitted(plan, config, workdir, _train_one, pause=pause)
        if config.grow.layers:
            return _train_growing(config, workdir, pause)
        return _train_or_report(config, workdir, held, pause)


def _train_one(config: Config, workdir: pathlib.Path, *, pause: Pause) -> Report:
    with contextlib.ExitStack() as held:
        return _train_or_report(config, workdir, held, pause)


def _train_growing(config: Config, workdir: pathlib.Path, pause: Pause) -> Report:
    """Trains a model whose depth grows: a run for each depth, the last one in `workdir`."""
    if grid.asks_for_several(config):
        raise UserError("config.grow.layers: several runs in one program (train.seeds, learning_rates) cannot grow.")
    encoder, _ = initial.shape(config.model)
    growth.check(config, encoder, loaded=config.model.init != "scratch")
    *configs, _ = growth.stage_configs(config)
    stages = []
    for stage, depth, share in zip(configs, config.grow.layers[1:], growth.shares(config.grow), strict=True):
        before = dataclasses.replace(encoder, num_layers=stage.grow.layers[-1])
        rewrite = functools.partial(growth.grow_state, encoder=before, depth=depth, new_layers=config.grow.new_layers)
        ends = functools.partial(growth.reason, config.grow, share)
        stages.append(Stage(f"{before.num_layers}-layers", stage, ends, rewrite))
    return train_stages(stages, config, workdir, _train_one, may_change=growth.MAY_CHANGE, pause=pause)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A run that is asked for: `name` of its lines and `status` of its folder."""

    name: str
    setting: str
    config: Config
    workdir: pathlib.Path
    status: workdirs.Status


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A run of which everything is checked."""

    asked: _Asked
    config: Config
    task: Task
    setup: Setup
    first: Initial


def _train_or_report(config: Config, workdir: pathlib.Path, held: contextlib.ExitStack, pause: Pause) -> Report:
    wall_clock, several = WallClock(), grid.asks_for_several(config)
    runs = grid.runs_of(config)
    if fetched := mirror.fetch(config, workdir):
        with Progress(None) as progress:
            progress.say(fetched)
    if several and (workdir / workdirs.CONFIG_FILE).is_file():
        raise UserError(f"--workdir={workdir}: holds a run itself. Name a folder for the runs of all seeds.")
    asked = [_asked(run, workdir / run.name if several else workdir, held) for run in runs]
    reports = {run.workdir: _finished(run.config, run.workdir) for run in asked if run.status == "finished"}
    unfinished = [run for run in asked if run.status != "finished"]
    if unfinished:
        reports |= _train(unfinished, workdir, wall_clock, held, pause)
    if not several:
        return Report(reports[workdir], workdir)
    return _report_of_several(asked, reports, workdir)


def _asked(run: grid.GridRun, workdir: pathlib.Path, held: contextlib.ExitStack) -> _Asked:
    """Looks at what there is to do in the folder of a run; holds it where it has begun."""
    config = workdirs.with_chosen(workdir, run.config)  # a run goes on with the batch it began with
    _check_data(workdir, config.data.source)
    status = workdirs.status(workdir, config)
    distributed.agree("start", workdirs.identity(workdir, config) | {"the run in --workdir": status}, soon=True)
    if status == "half-way":
        workdirs.check_extensions(workdir, config)
        held.enter_context(workdirs.hold(workdir, config, status))
    return _Asked(run.name, run.setting, config, workdir, status)


def _report_of_several(
    asked: Sequence[_Asked], reports: Mapping[pathlib.Path, Mapping[str, Any]], workdir: pathlib.Path
) -> Report:
    """Writes and shows the table over several runs."""
    finished = []
    for run in asked:
        optim = run.config.optim
        values = {"learning_rate": optim.learning_rate, "weight_decay": optim.weight_decay} if run.setting else {}
        report = reports[run.workdir]
        finished.append(many_runs.FinishedRun(run.config.seed, run.workdir, report, run.setting, values))
    first = asked[0]
    metric = workdirs.read_config(first.workdir).eval.metric  # config.eval.metric may have been "auto"
    found = many_runs.gather(first.config.task.name, metric, finished)
    many_runs.write(workdir, found)
    progress = Progress(None)
    progress.headline(f"\n{many_runs.headline(found)}")
    for table in many_runs.tables(found, MOST_METRICS):
        progress.table(table)
    return many_runs.RunsReport(found, workdir)


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
        elif distributed.is_main() and (workdir / workdirs.LOCK_FILE).exists():
            # Killed after its report: the lock goes with whoever takes it over, unless somebody is there.
            with contextlib.suppress(UserError), workdirs.hold(workdir, config, "finished"):
                pass
        progress.headline(summary.headline(report, config.eval.metric))
    return report


def _prepared(asked: Sequence[_Asked], mesh: Mesh) -> tuple[list[_Ready], Stepping, tuple[str, ...]]:
    """Reads data and weights and checks all that can be checked; the third result are lines for the log."""
    begun = next((run for run in asked if run.status == "half-way"), asked[0])
    first = initial.resolve(workdirs.pinned(begun.workdir, asked[0].config.model))
    first = growth.at_depth(first, asked[0].config.grow)
    teachers = initial.find_teachers(asked[0].config)
    of_seeds: dict[int, tuple[Task, Mapping[str, HostArray]]] = {}
    configs, notes = {}, ()
    for run in asked:
        seed = run.config.seed
        if seed not in of_seeds:  # rows of other seeds are packed otherwise; rates and decays change nothing of them
            of_seeds[seed] = registry.create(run.config, first)
            averaging.check(run.config, of_seeds[seed][0])
        task = of_seeds[seed][0]
        rows = task.datasets["train"]
        config, by_examples = batch_size.batch_of_examples(
            workdirs.with_values(run.config, task.chosen), rows.volume, mesh
        )
        config, found = batch_size.autotune_batch_size(config, task.objective, mesh, most=len(rows), teachers=teachers)
        configs[run.name], notes = config, notes or (*task.notes, *by_examples, *found)
    tasks = {run.name: of_seeds[run.config.seed][0] for run in asked}
    loaded = {run.name: of_seeds[run.config.seed][1] for run in asked}
    if asked[0].name:
        setups, stepping = set_up_several(configs, tasks, loaded, mesh, teachers)
    else:
        (config,), (task,), (arrays,) = configs.values(), tasks.values(), loaded.values()
        setups = {"": set_up(config, task, arrays, mesh, teachers)}
        growth.check_model(config, setups[""].session.abstract.params)
        stepping = SingleRun(setups[""].session)
    ready = [_Ready(run, configs[run.name], tasks[run.name], setups[run.name], first) for run in asked]
    return ready, stepping, (*notes, *ready[0].setup.notes)


def _train(
    asked: Sequence[_Asked],
    workdir: pathlib.Path,
    wall_clock: WallClock,
    held: contextlib.ExitStack,
    pause: Pause,
) -> dict[pathlib.Path, dict[str, Any]]:
    """Runs or resumes runs; new run directories are made, and held by `held`, once nothing can be refused any more.

    `workdir` is that of the one run, or the folder of all; returns run directory -> report.
    """
    distributed.say_when_lost(lambda: workdirs.where_it_goes_on(workdir))
    local = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    distributed.agree("devices", {"the devices of a process": local}, soon=True)
    ready, stepping, notes = _prepared(asked, make_mesh(asked[0].config.parallel.mesh))
    check_room(workdir, stepping.abstract)
    lead = ready[0]
    distributed.agree(
        "data",
        {
            "the commit of the weights": lead.first.origin.revision if lead.first.origin else "",
            "the training data's fingerprint": lead.setup.fingerprint,
            "the validation data's fingerprint": lead.setup.valid_fingerprint,
            "the number of steps": lead.setup.total_steps,
            "the batch size": lead.config.train.batch_size,
        },
    )
    # Everything that can be checked is checked: from here on the run directories exist.
    url = lead.config.checkpoint.mirror if distributed.is_main() else ""
    for run in ready:
        _make_workdir(run, held)
    copy = held.enter_context(mirror.mirrored(url, workdir))
    members = [_member(run, None if copy is None else copy.saved) for run in ready]
    reports = {}
    with (
        Progress(lead.setup.total_steps, quiet=not distributed.is_main()) as progress,
        _watchdog(lead.config, workdir, wall_clock, progress) as watchdog,
    ):
        distributed.tell_status(watchdog.status)
        for note in notes:
            progress.say(note)
        try:
            for member, fitted in zip(members, fit(members, stepping, progress, wall_clock, pause), strict=True):
                reports[member.workdir] = _report(member, fitted, progress, wall_clock)
        except Stopped:
            if copy is not None:
                progress.say(copy.finish())
            raise
        finally:
            with contextlib.ExitStack() as closing:  # all of them, whichever fails
                for member in members:
                    closing.callback(member.checkpoints.close)
        if copy is not None:
            progress.say(copy.finish())
    # After the bar: the last lines of the screen are what the run comes to.
    if distributed.is_main() and not lead.asked.name:
        report = reports[workdir]
        ((_, predict), *_) = results.commands(lead.config, lead.task, workdir, list(report["splits"]))
        predict = usage.as_called(predict, sys.argv[0])
        summary.show_summary(progress, report, workdir, lead.config.eval.metric, predict)
    return reports


def _make_workdir(run: _Ready, held: contextlib.ExitStack) -> None:
    """Makes the directory of a new run, for as long as `held` is open nobody else's."""
    status, workdir = run.asked.status, run.asked.workdir
    # config.json first: whatever follows may be cut short, and the same command still knows the run as its own.
    if status == "new":
        held.enter_context(workdirs.hold(workdir, run.config, status))
    if status == "new" and distributed.is_main():
        workdirs.write_config(workdir, run.config, run.first.origin)
    if not (workdir / SPEC_FILE).is_file() and distributed.is_main():
        run.task.save(workdir)
    distributed.agree("run directory", {})
    workdirs.check_shared(workdir)


def _member(run: _Ready, saved: Callable[[int], None] | None) -> Member:
    """Opens the checkpoints of a run."""
    folder, keep = run.asked.workdir / workdirs.CHECKPOINTS_DIR, run.config.checkpoint.keep_last
    checkpoints = Checkpoints(folder, keep_last=keep, saved=saved)
    return Member(run.config, run.task, run.setup, checkpoints, run.asked.workdir, run.asked.name)


def _report(member: Member, fitted: TrainResult, progress: Progress, wall_clock: WallClock) -> dict[str, Any]:
    """Scores what a run comes to, writes its report and removes what it does not need any more."""
    config, task, setup, workdir = member.config, member.task, member.setup, member.workdir
    fitted = averaging.choose(config, task, setup, fitted, member.checkpoints, workdir, progress, wall_clock)
    member.checkpoints.close()
    report = results.finish(config, task, setup, fitted, workdir, progress, wall_clock)
    if distributed.is_main() and (dropped := retention.drop_surplus(workdir, report)):
        progress.say(f"{member.name}: {dropped}" if member.name else dropped)
    return report


def _watchdog(config: Config, workdir: pathlib.Path, wall_clock: WallClock, progress: Progress) -> Watchdog:
    """Returns what says for what a run waits; each process has its own, and a file of its own."""
    stalls = pathlib.Path(STALLS_FILE)
    own = stalls.name if distributed.is_main() else f"{stalls.stem}_{jax.process_index()}{stalls.suffix}"
    return Watchdog(
        wall_clock,
        progress,
        factor=config.log.stall_factor,
        floor=config.log.stall_seconds,
        say=progress.say if distributed.is_main() else say,
        path=workdir / own,
        process=distributed.process_name(),
        others=distributed.statuses_of_others,
    )


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
    several = grid.asks_for_several(registry.from_config_dict(config))
    try:
        train(config, workdir)
    except workdirs.FinishedRunError as error:
        if several:
            raise
        command = _command_to_go_on(registry.from_config_dict(config), files.user_path(workdir, "--workdir"))
        raise UserError(f"{error} The whole command:\n  {command}") from None
    if several:
        print(f"runs finished; table: {pathlib.Path(workdir) / many_runs.MARKDOWN_FILE}")
    elif distributed.is_main():
        print(f"run finished; report: {workdir}/report.md")


def _command_to_go_on(config: Config, workdir: pathlib.Path) -> str:
    """Returns the command that trains the model of a finished run further, by what this command adds to it."""
    before = workdirs.read_config(workdir).train
    number = next(number for number in range(2, 1_000_000) if not pathlib.Path(f"{workdir}-{number}").exists())
    changed = {"model.init": f"run:{workdir}"}
    for key in ("preset", "tokenizer"):  # those of the run are taken
        changed |= {f"model.{key}": ""} if getattr(config.model, key) else {}
    changed |= {f"model.{key}": 0 for key in SIZES if getattr(config.model, key)}
    changed |= {"model.keep_layers": "()"} if config.model.keep_layers else {}
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
