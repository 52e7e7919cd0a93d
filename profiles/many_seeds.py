"""What do several runs in one program cost? R runs at once beside the same runs one after the other; their ensemble.

  python -m profiles.many_seeds --config=configs/classification.py:files --config.data.source=csv:FOLDER --seeds=8 \
      --output=profiles/results/many_seeds.json

Times the train step alone, on batches that lie on the devices, without evaluations and saves: seconds until the first
update is done (tracing and compiling included, which each single run pays again without a cache of programs) and
seconds of an update of all runs after it, the median of --repeats turns of --steps updates in each way. Then, unless
--no-train is given, it trains all runs by `train.seeds` and each alone by the same config, and writes how far losses
and scores of the two lie apart, the wall time of both, and the score, NLL and ECE of the ensemble beside those of its
members. What is timed holds the states of all runs twice.
"""

import dataclasses
import itertools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics, to_json
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import grid, initial
from jaxfm.training import workdir as workdirs
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.several import set_up_several
from jaxfm.training.stepping import SingleRun, Stepping
from profiles import command_line, steps
from profiles.quality import machine, shown_command

_BATCHES = 4  # that lie on the devices, and are taken in turns


@dataclasses.dataclass
class Timed:
    """A loop over updates that can be timed in portions; `first` is how long the first update took, compiled anew."""

    stepping: Stepping
    setups: Sequence[Setup]
    first: float = 0.0

    def __post_init__(self) -> None:
        """Makes the states, then times the first update."""
        everything: Any = None
        session = self.stepping.session
        for number, setup in enumerate(self.setups):
            everything = self.stepping.put(everything, number, setup.initial_state(), session.empty_sums())
        state, sums = jax.block_until_ready(everything)
        begun = time.perf_counter()
        self._steps = self.stepping.steps(0, state, self._batches(), sums)
        self.seconds(1)
        self.first = time.perf_counter() - begun

    def seconds(self, updates: int) -> float:
        """Returns the seconds of so many updates, until they are done on the devices."""
        begun = time.perf_counter()
        for _ in range(updates):
            stepped = next(self._steps)
        jax.block_until_ready(stepped.state.step)
        return time.perf_counter() - begun

    def _batches(self) -> Iterator[Mapping[str, jax.Array]]:
        placed = [self.stepping.shard([setup.batches.batch(step) for setup in self.setups]) for step in range(_BATCHES)]
        yield from itertools.cycle(placed)


def time_steps(config: Config, updates: int, repeats: int) -> dict[str, Any]:
    """Times R runs at once and one after the other, in turns."""
    runs = {run.name: run.config for run in grid.runs_of(config)}
    mesh, first = make_mesh(config.parallel.mesh), initial.resolve(config.model)
    tasks, loaded = {}, {}
    for name, own in runs.items():
        tasks[name], loaded[name] = registry.create(own, first)
        runs[name] = workdirs.with_values(own, tasks[name].chosen)
    begun = time.perf_counter()
    setups, stack = set_up_several(runs, tasks, loaded, mesh)
    lowered = time.perf_counter() - begun
    together = Timed(stack, list(setups.values()))
    alone, lowered_alone = [], []
    for name, own in runs.items():
        begun = time.perf_counter()
        setup = set_up(own, tasks[name], loaded[name], mesh)
        lowered_alone.append(time.perf_counter() - begun)
        alone.append(Timed(SingleRun(setup.session), [setup]))
    turns = {"at_once": list[float](), "one_after_the_other": list[float]()}
    for _ in range(repeats):
        turns["at_once"].append(together.seconds(updates) / updates)
        turns["one_after_the_other"].append(sum(each.seconds(updates) for each in alone) / updates)
    found = {
        "at_once": {"first_update_seconds": lowered + together.first},
        "one_after_the_other": {
            "first_update_seconds": sum(lowered_alone) + sum(each.first for each in alone),
        },
    }
    for way, seconds in turns.items():
        found[way] |= {"update_of_all_seconds": statistics.median(seconds), "turns": seconds}
    volume = next(iter(setups.values())).volume
    rows = config.train.batch_size * len(runs)
    for way in found:
        found[way]["useful_units_per_second"] = rows * volume.useful_per_row / found[way]["update_of_all_seconds"]
    return found | {"runs": len(runs), "unit": volume.unit}


def train_both_ways(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Trains the runs of a config at once and each alone, and compares them; scores their ensemble on test."""
    begun = time.perf_counter()
    train(config, folder / "at_once")
    at_once = time.perf_counter() - begun
    begun = time.perf_counter()
    for run in grid.runs_of(config):
        train(run.config, folder / "alone" / run.name)
    alone = time.perf_counter() - begun
    apart: dict[str, float] = {"train_loss": 0.0, "valid_loss": 0.0}
    scores = []
    for run in grid.runs_of(config):
        both = [read_metrics(folder / way / run.name / "metrics.jsonl") for way in ("at_once", "alone")]
        for ours, theirs in zip(*both, strict=True):
            key = f"{ours['split']}_loss"
            if "loss" in theirs:
                difference = abs(ours["loss"] - theirs["loss"]) / max(abs(theirs["loss"]), 1e-12)
                apart[key] = max(apart.get(key, 0.0), difference)
        reports = [json.loads((folder / way / run.name / "report.json").read_text()) for way in ("at_once", "alone")]
        scores.append({"run": run.name, "at_once": reports[0]["result"], "alone": reports[1]["result"]})
    ensemble = evaluate(folder / "at_once", "test" if "test" in reports[0]["splits"] else "valid")
    return {
        "seconds": {"at_once": at_once, "one_after_the_other": alone},
        "largest_relative_difference": apart,
        "results": scores,
        "ensemble": ensemble.scores["ensemble"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config file, with a variant after a colon")
    parser.add_argument("--seeds", type=int, default=8, help="runs at once")
    parser.add_argument("--steps", type=int, default=20, help="updates of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way")
    parser.add_argument("--no-train", dest="train", action="store_false", help="time the steps alone")
    parser.add_argument("--workdir", default="", help="folder that keeps the runs; a temporary one if not given")
    parser.add_argument("--output", required=True, help="JSON file for the figures")
    arguments, changes = command_line.parse(parser, argv)
    for name in ("seeds", "steps", "repeats"):
        least = 2 if name == "seeds" else 1
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least {least}.")
    config = replaced(steps.read_config(arguments.config, changes), {"train.seeds": arguments.seeds})
    found: dict[str, Any] = {
        "command": shown_command(sys.argv),
        **machine(),
        **steps.devices(),
        "steps": time_steps(config, arguments.steps, arguments.repeats),
    }
    if arguments.train:
        with tempfile.TemporaryDirectory() as temporary:
            found["trained"] = train_both_ways(config, pathlib.Path(arguments.workdir or temporary))
    files.write_json(arguments.output, to_json(found))
    at_once, alone = (found["steps"][way] for way in ("at_once", "one_after_the_other"))
    print(
        f"{found['steps']['runs']} runs: an update of all takes {at_once['update_of_all_seconds']:.4f} s at once and "
        f"{alone['update_of_all_seconds']:.4f} s one after the other; the first one "
        f"{at_once['first_update_seconds']:.1f} and {alone['first_update_seconds']:.1f} s"
    )


if __name__ == "__main__":
    command_line.run(main)
