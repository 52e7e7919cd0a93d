"""Finds the best model inside a supernet: `python -m jaxfm.subnets --supernet=RUN --most=flops=0.5 --workdir=DIR`.

Subnets within the limits, which are shares of what the largest model costs, are scored on the validation split with the
supernet's weights. The best one is cut out as a run that is fine-tuned, evaluated, exported and served as any other.
The same command again goes on where it was stopped. See docs/supernet.md.
"""

import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.models.subnets import Subnet
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.report import JSON_FILE as REPORT_FILE
from jaxfm.planning.costs import SubnetCosts, chip_named
from jaxfm.programs import plugins, program, usage
from jaxfm.training import cut_run
from jaxfm.training import workdir as workdirs
from jaxfm.training.config_file import config_source
from jaxfm.training.saved_run import open_run
from jaxfm.training.subnet_scores import SPLIT, SubnetScores, name_of, subnet_of
from jaxfm.tuning import evolution, subnet_report
from jaxfm.tuning.costs import above, check_chip, read_limits

USAGE = (
    "usage: python -m jaxfm.subnets --supernet=RUN --workdir=DIR --most=flops=0.5[,bytes=0.8] [--chip=h100]\n"
    "       [--trials=N] [--runs=DIR,DIR,...] [--search_seed=N]"
)
SCORES_FILE, _LOCK = "scores.json", ".lock"
LEAST_RUNS = 3


def subnets(
    supernet: str | pathlib.Path,
    workdir: str | pathlib.Path,
    most: Mapping[str, float],
    *,
    chip: str = "",
    trials: int = 64,
    runs: Sequence[str | pathlib.Path] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores subnets by evolution, cuts the best one out, and writes what was found; or goes on with it.

    Args:
      supernet: the directory of a run with `config.supernet`.
      workdir: where scores, tables, the plot and the winner are written; made if need be.
      most: cost (`jaxfm.tuning.costs.COSTS`) -> the largest share of the largest model's that a subnet may have.
      chip: "h100", "v5e" ...: the chip that "step_seconds" and "forward_seconds" are predicted for.
      trials: subnets that are scored, at most.
      runs: runs of shapes that are subnets, trained alone: how far their scores rank as those of the subnets do.
      seed: of the evolution.
      progress: where to show how far it is.

    Returns:
      The content of subnets.json (`jaxfm.tuning.subnet_report.gather`), with "winner", the winner's run directory, and
      "config", the file that fine-tunes it; with `runs` "alone" and "spearman".

    Raises:
      UserError: a run without subnets, limits that none is within, a directory of something else, a run that has not
        the shape of a subnet.
    """
    run = open_run(files.user_path(supernet, "--supernet"))
    folder = files.user_path(workdir, "--workdir")
    limits = _limits(most)
    if trials < 1:
        raise UserError(f"--trials={trials}: must be at least 1.")
    check_chip(chip, limits, "--most")
    known = chip_named(chip) if chip else None
    _check_folder(folder)
    progress = progress or Progress(None)
    with libraries_quieted(), files.held(files.lock_beside(folder), f"--workdir={folder}"), progress:
        scores = SubnetScores(run, folder / SCORES_FILE)
        alone = _alone(scores, runs)
        costs = SubnetCosts(scores.task.objective, run.config, known)
        whole = costs(scores.space.largest)
        shares = {each: _shares(costs(each), whole) for each in scores.space}
        allowed = [each for each in shares if not above(shares[each], limits)]
        if not allowed:
            smallest = shares[scores.space.smallest]
            shown = ", ".join(f"{name} {smallest[name]:.3g}" for name in limits)
            raise UserError(
                f"--most={_words(limits)}: no subnet of {run.workdir} is within it; the smallest has {shown} of the "
                "largest. Raise it, or train a supernet with smaller ones."
            )
        folder.mkdir(parents=True, exist_ok=True)
        metric = run.config.eval.metric
        more = bool(scores.task.directions[metric])

        with progress.task("scoring subnets", min(trials, len(allowed)) + 1) as advance:

            def score(subnet: Subnet) -> float:
                value = scores.metrics(subnet).get(metric, float("nan"))
                advance(1)
                return value if more else -value

            found = evolution.search(scores.space, allowed, score, evolution.Evolution(trials, seed=seed))
            score(scores.space.largest)
        first = next(iter(limits))
        winner = evolution.best_of(found, lambda each: shares[each][first])
        listed = [*found, scores.space.largest]
        described = [
            {**each._asdict(), "score": scores.metrics(each).get(metric), "costs": costs(each), "shares": shares[each]}
            for each in listed
        ]
        result = subnet_report.gather(
            described, metric=metric, more_is_better=more, limits=limits, best=listed.index(winner)
        )
        if alone:
            result |= {"alone": alone, "spearman": subnet_report.rank_correlation(alone)}
        return _finish(scores, folder, winner, result, progress)


def _finish(
    scores: SubnetScores, folder: pathlib.Path, winner: Subnet, found: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes the winner's run, its config and the report; shows what was found."""
    target = folder / name_of(winner)
    if not (target / REPORT_FILE).is_file():
        if target.is_dir():  # of an attempt that was killed
            shutil.rmtree(target)
        cut_run.write_run(scores.run, winner, target, progress)
    config = folder / subnet_report.CONFIG_FILE
    doc = f"Fine-tunes the subnet {target.name} of {scores.run.workdir.name}."
    files.write_text(config, config_source(cut_run.config_from(scores.run.config, target), doc))
    found |= {"winner": target.name, "config": config.name}
    command = f"python -m jaxfm.train --config={config} --workdir={folder / 'tuned'}"
    subnet_report.write_all(folder, found, [command])
    progress.headline(f"\n{subnet_report.headline(found)}")
    progress.table(subnet_report.table(found))
    if found.get("alone"):
        progress.table(subnet_report.alone_table(found))
    progress.say(f"fine-tune it: {usage.as_called(command, sys.argv[0])}")
    return found


def _limits(most: Mapping[str, float]) -> dict[str, float]:
    if not most:
        raise UserError(f"--most is missing: what a subnet may cost, as a share of the largest model's.\n{USAGE}")
    limits = read_limits([f"{name}={limit!r}" for name, limit in most.items()])
    for name, limit in limits.items():
        if limit > 1:
            raise UserError(f"--most={_words(limits)}: {name} is a share of the largest model's: above 0, at most 1.")
    return limits


def _words(limits: Mapping[str, float]) -> str:
    return ",".join(f"{name}={limit:g}" for name, limit in limits.items())


def _shares(costs: Mapping[str, float], whole: Mapping[str, float]) -> dict[str, float]:
    return {name: value / whole[name] for name, value in costs.items()}


def _check_folder(folder: pathlib.Path) -> None:
    """Raises UserError for a directory that holds something else than subnets."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={folder}: is a file; name a directory.")
    files.check_parents(folder, "--workdir")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SCORES_FILE).is_file():
        raise UserError(f"--workdir={folder}: is not empty and holds no scores of subnets. Name a new directory.")


def _alone(scores: SubnetScores, runs: Sequence[str | pathlib.Path]) -> list[dict[str, Any]]:
    """Returns the runs trained alone, with their score and that of the same shape in the supernet."""
    if not runs:
        return []
    if len(runs) < LEAST_RUNS:
        raise UserError(f"--runs={','.join(map(str, runs))}: ranks are compared over at least {LEAST_RUNS} runs.")
    found = []
    metric = scores.run.config.eval.metric
    for each in runs:
        run = open_run(files.user_path(each, "--runs"))
        subnet = subnet_of(scores.encoder, run.spec.encoder)
        if subnet is None:
            raise UserError(
                f"--runs: {each} has not the shape of a subnet of {scores.run.workdir}: only its layers, heads (of the "
                "same width) and neurons may be fewer."
            )
        alone = workdirs.read_report(run.workdir)["splits"].get(SPLIT, {}).get(metric)
        if alone is None:
            raise UserError(f"--runs: {each} has no {metric} on {SPLIT}, by which subnets are compared.")
        found.append({"run": str(each), **subnet._asdict(), "alone": alone, "score": scores.metrics(subnet)[metric]})
    return found


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("supernet", "workdir"):
        if not values[name].value:
            raise UserError(f"--{name} is missing.\n{USAGE}")
    subnets(
        values.supernet,
        values.workdir,
        read_limits(values.most),
        chip=values.chip,
        trials=values.trials,
        runs=values.runs,
        seed=values.search_seed,
    )
    print(f"subnets scored; report: {pathlib.Path(values.workdir) / subnet_report.MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("supernet", None, "The directory of a run that was trained with config.supernet.")
    flags.DEFINE_string("workdir", None, "The folder for scores and the winner; the same one again goes on with it.")
    flags.DEFINE_list("most", [], "Shares of what the largest model costs, as flops=0.5,bytes=0.8.")
    flags.DEFINE_string("chip", "", "The chip that costs in seconds are of: h100, v5e, ...")
    flags.DEFINE_integer("trials", 64, "How many subnets are scored, at most.")
    flags.DEFINE_list("runs", [], "Runs of such shapes trained alone, whose ranks are compared with the subnets'.")
    flags.DEFINE_integer("search_seed", 0, "Seed of the evolution.")
    program.run(main, USAGE)
