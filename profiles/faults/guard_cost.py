"""Step time with the guards of numbers off, with the spike guard, and with updates verified, in turns.

  python -m profiles.faults.guard_cost --output=profiles/results/guard_cost.json

The model is --preset over random rows. In each turn every setting runs --steps updates one after the other, by
`Session.steps` as a run does; the order changes from turn to turn. A time is that of a whole portion divided by its
updates, so the updates that are computed twice are in it: one more of --verify updates, and hashes. Ratios are of the
same turn, of seconds of the clock and of seconds of the processor, which other programs on the machine change less.
"""

import argparse
import itertools
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_plain
from jaxfm.parallel.mesh import host_rows, make_mesh
from jaxfm.schema import replaced
from jaxfm.training.session import make_session
from profiles import command_line, quality, steps
from profiles.steps import FULL, Work

OFF, SPIKES, VERIFIED = "off", "spike guard", "verified"
TOTAL_STEPS = 100_000


class Running:
    """A run of one setting that can be gone on with, its batches on the devices."""

    def __init__(self, arguments: argparse.Namespace, changes: dict[str, Any]) -> None:
        """Compiles the step, and whatever verifies it."""
        words = [
            "--config.model.tokenizer=train:wordpiece/8192",
            f"--config.train.batch_size={arguments.batch}",
            f"--config.data.row_length={arguments.row_length}",
        ]
        self._config = replaced(steps.read_config(f"configs/mlm.py:{arguments.preset}", words), changes)
        work, mesh = Work.synthetic(self._config, FULL), make_mesh(MeshConfig())
        self._session = make_session(self._config, work.objective, mesh, total_steps=TOTAL_STEPS)
        rows = work.rows.take(host_rows(mesh, arguments.batch))
        self._batch = self._session.shard(rows)
        self._state = self._session.initial_state(0)
        self.run(self._config.train.verify_every_steps or 2)  # what verifies is compiled at its first use

    def run(self, count: int) -> tuple[float, float]:
        """Makes so many updates; returns the seconds of one, by the clock and of the processor."""
        jax.block_until_ready(self._state)
        begun, processor = time.perf_counter(), time.process_time()
        for stepped in self._session.steps(self._state, itertools.repeat(self._batch, count)):
            self._state = stepped.state
        jax.block_until_ready(self._state)
        return (time.perf_counter() - begun) / count, (time.process_time() - processor) / count


def measure(arguments: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns setting -> seconds of an update in each turn, by the clock and of the processor."""
    changes = {
        OFF: {},
        SPIKES: {"optim.spike_factor": 8.0},
        VERIFIED: {"train.verify_every_steps": arguments.verify},
    }
    running = {name: Running(arguments, each) for name, each in changes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in running}
    processor: dict[str, list[float]] = {name: [] for name in running}
    for turn in range(arguments.turns):
        names = list(running)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found = running[name].run(arguments.steps)
            seconds[name].append(found[0])
            processor[name].append(found[1])
        shown = (f"{name} {1e3 * found[-1]:.2f} ms" for name, found in seconds.items())
        print(f"turn {turn + 1}: {'  '.join(shown)}", flush=True)
    return seconds, processor


def ratios(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Returns setting -> its time as a multiple of that without guards, in each turn."""
    return {
        name: [one / off for one, off in zip(found, seconds[OFF], strict=True)]
        for name, found in seconds.items()
        if name != OFF
    }


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments. Raises UserError for counts that fit together badly."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--preset", default="bert_mini", help="a variant of configs/mlm.py")
    parser.add_argument("--batch", type=int, default=16, help="rows of an update")
    parser.add_argument("--row-length", type=int, default=128)
    parser.add_argument("--verify", type=int, default=100, help="updates between two that are verified")
    parser.add_argument("--steps", type=int, default=100, help="updates of a setting in a turn")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    if arguments.verify < 2 or arguments.steps % arguments.verify:
        raise UserError(f"--steps={arguments.steps}: must be a multiple of --verify={arguments.verify}, from 2 on.")
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns}: must be at least 1.")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = parsed(argv)
    seconds, processor = measure(arguments)
    found, of_processor = ratios(seconds), ratios(processor)
    result = {
        "command": quality.shown_command(sys.argv).replace("profiles.guard_cost", "profiles.faults.guard_cost"),
        **quality.machine(),
        **steps.devices(),
        "settings": {name: value for name, value in vars(arguments).items() if name != "output"},
        "step_seconds": seconds,
        "processor_seconds": processor,
        "ratios": found,
        "processor_ratios": of_processor,
        "median_ratio": {name: statistics.median(each) for name, each in found.items()},
        "median_processor_ratio": {name: statistics.median(each) for name, each in of_processor.items()},
    }
    files.write_json(arguments.output, result)
    rows = [
        (
            name,
            1e3 * statistics.median(each),
            1e3 * min(each),
            1e3 * max(each),
            statistics.median(found[name]) if name in found else 1.0,
            min(found.get(name, [1.0])),
            max(found.get(name, [1.0])),
            statistics.median(of_processor.get(name, [1.0])),
        )
        for name, each in seconds.items()
    ]
    columns = ("guards", "median ms", "least ms", "most ms", "ratio", "least ratio", "most ratio", "ratio, processor")
    shape = f"{arguments.preset}, {arguments.batch} rows of {arguments.row_length}"
    title = f"An update of {shape}, one of {arguments.verify} verified"
    print(to_plain(Table(title, columns, rows)))


if __name__ == "__main__":
    command_line.run(main)
