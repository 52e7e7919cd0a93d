"""How fast a config trains here: tokens/s, useful tokens/s, MFU, compile seconds, peak memory, host ms a step.

  python -m profiles.throughput --config=configs/mlm.py:bert_base --config.train.batch_size=8 [--output=FILE.json]
  python -m profiles.throughput --config=configs/mlm.py:bert_base --config=configs/mlm.py:bert_large \
      --vary=data.row_length,train.batch_size=128,256:512,64 --vary=model.remat=none:dots

Runs anywhere: by default rows are random tokens, weights are random, and neither text nor a tokenizer is needed.
--rows=full: one segment fills a row; packed, padded: several examples a row, or one and padding (--example-tokens);
data: the config's own data and weights. --config.KEY=VALUE changes all configs (train.batch_size=auto: the largest
batch that fits); each --vary takes turns at the values that ":" separates, of one key or of several that change
together, and several --vary make all combinations.

A step is dispatched while the previous one runs, as in a run; the first --warm-up steps do not count. MFU is the
operations by formula (jaxfm.models.flops) as a share of the devices' peak; without a known peak it is missing, unless
--peak-flops gives the peak. Configs that do not fit into memory are reported and left out.
"""

import argparse
import gc
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.parallel import chips
from jaxfm.parallel.host_memory import keep_freed_memory
from profiles import command_line
from profiles.quality import machine, shown_command
from profiles.steps import DATA, FULL, PACKED, PADDED, TimedStep, Work, devices, read_config, settled


def variants(vary: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yields key -> value of every combination of words such as "data.row_length,train.batch_size=128,64:512,16".

    Raises:
      UserError: a word without "=", or with another number of values than keys.
    """
    choices = []
    for word in vary:
        names, equals, groups = word.partition("=")
        keys = names.split(",")
        rows = [group.split(",") for group in groups.split(":")]
        if not equals or any(len(row) != len(keys) for row in rows):
            raise UserError(f"--vary={word}: must be KEY=VALUE:VALUE:... or KEY,KEY=VALUE,VALUE:VALUE,VALUE:...")
        choices.append([dict(zip(keys, row, strict=True)) for row in rows])
    for parts in itertools.product(*choices):
        yield {key: value for part in parts for key, value in part.items()}


def measure(file: str, changes: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Times the step of one config; returns its record, with "error" where it does not fit into memory."""
    config, notes = settled(read_config(file, changes), arguments.most_rows)
    work = Work.of_data(config) if arguments.rows == DATA else None
    work = work or Work.synthetic(config, arguments.rows, arguments.example_tokens)
    record: dict[str, Any] = {
        "config": file,
        "changes": [word.removeprefix("--config.") for word in changes],
        "model": config.model.preset or config.model.init,
        "batch_size": config.train.batch_size,
        "notes": notes,
        "row_length": config.data.row_length,
    }
    try:
        step = TimedStep(config, work)
        step.run(arguments.warm_up + arguments.steps)
        step.run_idle(min(arguments.steps, 10))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return record | {"error": "does not fit into memory"}
    return record | step.facts(warm_up=arguments.warm_up, peak_flops=peak_flops(arguments.peak_flops))


def peak_flops(given: float | None) -> float | None:
    """Returns the peak of one device: as given, else as published, None where that is not known."""
    return chips.peak_flops(jax.devices()[0].device_kind) if given is None else given


def table(points: Sequence[dict[str, Any]]) -> Table:
    """Returns one row a measured step."""
    rows: list[tuple[Cell, ...]] = []
    for point in points:
        shape = f"{point['batch_size']} x {point['row_length']}"
        name = " ".join([point["config"].rpartition(":")[2], *varied(point, points)])
        if "error" in point:
            rows.append((name, shape, point["error"], *[None] * 8))
            continue
        seconds = point["step_seconds"]
        order = ("least", "lower_quartile", "upper_quartile", "most")
        rows.append(
            (
                name,
                shape,
                f"{1e3 * seconds['median']:,.1f} ({', '.join(f'{1e3 * seconds[key]:,.1f}' for key in order)})",
                point["tokens_per_second"],
                point["useful_tokens_per_second"],
                point["achieved_tflops"],
                None if point["mfu"] is None else 100 * point["mfu"],
                point["host_ms"],
                point["host_cpu_ms"],
                point["compile_seconds"],
                point["peak_bytes"] / 2**20,
            )
        )
    columns = (
        *("config", "rows x tokens", "step ms: median (least, quartiles, most)", "tokens/s", "useful tokens/s"),
        *("TFLOP/s a device", "MFU %", "host ms", "host CPU ms", "compile s", "peak MiB"),
    )
    formats = {name: ",.0f" for name in ("tokens/s", "useful tokens/s", "peak MiB")} | {
        "host ms": ".2f",
        "host CPU ms": ".2f",
    }
    formats |= {"TFLOP/s a device": ",.3g", "MFU %": ".1f", "compile s": ".1f"}
    return Table("Throughput of training", columns, rows, formats=formats)


def varied(point: dict[str, Any], points: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the changes that not all points share, but for rows and tokens, which have a column of their own."""
    shared = set.intersection(*(set(each["changes"]) for each in points))
    shown = ("data.row_length=", "train.batch_size=")
    return [word for word in point["changes"] if word not in shared and not word.startswith(shown)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures every config and combination, writes the JSON after each, prints the table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", action="append", required=True, help="config file, FILE.py[:variant]; repeatable")
    parser.add_argument("--vary", action="append", default=[], help="KEY=VALUE:VALUE:... or KEY,KEY=V,W:V,W:...")
    parser.add_argument("--rows", choices=(FULL, PACKED, PADDED, DATA), default=FULL)
    parser.add_argument("--example-tokens", type=int, default=0, help="of packed and padded rows; 0: a third of a row")
    parser.add_argument("--most-rows", type=int, default=2**17, help="of the batch that auto finds")
    parser.add_argument("--steps", type=int, default=30, help="timed")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before those")
    parser.add_argument("--peak-flops", type=float, help="bf16 operations a second of one device, where not known")
    parser.add_argument("--output", help="JSON file of results")
    arguments, changes = command_line.parse(parser, argv)
    keep_freed_memory()
    points: list[dict[str, Any]] = []
    for file, values in itertools.product(arguments.config, list(variants(arguments.vary))):
        points.append(
            measure(file, [*changes, *(f"--config.{key}={value}" for key, value in values.items())], arguments)
        )
        gc.collect()  # the state of one step is gone before the next is made
        result = {
            "command": shown_command(sys.argv),
            **machine(),
            **devices(),
            "peak_flops": peak_flops(arguments.peak_flops),
            "rows": arguments.rows,
            "timed_steps": arguments.steps,
            "points": points,
        }
        if arguments.output:
            files.write_json(arguments.output, result)
    print(to_markdown(table(points)))


if __name__ == "__main__":
    command_line.run(main)
