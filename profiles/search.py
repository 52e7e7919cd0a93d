"""What does a search gain? TPE, random search and successive halving at an equal budget, beside the config itself.

  python -m profiles.search --config=configs/classification.py:files --config.data.source=csv:FOLDER \
      --space=space.json --trials=20 --repetitions=3 --workdir=runs/search_quality --output=profiles/results/search.json

Each repetition has another seed of the sampler and of the runs. The budget is that of --trials whole runs; successive
halving (rungs at 1/9 and 1/3 of a run) has as many more trials as it saves updates. Of each way the trial with the best
validation score counts: its validation and test score, the updates of all trials and the seconds. "default" is the
config as it is, one run a repetition. The same command goes on where it was stopped.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.writers import to_json
from jaxfm.programs.search import search
from jaxfm.programs.train import train
from profiles import command_line, steps
from profiles.quality import machine, shown_command

WAYS = ("default", "random", "tpe", "halving")
REDUCTION = 3


def halving_trials(trials: int) -> int:
    """Returns the most trials of successive halving that make no more updates than `trials` whole runs."""
    count = trials
    while _halving_cost(count + 1) <= trials:
        count += 1
    return count


def _halving_cost(count: int) -> float:
    """Returns the updates of successive halving, in whole runs."""
    promoted = max(1, count // REDUCTION)
    finished = max(1, promoted // REDUCTION)
    return count / 9 + promoted * (1 / 3 - 1 / 9) + finished * (1 - 1 / 3)


def one_way(way: str, config: Config, space: Mapping[str, Any], folder: pathlib.Path, trials: int) -> dict[str, Any]:
    """Returns scores, updates and seconds of one way in one repetition, whose seed is the config's."""
    if way == "default":
        report = train(config, folder)
        spent = {"trials": 1, "updates": report["training"]["steps"], "seconds": report["training"]["seconds"]}
        metric = report["result"]["metric"]
    else:
        halves = way == "halving"
        found = search(
            config,
            space,
            folder,
            trials=halving_trials(trials) if halves else trials,
            sampler="tpe" if way == "tpe" else "random",
            pruner="halving" if halves else "none",
            reduction=REDUCTION,
            seed=config.seed,
        )
        best = found["trials"][found["best"]]
        report = json.loads((folder / best["workdir"] / "report.json").read_text())
        spent = {
            "trials": len(found["trials"]),
            "updates": sum(each["steps"] for each in found["trials"]),
            "seconds": sum(each["seconds"] for each in found["trials"]),
            "best": best["params"],
        }
        metric = found["metric"]
    scores = {split: values.get(metric) for split, values in report["splits"].items()}
    return {"metric": metric, **scores, **spent}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and standard deviation (over n - 1) of the scores over the repetitions."""
    found = {}
    for split in ("valid", "test"):
        values = [run[split] for run in runs if run.get(split) is not None]
        if values:
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[split] = {"mean": statistics.fmean(values), "sd": spread}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config file, with a variant after a colon")
    parser.add_argument("--space", required=True, help="JSON file of the space, as jaxfm.search reads it")
    parser.add_argument("--trials", type=int, default=20, help="whole runs that a way may cost")
    parser.add_argument("--repetitions", type=int, default=3, help="of each way, with seeds from 0")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--workdir", required=True, help="folder that keeps the runs")
    parser.add_argument("--output", required=True, help="JSON file for the figures")
    arguments, changes = command_line.parse(parser, argv)
    for name in ("trials", "repetitions"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least 1.")
    ways = arguments.ways.split(",")
    for way in ways:
        if way not in WAYS:
            raise UserError(f"--ways: {way!r} is none of them. {did_you_mean(way, WAYS)}")
    config = steps.read_config(arguments.config, changes)
    space = files.read_json(pathlib.Path(arguments.space))
    found: dict[str, Any] = {"command": shown_command(sys.argv), **machine(), **steps.devices(), "space": space}
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for seed in range(arguments.repetitions):
        for way in ways:
            folder = pathlib.Path(arguments.workdir) / f"{way}{seed}"
            results[way].append(one_way(way, dataclasses.replace(config, seed=seed), space, folder, arguments.trials))
            found["ways"] = {name: {"runs": runs, **summary(runs)} for name, runs in results.items() if runs}
            files.write_json(arguments.output, to_json(found))
    for way, runs in results.items():
        scores = summary(runs)
        named = "  ".join(f"{split} {each['mean']:.4f}" for split, each in scores.items())
        updates = statistics.fmean(run["updates"] for run in runs)
        print(f"{way:<8} {named}  {runs[0]['trials']} trials, {updates:,.0f} updates")


if __name__ == "__main__":
    command_line.run(main)
