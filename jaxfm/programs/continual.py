"""Trains in stages without forgetting: `python -m jaxfm.continual CONFIG --stream=FILE --method=naive,replay_herding`.

A stream is a sequence of tasks' data, or of periods of one task: a TOML file with a table [[stage]] each. Every stage
of every method is an ordinary run below --workdir. The same command goes on where it was stopped, with more methods or
seeds if they are given; continual.md has the scores on each stage's data after each stage, and how much was forgotten.
"""

import contextlib
import dataclasses
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.config import AUTO, Config
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.writers import to_json
from jaxfm.programs import program
from jaxfm.programs.continual_methods import TRAINERS, write_untrained
from jaxfm.programs.continual_scores import (
    JSON_FILE,
    MARKDOWN_FILE,
    check_labels,
    gather,
    headline,
    labels_of,
    scores_after,
    tables,
    untrained_scores,
    write,
)
from jaxfm.programs.continual_stream import GivenStream, Stage, check_config, check_methods, read_stream
from jaxfm.programs.continual_work import METHODS, Options, Work, runs_of
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.train import train
from jaxfm.schema import differences, replaced, to_dict
from jaxfm.tasks import registry
from jaxfm.training import workdir as workdirs

USAGE = (
    "usage: python -m jaxfm.continual CONFIG --stream=FILE.toml --workdir=DIR\n"
    "  [--method=naive,joint,...] [--seeds=0,1,2] [--split=test]\n"
    "  [--store=200] [--replay_times=1]\n"
    "  [--ewc_weight=400] [--ewc_decay=1] [--ewc_examples=256]\n"
    "  [--lwf_weight=1] [--lwf_temperature=2]\n"
    "  [--lora_rank=8] [--orthogonal_weight=0.5]\n"
    "  [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, ner:files) or --config=FILE.py[:variant]"
)
USUAL = ("naive", "joint")
NO_OPTIONS: Mapping[str, Any] = types.MappingProxyType({})
_ASKED, _TREES = "asked.json", ("config", "stages")
_LEAST: Mapping[str, float] = types.MappingProxyType({"store": 1, "replay_times": 1, "lora_rank": 1})


def continual(
    config: GivenConfig,
    stream: GivenStream,
    workdir: str | pathlib.Path,
    *,
    methods: Sequence[str] = USUAL,
    seeds: Sequence[int] = (),
    options: Mapping[str, Any] = NO_OPTIONS,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains a stream of stages by one or more methods, or goes on with it, and says what was learned and forgotten.

    Args:
      config: of all stages, as for `train`; its `seed` is read where `seeds` are not given.
      stream: a TOML file with a table [[stage]] each, or the stages themselves, dicts: "name", and keys of the config
        that a stage sets ("data.source").
      workdir: a folder for the runs of all seeds, methods and stages, and for the report; made if need be.
      methods: names of `jaxfm.programs.continual_work.METHODS`.
      seeds: of the runs; empty: that of the config.
      options: settings of the methods: "split", "store", "replay_times", "ewc_weight", "ewc_decay", "ewc_examples",
        "lwf_weight", "lwf_temperature", "lora_rank", "orthogonal_weight".
      overrides: values of single keys of the config, by their dotted names.
      progress: where to show how far it is.

    Returns:
      The content of continual.json: "metric", "stages", "untrained", and of each method the "mean_matrix" R, the
      "measures" with mean and sd, and "seeds" with the run directory of each stage. R[i][j] is the score on the data of
      stage j after stage i; None where the model knows not all labels of stage j.

    Raises:
      UserError: a wrong stream, config, method or option; a workdir of another stream; labels that no head can have;
        and as `train`. What is finished by then stays.
      Preempted: stopped by a signal, after saving; the same call goes on.
    """
    config, folder = resolve_config(config, overrides), files.user_path(workdir, "--workdir")
    check_config(config)
    stages = read_stream(stream, config)
    names = check_methods(methods, tuple(METHODS))
    known = make_options(options)
    chosen = _checked(seeds) if seeds else [config.seed]
    asked = _identity(config, stages, known)
    with (
        libraries_quieted(),
        progress or Progress(None) as shown,
        files.held(files.lock_beside(folder), f"--workdir={folder}"),
    ):
        _enter(folder, asked)
        found = _learn(folder, stages, names, known, chosen, shown)
        write(folder, found, asked | {"methods": list(names), "seeds": chosen})
        shown.headline(f"\n{headline(found)}")
        for table in tables(found):
            shown.table(table)
    return files.read_object(folder / JSON_FILE)


def make_options(given: Mapping[str, Any]) -> Options:
    """Returns the settings of the methods; UserError for an unknown one, a wrong type, or a number out of range."""
    known = {each.name: each for each in dataclasses.fields(Options)}
    for name, value in given.items():
        if name not in known:
            raise UserError(f"options: {name!r} is none. {did_you_mean(name, known)}")
        kind = type(known[name].default)
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise UserError(f"--{name}={value!r}: must be {'a number' if kind is not str else 'a text'}.")
        least = _LEAST.get(name, 0)
        if kind is not str and not least <= value < float("inf"):
            raise UserError(f"--{name}={value:g}: must be at least {least:g}.")
    options = Options(**given)
    if options.lwf_temperature <= 0:
        raise UserError(f"--lwf_temperature={options.lwf_temperature:g}: must be above 0.")
    if options.ewc_decay > 1:
        raise UserError(f"--ewc_decay={options.ewc_decay:g}: must be from 0 to 1.")
    if options.split not in ("valid", "test"):
        raise UserError(f"--split={options.split}: {did_you_mean(options.split, ('valid', 'test'))}")
    return options


def _checked(seeds: Sequence[int]) -> list[int]:
    listed = ",".join(map(str, seeds))
    if any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"--seeds={listed}: must be whole numbers from 0, as 0,1,2.")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds={listed}: names one twice; a seed again is the same run again.")
    return list(seeds)


def _identity(config: Config, stages: Sequence[Stage], options: Options) -> dict[str, Any]:
    """Returns what must be the same for a stream to go on; JSON values."""
    streams = [{"name": stage.name, **stage.changes} for stage in stages]
    values = to_dict(config)
    values.pop("seed")
    return to_json({"config": values, "stages": streams, **dataclasses.asdict(options)})


def _enter(folder: pathlib.Path, asked: Mapping[str, Any]) -> None:
    """Makes the folder of a stream; UserError where it holds another one, or something else."""
    path = folder / _ASKED
    if path.is_file():
        before = files.read_object(path)
        wrong = [name for name in asked if before.get(name) != asked[name]]
        if wrong:
            said = [f"{name} {before.get(name)!r}, now {asked[name]!r}" for name in wrong if name not in _TREES]
            said += [each for name in wrong if name in _TREES for each in _differences(before.get(name), asked[name])]
            raise UserError(
                f"--workdir={folder}: holds a stream of other settings ({'; '.join(said)}). Name another workdir."
            )
        return
    files.output_directory(folder, "--workdir")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(path, dict(asked))


def _differences(before: Any, now: Any) -> list[str]:
    """Returns what differs between two configs, or two lists of stages."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [f"config.{each}" for each in differences(before, now)]
    return ["the stages of --stream"]


def _learn(
    folder: pathlib.Path,
    stages: Sequence[Stage],
    methods: Sequence[str],
    options: Options,
    seeds: Sequence[int],
    progress: Progress,
) -> dict[str, Any]:
    """Trains what is not trained yet and scores it; returns the content of continual.json."""
    matrices: dict[str, dict[int, np.ndarray]] = {name: {} for name in methods}
    runs: dict[str, dict[int, Sequence[pathlib.Path]]] = {name: {} for name in methods}
    untrained, metric = dict[int, Sequence[float]](), ""
    for seed in seeds:
        work = Work(folder / f"seed{seed}", _with(stages, {"seed": seed}), options, _train_into_file, progress)
        for index, stage in enumerate(stages):
            progress.say(f"seed {seed}: {stage.name} ({stage.config.data.source}) before any training")
            write_untrained(work, index)
        metric = metric or workdirs.read_config(work.untrained(0)).eval.metric
        work = dataclasses.replace(work, stages=_settled(work, metric))
        untrained[seed] = untrained_scores(work, metric)
        check_labels(work, methods)
        labels = labels_of(work)
        for method in methods:
            runs[method][seed] = runs_of(work, method)
            rows = []
            for index, stage in enumerate(stages):
                progress.say(f"seed {seed}, {method}: stage {index + 1} of {len(stages)}, {stage.name}")
                TRAINERS[method](work, index)
                rows.append(scores_after(work, method, index, metric, labels))
                known = ", ".join(f"{value:.4f}" for value in rows[-1][: index + 1])
                progress.say(f"  {metric} on the stages so far: {known}")
            matrices[method][seed] = np.asarray(rows)
    names = [stage.name for stage in stages]
    return gather(names, metric, options.split, matrices, untrained, runs)


def _settled(work: Work, metric: str) -> tuple[Stage, ...]:
    """Returns the stages with what they leave to the data, and what must be the same for all of them.

    The metric is that of the first stage. Rows are as long as those of the stage with the longest texts: each model
    reads the texts of all stages.
    """
    lengths = [workdirs.read_config(work.untrained(index)).data.row_length for index in range(len(work.stages))]
    found = _with(work.stages, {"eval.metric": metric})
    return tuple(
        _with([stage], {"data.row_length": max(map(int, lengths))})[0]
        if stage.config.data.row_length == AUTO
        else stage
        for stage in found
    )


def _with(stages: Sequence[Stage], values: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Returns the stages with other values of some keys in their configs."""
    return tuple(dataclasses.replace(stage, config=replaced(stage.config, values)) for stage in stages)


def _train_into_file(config: Config, workdir: pathlib.Path) -> None:
    """Trains; what that prints goes to a file beside the run directory."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    log = workdir.with_name(f"{workdir.name}.log")
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        train(config, workdir)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("config", "stream", "workdir"):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing.\n{USAGE}")
    try:
        seeds = [int(word) for word in values.seeds]
    except ValueError:
        raise UserError(f"--seeds={','.join(values.seeds)}: must be whole numbers, as 0,1,2.") from None
    program.say_shipped_config()
    continual(
        registry.from_config_dict(values.config),
        values.stream,
        values.workdir,
        methods=values.method,
        seeds=seeds,
        options={each.name: getattr(values, each.name) for each in dataclasses.fields(Options)},
    )
    print(f"stream finished; report: {pathlib.Path(values.workdir) / MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    usual = Options()
    program.define_config_flag()
    flags.DEFINE_string("stream", None, "A TOML file: a table [[stage]] each, its name and keys of the config.")
    flags.DEFINE_string("workdir", None, "The folder for the runs of all stages; the same one again goes on.")
    flags.DEFINE_list("method", list(USUAL), f"Ways to learn, with commas: {', '.join(METHODS)}.")
    flags.DEFINE_list("seeds", [], "Seeds of the runs, with commas; that of the config, if not given.")
    flags.DEFINE_string("split", usual.split, "The split of each stage that is scored: test or valid.")
    flags.DEFINE_integer("store", usual.store, "Examples that replay keeps of all stages so far.")
    flags.DEFINE_integer("replay_times", usual.replay_times, "How often each stored example stands in a stage's data.")
    flags.DEFINE_float("ewc_weight", usual.ewc_weight, "Weight of the penalty of ewc.")
    flags.DEFINE_float("ewc_decay", usual.ewc_decay, "What ewc keeps of the importance of earlier stages, 0 to 1.")
    flags.DEFINE_integer("ewc_examples", usual.ewc_examples, "Examples that ewc measures importance on; 0: all.")
    flags.DEFINE_float("lwf_weight", usual.lwf_weight, "Weight of the outputs of the stage before, of lwf.")
    flags.DEFINE_float("lwf_temperature", usual.lwf_temperature, "Temperature of these outputs.")
    flags.DEFINE_integer("lora_rank", usual.lora_rank, "Rank of the update of a stage, where adapt.lora.rank is 0.")
    flags.DEFINE_float("orthogonal_weight", usual.orthogonal_weight, "Weight of the penalty of lora_orthogonal.")
    program.run(main, USAGE)
