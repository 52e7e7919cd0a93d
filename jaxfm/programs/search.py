"""Searches for the best values of a config's keys: `python -m jaxfm.search CONFIG --space=FILE --workdir=runs/x`.

A trial is an ordinary run in runs/x/trials/NNNN. The same command again goes on with a search that was stopped or
killed, with the same trials; several of the same commands at once are workers of one search. See docs/search.md.
"""

import contextlib
import dataclasses
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean, without_secrets
from jaxfm.hub.initial import SIZES
from jaxfm.observe.progress import Progress
from jaxfm.observe.shown import Report
from jaxfm.planning.config_costs import costs_of
from jaxfm.planning.costs import chip_named
from jaxfm.programs import program
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.train import train
from jaxfm.schema import to_dict
from jaxfm.tasks import registry
from jaxfm.training import grid, initial
from jaxfm.training import workdir as workdirs
from jaxfm.training.fit import Pause
from jaxfm.tuning import optuna_sampling, population, pruning, report, settings, worker
from jaxfm.tuning.costs import COSTS, CostModel, check_chip, read_limits
from jaxfm.tuning.space import Space, parse_space, read_space
from jaxfm.tuning.space import grid as grid_of
from jaxfm.tuning.storage import Store

USAGE = (
    "usage: python -m jaxfm.search CONFIG --space=FILE --workdir=DIR [--trials=N] [--sampler=tpe|cmaes|random|grid]\n"
    "       [--pruner=none|median|halving|hyperband|population] [--rungs=0.25,0.5]\n"
    "       [--objectives=f1,flops] [--most=flops=2e6] [--chip=h100] [--storage=URL]\n"
    "       [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, ner:files, mlm:continue) or --config=FILE.py[:variant]"
)
NO_LIMITS: Mapping[str, float] = types.MappingProxyType({})
_SIZE_KEYS = ("model.preset", *(f"model.{name}" for name in SIZES))


def search(
    config: GivenConfig,
    space: str | pathlib.Path | Mapping[str, Any],
    workdir: str | pathlib.Path,
    *,
    trials: int = 20,
    sampler: str = "tpe",
    pruner: str = "none",
    rungs: Sequence[float] = (),
    reduction: int = 0,
    objectives: Sequence[str] = (),
    most: Mapping[str, float] = NO_LIMITS,
    chip: str = "",
    storage: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Runs trials until there are as many as wanted, or goes on with a search.

    Args:
      config: of all trials, as for `train`.
      space: a JSON file, or its content: key -> {"low", "high"} with "step" or "log", or {"choices": [...]}.
      workdir: the folder of the search; made if need be.
      trials: how many there are in all, those that were made before included.
      sampler: "tpe", "cmaes", "random" or "grid"; of a grid there are no more trials than combinations.
      pruner: "none", "median", "halving", "hyperband" or "population" (the worst take over the weights of the best).
      rungs: shares of a run at which trials stand still; of halving until the best of them go on.
      reduction: of halving: one trial in so many goes on; of a population: one takes over another. 0: 3, and 4.
      objectives: metrics of the validation split, "seconds" (of training), or costs of the model
        (`jaxfm.tuning.costs.COSTS`); empty: the config's eval.metric.
      most: cost -> the most that a model may have of it; what is above is drawn again, and never trained.
      chip: "h100", "v5e" ...: the chip that "step_seconds" and "forward_seconds" are predicted for.
      storage: a URL of SQLAlchemy or journal:FILE; empty: a database in `workdir`.
      seed: of the sampler. That of the runs is config.seed.

    Returns:
      The content of search.json, see `jaxfm.tuning.report.gather`.

    Raises:
      UserError: a wrong space, an unknown metric or cost, limits that no draw is within, a storage that cannot be
        reached, a folder of another search, optuna is not installed, or all trials failed.
      Preempted: stopped by a signal, after saving.
    """
    optuna_sampling.import_optuna()
    config, folder = resolve_config(config), files.user_path(workdir, "--workdir")
    _check_config(config)
    dimensions, content = _space(space, config)
    _check_words(sampler, pruner, trials, objectives)
    limits = read_limits([f"{name}={limit!r}" for name, limit in most.items()])
    cost_model = _cost_model(config, content, (*objectives, *limits), chip)
    optuna_sampling.check_sampler(sampler, dimensions, max(len(objectives), 1))
    reduction = reduction or (population.REDUCTION if pruner == population.NAME else pruning.REDUCTION)
    total = trials if sampler != "grid" else min(trials, len(grid_of(dimensions)))
    _pruner(pruner, rungs, reduction, True, seed, total)
    asked = {"config": to_dict(config), "space": content, "sampler": sampler, "pruner": pruner, "rungs": list(rungs)}
    asked |= {"reduction": reduction, "objectives": list(objectives), "seed": seed}
    asked |= {"storage": without_secrets(storage)} | _given(most=limits, chip=chip)
    if pruner == population.NAME:
        population.check_space(dimensions, config)
        asked |= {"trials": trials}  # who is among the worst depends on how many there are
    chosen = settings.known_choice(folder, asked) or _chosen(config, objectives)
    metric, more = str(chosen["metric"]), [bool(each) for each in chosen["more_is_better"]]
    url = storage or f"sqlite:///{folder.resolve() / settings.DATABASE_FILE}"
    with contextlib.ExitStack() as held:
        with settings.alone(folder):
            store = held.enter_context(contextlib.closing(Store(url, dimensions, more)))
            store.enter(settings.write_settings(folder, asked, chosen)["study"])
        made = worker.Search(
            folder=folder,
            config=dataclasses.replace(config, eval=dataclasses.replace(config.eval, metric=metric)),
            space=dimensions,
            sampler=sampler,
            seed=seed,
            pruner=_pruner(pruner, rungs, reduction, bool(chosen["metric_more_is_better"]), seed, total),
            objectives=tuple(chosen["objectives"]),
            more_is_better=tuple(more),
            total=total,
            cost_model=cost_model,
            limits=limits,
        )
        return _work(made, store)


def _pruner(name: str, rungs: Sequence[float], reduction: int, more: bool, seed: int, total: int) -> pruning.Pruner:
    """Returns what decides who goes on; UserError for rungs and numbers that it cannot have."""
    if name == population.NAME:
        return population.make_population(rungs, reduction, more, seed, total)
    return pruning.make_pruner(name, rungs, reduction, more)


def _work(asked: worker.Search, store: Store) -> dict[str, Any]:
    """Works on the trials until none is left; writes and shows what came of them."""
    progress = Progress(None)

    def after() -> None:
        report.write_progress(asked, list(asked.trials(store).values()))

    worker.work(asked, store, _train_into_file, progress.say, after)
    found = report.write_all(asked, list(asked.trials(store).values()))
    progress.headline(f"\n{report.headline(found)}")
    progress.table(report.best_table(found))
    if found["importance"]:
        progress.table(report.importance_table(found))
    return found


def _train_into_file(config: Config, workdir: pathlib.Path, *, pause: Pause) -> Report:
    """Trains, what it prints goes to a file beside the run directory."""
    log = workdir.with_name(f"{workdir.name}.log")
    with open(log, "a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        return train(config, workdir, pause=pause)


def _space(given: str | pathlib.Path | Mapping[str, Any], config: Config) -> tuple[Space, dict[str, Any]]:
    if isinstance(given, Mapping):
        return parse_space(given, config, "space"), dict(given)
    return read_space(files.user_path(given, "--space"), config)


def _given(**values: Any) -> dict[str, Any]:
    """Returns what was given: searches of before have no such settings."""
    return {name: value for name, value in values.items() if value}


def _cost_model(config: Config, keys: Iterable[str], named: Sequence[str], chip: str) -> CostModel | None:
    """Returns what says what a model costs, where a cost is named or the space has sizes of models; None: nobody asks.

    Raises UserError for an unknown chip, one that is missing, and a config whose costs cannot be known.
    """
    check_chip(chip, named, "--objectives or --most")
    known = chip_named(chip) if chip else None
    if not any(name in COSTS for name in named) and not any(key in _SIZE_KEYS for key in keys):
        return None
    costs_of(config, known)  # what is wrong with the config itself is said before any trial
    return lambda config: costs_of(config, known)


def _check_config(config: Config) -> None:
    if grid.asks_for_several(config):
        raise UserError(
            "config.train.seeds, learning_rates, weight_decays: train several runs in one program (jaxfm.train); a "
            "trial of a search is one run. Leave these keys as they are by default."
        )
    if config.grow.layers:
        raise UserError("config.grow.layers: a trial is one run, and a model that grows is several. Leave it empty.")
    if config.checkpoint.mirror:
        raise UserError("config.checkpoint.mirror: is the place of one run, and a search has many. Leave it empty.")


def _check_words(sampler: str, pruner: str, trials: int, objectives: Sequence[str]) -> None:
    for flag, word, words in (
        ("sampler", sampler, optuna_sampling.SAMPLERS),
        ("pruner", pruner, (*pruning.PRUNERS, population.NAME)),
    ):
        if word not in words:
            raise UserError(f"--{flag}={word}: {did_you_mean(word, words)}")
    if trials < 1:
        raise UserError(f"--trials={trials}: must be at least 1.")
    if len(set(objectives)) < len(objectives):
        raise UserError(f"--objectives={','.join(objectives)}: names one twice.")
    if len(objectives) > 1 and pruner != "none":
        raise UserError(f"--pruner={pruner}: stops trials by one score; with several objectives take --pruner=none.")


def _chosen(config: Config, objectives: Sequence[str]) -> dict[str, Any]:
    """Returns what the data say of the metrics; all that is wrong with config, data or weights is said here.

    Raises UserError for a metric that the task lacks, and for data without a validation split.
    """
    task, _ = registry.create(config, initial.resolve(config.model))
    if "valid" not in task.datasets:
        raise UserError("config.data.source: has no validation split, by which trials are compared (data.holdout).")
    metric = workdirs.with_values(config, task.chosen).eval.metric
    directions = dict(task.directions)
    if metric not in directions:
        raise UserError(f"config.eval.metric: {metric!r}. {did_you_mean(metric, directions)}")
    names = list(objectives) or [metric]
    known = directions | dict.fromkeys(worker.OBJECTIVES, False)
    for name in names:
        if name not in known:
            raise UserError(f"--objectives={','.join(names)}: there is no metric {name!r}. {did_you_mean(name, known)}")
    return {
        "metric": metric,
        "metric_more_is_better": directions[metric],
        "objectives": names,
        "more_is_better": [known[name] for name in names],
    }


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("config", "space", "workdir"):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing.\n{USAGE}")
    program.say_shipped_config()
    try:
        rungs = [float(word) for word in values.rungs]
    except ValueError:
        raise UserError(f"--rungs={','.join(values.rungs)}: must be shares of a run, as 0.1,0.3.") from None
    search(
        registry.from_config_dict(values.config),
        values.space,
        values.workdir,
        trials=values.trials,
        sampler=values.sampler,
        pruner=values.pruner,
        rungs=rungs,
        reduction=values.reduction,
        objectives=values.objectives,
        most=read_limits(values.most),
        chip=values.chip,
        storage=values.storage,
        seed=values.search_seed,
    )
    folder = pathlib.Path(values.workdir)
    best = next(folder / name for name in (report.BEST_FILE, report.REPEAT_FILE) if (folder / name).is_file())
    print(f"search finished; report: {folder / report.MARKDOWN_FILE}, best config: {best}")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("space", None, "A JSON file: keys of the config, and the values that they may have.")
    flags.DEFINE_string("workdir", None, "The folder of the search; the same one again goes on with it.")
    flags.DEFINE_integer("trials", 20, "How many trials there are in all, those of earlier commands included.")
    flags.DEFINE_string("sampler", "tpe", "What draws values: tpe, cmaes, random or grid.")
    flags.DEFINE_string("pruner", "none", "What stops trials: none, median, halving, hyperband; or population.")
    flags.DEFINE_list("rungs", [], "Shares of a run at which trials stand still (halving, population), as 0.1,0.3.")
    flags.DEFINE_integer(
        "reduction", 0, "One trial in so many goes on (halving; 0: 3), or takes over another (population; 0: 4)."
    )
    flags.DEFINE_list("objectives", [], "Metrics of valid, seconds, or costs; the config's metric, if not given.")
    flags.DEFINE_list("most", [], "Limits of costs, as flops=2e6,parameters=5e6: models above are never trained.")
    flags.DEFINE_string("chip", "", "The chip that costs in seconds are of: h100, v5e, ...")
    flags.DEFINE_string("storage", "", "A URL of a database, or journal:FILE; a database in --workdir, if not given.")
    flags.DEFINE_integer("search_seed", 0, "The sampler's seed; that of the runs is --config.seed.")
    program.run(main, USAGE)
