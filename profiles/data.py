"""How fast the input pipeline is by itself, and whether a train step ever waits for it.

  python -m profiles.data --config=configs/ner.py --output=profiles/results/data_ner.json

Takes the config's own batches as a run does (packed rows, read ahead in threads), first as arrays on the host, then
placed on the devices; beside it the median time of its train step, which is what the pipeline has to keep up with, and
the share of a short real run in which the step waited for data.
"""

import argparse
import contextlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.batch import Batch, Dataset, axes_of
from jaxfm.data.pipeline import TrainBatches
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.host_memory import keep_freed_memory
from jaxfm.parallel.mesh import host_rows, make_mesh, shard_batch
from jaxfm.programs.train import train
from jaxfm.schema import to_dict
from jaxfm.tasks.registry import from_config_dict
from profiles import command_line
from profiles.quality import NEVER, machine, shown_command
from profiles.steps import TimedStep, Work, devices, read_config

_WARM_UP = 5  # batches: threads start, the first epoch is put in order


def batches_per_second(
    rows: Dataset, config: Config, mesh: Mesh, *, batches: int, use: Callable[[Batch], Any]
) -> tuple[float, float]:
    """Returns how many batches a second come out of the pipeline, each given to `use`, and seconds to the first."""
    stream = TrainBatches(
        rows, batch_size=config.train.batch_size, seed=config.seed, host_rows=lambda size: host_rows(mesh, size)
    )
    begun = time.perf_counter()
    with contextlib.closing(stream.iterate(0, _WARM_UP + batches)) as made:
        use(next(made))
        first = time.perf_counter() - begun
        for _ in range(_WARM_UP - 1):
            use(next(made))
        start = time.perf_counter()
        for batch in made:
            use(batch)
        return batches / (time.perf_counter() - start), first


def pipeline(rows: Dataset, config: Config, mesh: Mesh, *, batches: int, turns: int) -> dict[str, Any]:
    """Returns the speed of the pipeline up to the host's arrays and up to the devices', in turns."""

    def placed(batch: Batch) -> None:
        jax.block_until_ready(shard_batch(batch, axes_of(rows.spec), mesh))

    uses = {"host": lambda batch: None, "placed": placed}
    rates: dict[str, list[float]] = {name: [] for name in uses}
    first: list[float] = []
    for _ in range(turns):
        for name, use in uses.items():
            rate, seconds = batches_per_second(rows, config, mesh, batches=batches, use=use)
            rates[name].append(rate)
            first.append(seconds)
    return {name: speed(found, rows, config) for name, found in rates.items()} | {"first_batch_seconds": max(first)}


def speed(batch_rates: Sequence[float], rows: Dataset, config: Config) -> dict[str, float]:
    """Returns rows and tokens a second of the median, and the least and the most, of batches a second."""
    of_batch = config.train.batch_size
    rate = statistics.median(batch_rates) * of_batch
    return {
        "rows_per_second": rate,
        "least_rows_per_second": min(batch_rates) * of_batch,
        "most_rows_per_second": max(batch_rates) * of_batch,
        "tokens_per_second": rate * rows.volume.per_row,
        "useful_tokens_per_second": rate * rows.volume.per_row * rows.volume.useful_share,
    }


def waiting(config: Config, steps: int) -> dict[str, float]:
    """Returns the share of the training time of a real run of `steps` steps spent waiting for data."""
    values = to_dict(config)
    values["train"]["steps"] = steps
    values["eval"] |= {"every_steps": NEVER, "select": "last"}
    if "evaluate" in values["task"]:  # masks to score with: what is scored in the end is not measured
        values["task"]["evaluate"] = ()
    values["log"] |= {"every_steps": max(steps // 4, 1), "tensorboard": False}
    with tempfile.TemporaryDirectory() as workdir:
        spent = train(from_config_dict(values), pathlib.Path(workdir) / "run")["training"]["goodput"]
    waited = spent["wait for data"]
    return {"steps": steps, "seconds": waited, "share": waited / (waited + spent["train"])}


def table(result: Mapping[str, Any]) -> Table:
    """Returns a table of a result: the pipeline beside the step."""
    appetite = result["step"]
    rows = [
        (
            name,
            each["rows_per_second"],
            each["useful_tokens_per_second"],
            each["rows_per_second"] / appetite["rows_per_second"],
        )
        for name, each in (
            ("batches on the host", result["pipeline"]["host"]),
            ("batches on the devices", result["pipeline"]["placed"]),
            ("the train step", appetite),
        )
    ]
    formats = {"rows/s": ",.0f", "useful tokens/s": ",.0f", "times the step's": ",.1f"}
    return Table("Pipeline", ("what", "rows/s", "useful tokens/s", "times the step's"), rows, formats=formats)


def measure(config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns all that is measured of a config."""
    begun = time.perf_counter()
    work = Work.of_data(config)
    read = time.perf_counter() - begun
    found = pipeline(
        work.rows, config, make_mesh(config.parallel.mesh), batches=arguments.batches, turns=arguments.turns
    )
    step = TimedStep(config, work)
    step.run(arguments.steps)
    appetite = speed([1 / seconds for seconds in step.seconds[2:]], work.rows, config)
    return {
        "batch_size": config.train.batch_size,
        "rows": len(work.rows),
        "row_length": work.rows.volume.per_row,
        "useful_share": round(work.rows.useful_share, 4),
        "read_seconds": read,
        "pipeline": found,
        "step": appetite | {"milliseconds": 1e3 * step.median_seconds()},
        "host_times_the_step": found["host"]["rows_per_second"] / appetite["rows_per_second"],
        "waiting": waiting(config, arguments.run_steps),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, writes the JSON."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config file, FILE.py[:variant]")
    parser.add_argument("--batches", type=int, default=300, help="of a turn")
    parser.add_argument("--turns", type=int, default=3, help="of host and devices each")
    parser.add_argument("--steps", type=int, default=12, help="timed, of which the first two do not count")
    parser.add_argument("--run-steps", type=int, default=40, help="of the real run")
    parser.add_argument("--output", help="JSON file of results")
    arguments, changes = command_line.parse(parser, argv)
    if min(arguments.batches, arguments.turns, arguments.run_steps) < 1 or arguments.steps < 3:
        parser.error("--batches, --turns and --run-steps must be at least 1, --steps at least 3")
    keep_freed_memory()
    result = {
        "command": shown_command(sys.argv),
        **machine(),
        **devices(),
        **measure(read_config(arguments.config, changes), arguments),
    }
    print(to_markdown(table(result)))
    shares = result["waiting"]
    print(
        f"a run of {shares['steps']} steps waited for data {shares['seconds']:.3f} s, {shares['share']:.2%} of its time"
    )
    if arguments.output:
        files.write_json(arguments.output, result)


if __name__ == "__main__":
    command_line.run(main)
