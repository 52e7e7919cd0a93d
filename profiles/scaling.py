"""How the cost of a training step grows with the model, the row length, the batch and the number of devices.

  python -m profiles.scaling --output=profiles/results/scaling.json [--series=model,row_length,batch,devices]
      [--config=configs/mlm.py:bert_mini] [--models=bert_tiny,bert_mini] [--row-lengths=64,128] [--batches=4,8]
      [--devices=1,2] [--config.KEY=VALUE ...]

Each series changes one thing of the config and leaves the rest: the model (--models, presets), tokens a row, rows, or
the devices, each with the config's rows (weak scaling). Steps of a series take turns, so that a machine that slows down
slows all of them. The exponent is the slope of seconds over operations by formula (model) or over tokens (all others),
both in logarithms: 1 is linear, less is a fixed cost that more work pays for, more is work that grows faster than that.
Of devices that compute side by side it would be 0.

Rows are full of random tokens. A series that --output holds already is measured anew only where it is asked for; beside
the JSON a picture of the same name is drawn. On CPU, devices are made by
XLA_FLAGS=--xla_force_host_platform_device_count=4; they share the cores, so that an exponent of 1 is the best there.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.parallel import chips
from jaxfm.parallel.host_memory import keep_freed_memory
from profiles import command_line
from profiles.quality import machine, shown_command
from profiles.steps import FULL, TimedStep, Work, devices, read_config

# Series -> the key that it changes; the series "devices" changes none.
SERIES = {"model": "model.preset", "row_length": "data.row_length", "batch": "train.batch_size", "devices": ""}
LINEAR = (0.9, 1.1)


@dataclasses.dataclass(frozen=True)
class Growth:
    """How seconds grow along a series.

    Attributes:
      exponent: of all its points: the slope in logarithms.
      last: of its two largest points.
    """

    exponent: float
    last: float

    @classmethod
    def of(cls, work: Sequence[float], seconds: Sequence[float]) -> "Growth":
        """Fits both; `work` ascends."""
        logs_of_work, logs = np.log(work), np.log(seconds)
        slope = np.polyfit(logs_of_work, logs, 1)[0]
        return cls(float(slope), float((logs[-1] - logs[-2]) / (logs_of_work[-1] - logs_of_work[-2])))

    @property
    def verdict(self) -> str:
        """Says it in words."""
        least, most = LINEAR
        if self.exponent < least:
            return "less than linear"
        return "linear" if self.exponent <= most else "more than linear"


def make_step(file: str, changes: Sequence[str], series: str, value: str) -> TimedStep:
    """Compiles one point of a series."""
    words = [*changes, *([f"--config.{SERIES[series]}={value}"] if SERIES[series] else [])]
    config = read_config(file, words)
    count = command_line.integers("--devices", [value])[0] if series == "devices" else 1
    if count > jax.device_count():
        raise UserError(
            f"--devices={value}: only {jax.device_count()} are available. On CPU, set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={value}."
        )
    rows = config.train.batch_size * count
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=rows))
    return TimedStep(config, Work.synthetic(config, FULL), devices=jax.devices()[:count])


def measure(series: str, steps: Mapping[str, TimedStep], arguments: argparse.Namespace) -> dict[str, Any]:
    """Times all points of a series in turns and fits its growth; points are put in order of their work."""
    for _ in range(arguments.turns):
        for step in steps.values():
            step.run(arguments.warm_up + arguments.steps)
    turn = arguments.warm_up + arguments.steps
    points = []
    for value, step in steps.items():
        # Each turn's first steps find caches that another model filled.
        kept = [index for index in range(len(step.seconds)) if index % turn >= arguments.warm_up]
        step.seconds = [step.seconds[index] for index in kept]
        step.host_seconds = [step.host_seconds[index] for index in kept]
        peak = chips.peak_flops(jax.devices()[0].device_kind)
        facts = step.facts(warm_up=0, peak_flops=peak)
        points.append({"value": value, "devices": step.mesh.size, "model_flops": step.model_flops(), **facts})
    against = "model_flops" if series == "model" else "tokens"
    points.sort(key=lambda point: point[against])
    growth = Growth.of([point[against] for point in points], [point["step_seconds"]["median"] for point in points])
    return {"against": against, **dataclasses.asdict(growth), "verdict": growth.verdict, "points": points}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Returns one row a point, and one a series."""
    rows: list[tuple[Cell, ...]] = []
    for series, found in result["series"].items():
        for point in found["points"]:
            seconds = point["step_seconds"]
            quartiles = f"({1e3 * seconds['lower_quartile']:,.1f} to {1e3 * seconds['upper_quartile']:,.1f})"
            rows.append(
                (
                    series,
                    point["value"],
                    point["parameters"] / 1e6,
                    point["tokens"],
                    f"{1e3 * seconds['median']:,.1f} {quartiles}",
                    point["tokens_per_second"],
                    1e3 * point["achieved_tflops"],
                    point["peak_bytes"] / 2**20,
                )
            )
    columns = ("series", "point", "M parameters", "tokens a step", "step ms: median (quartiles)", "tokens/s")
    columns += ("GFLOP/s a device", "peak MiB a device")
    formats = {name: ",.0f" for name in ("tokens/s", "GFLOP/s a device", "peak MiB a device")} | {
        "M parameters": ",.1f"
    }
    names = {"model_flops": "operations by formula", "tokens": "tokens"}
    growth: list[tuple[Cell, ...]] = [
        (series, f"seconds over {names[found['against']]}", found["exponent"], found["last"], found["verdict"])
        for series, found in result["series"].items()
    ]
    heads = ("series", "growth of", "exponent", "of the last two", "verdict")
    return [
        Table("Cost of a step", columns, rows, formats=formats),
        Table("How it grows", heads, growth, formats={"exponent": ".2f", "of the last two": ".2f"}),
    ]


def draw(result: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws each series' seconds over its work, both axes in logarithms, beside a line of slope 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, squeeze=False)[0]
    for axes, against, label in zip(
        panels, ("tokens", "model_flops"), ("tokens a step", "operations a step, by formula"), strict=True
    ):
        for series, found in result["series"].items():
            if found["against"] != against:
                continue
            work = np.array([point[against] for point in found["points"]])
            seconds = np.array([point["step_seconds"]["median"] for point in found["points"]])
            (line,) = axes.plot(work, seconds, "o-", label=f"{series.replace('_', ' ')}: {found['exponent']:.2f}")
            axes.plot(work, seconds[-1] * work / work[-1], ":", color=line.get_color(), linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds a step (dotted: linear)")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:,.3g}")
            axis.set_minor_formatter("")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, title="exponent")
    with files.atomic_write(path, binary=True) as stream:
        figure.savefig(stream, format="png", dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the series asked for, writes JSON and picture, prints the tables."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", default="configs/mlm.py:bert_mini")
    parser.add_argument("--series", default="model,row_length,batch")
    parser.add_argument("--models", default="bert_tiny,bert_mini,bert_small")
    parser.add_argument("--row-lengths", default="64,128,256,512")
    parser.add_argument("--batches", default="2,4,8,16")
    parser.add_argument("--devices", default="1,2,4")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5, help="timed, of each turn")
    parser.add_argument("--warm-up", type=int, default=2, help="steps of each turn before those")
    parser.add_argument("--output", required=True, help="JSON file; the picture lies beside it")
    arguments, changes = command_line.parse(parser, argv)
    chosen = arguments.series.split(",")
    if not set(chosen) <= set(SERIES):
        parser.error(f"--series={arguments.series}: must be of {', '.join(SERIES)}")
    keep_freed_memory()
    output = pathlib.Path(arguments.output)
    kept = files.read_json(output)["series"] if output.exists() else {}
    lists = {
        "model": arguments.models,
        "row_length": arguments.row_lengths,
        "batch": arguments.batches,
        "devices": arguments.devices,
    }
    for series in chosen:
        values = lists[series].split(",")
        if len(values) < 2:
            parser.error(f"the series {series} needs two values or more, not {lists[series]!r}")
        steps = {value: make_step(arguments.config, changes, series, value) for value in values}
        facts = {"command": shown_command(sys.argv), **machine(), **devices()}
        kept[series] = {**measure(series, steps, arguments), **facts}
        result = {"config": arguments.config, "series": {name: kept[name] for name in SERIES if name in kept}}
        files.write_json(output, result)
        draw(result, output.with_suffix(".png"))
    for table in tables(result):
        print(to_markdown(table))


if __name__ == "__main__":
    command_line.run(main)
