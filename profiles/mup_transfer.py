"""Does the best learning rate of a small width hold at larger ones? Sweeps of rates with and without `optim.mup`.

  python -m profiles.mup_transfer --source=text:../shared/data/mlm-corpus --widths=128,256,512 --seeds=0,1,2 \
      --exponents=-13,-12,-11,-10,-9,-8,-7,-6 --steps=1000 --output=profiles/results/mup_transfer.json \
      --image=docs/images/mup_transfer.png

Masked LM from scratch, of a preset's shape at each width (heads keep their width, the feed-forward part its ratio), as
configs/mlm.py trains it, but for rows of 128 tokens, a small vocabulary and no dropout. All runs read the same number
of tokens, in the same order for a seed. Rates are powers of two. The score of a run is its loss on the held-out text
after the last update; a run whose loss is not finite has none. The table has the best rate of each width by mean loss
over the seeds, and what the best rate of the first width costs there: its loss less that of the width's own best rate.
At the first width both parametrisations are one run. What is done is kept in --workdir, a file a run, and not run
again.
"""

import argparse
import dataclasses
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from configs.mlm import get_config
from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.task import Task
from jaxfm.errors import UserError
from jaxfm.observe import plots
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.initial import resolve
from jaxfm.training.schedule import train_batches
from jaxfm.training.session import make_session
from profiles import command_line, quality
from profiles.coordinate_check import MUP, STANDARD, at_width

# What a run depends on beside its width, rate, seed and parametrisation.
SETTINGS = ("source", "preset", "layers", "steps", "batch", "vocabulary")


def make_config(arguments: argparse.Namespace) -> Config:
    """Returns the config that all runs share."""
    values: Any = get_config(arguments.preset)
    values.data.source, values.data.cache = arguments.source, arguments.cache
    values.data.row_length = 128
    values.model.tokenizer = f"train:wordpiece/{arguments.vocabulary}"
    values.model.dropout = 0.0
    values.optim.schedule = "linear"
    values.train.batch_size, values.train.steps = arguments.batch, arguments.steps
    values.task.evaluate = ()
    return from_config_dict(values)


def final_losses(config: Config, task: Task, encoder: EncoderConfig, seeds: Sequence[int]) -> dict[int, float | None]:
    """Trains an encoder with the data of `task`; returns seed -> held-out loss (None: not finite), compiled once."""
    objective: Any = task.objective
    objective = dataclasses.replace(objective, spec=dataclasses.replace(objective.spec, encoder=encoder))
    mesh, found = make_mesh(config.parallel.mesh), {}
    with jax.set_mesh(mesh):
        session = make_session(config, objective, mesh, total_steps=config.train.steps)
        evaluate = session.evaluator(config.eval.batch_size)
        for seed in seeds:
            rows = train_batches(dataclasses.replace(config, seed=seed), task.datasets["train"], mesh)
            state = session.initial_state(seed)
            for stepped in session.steps(state, map(rows.batch, range(config.train.steps))):
                state = stepped.state
            loss = float(task.scorer("valid").metrics(evaluate(state.params, task.datasets["valid"]))["loss"])
            found[seed] = loss if math.isfinite(loss) else None
    return found


class Sweep:
    """Runs of all widths and rates, each of which is done once."""

    def __init__(self, arguments: argparse.Namespace, seeds: Sequence[int]):
        """Reads the text. Raises UserError where the work directory holds runs of other settings."""
        self.seeds, self.workdir = seeds, arguments.workdir
        settings = {name: getattr(arguments, name) for name in SETTINGS}
        kept = self.workdir / "settings.json"
        if kept.is_file() and (others := files.read_json(kept)) != settings:
            name = next(name for name in settings if others.get(name) != settings[name])
            raise UserError(
                f"--workdir={self.workdir}: holds runs with --{name}={others.get(name)}, not {settings[name]}. Take "
                "another folder."
            )
        self.config = make_config(arguments)
        initial = resolve(self.config.model)
        self.task, _ = registry.create(self.config, initial)
        self.shape = self.task.objective.spec.encoder
        if arguments.layers:
            self.shape = dataclasses.replace(self.shape, num_layers=arguments.layers)
        files.write_json(kept, settings)

    def losses(self, base: int, width: int, exponent: int) -> list[float | None]:
        """Returns the loss of each seed at rate 2 ** exponent; with `base` under muP."""
        name = STANDARD if base in (0, width) else f"{MUP}{base}"
        paths = {seed: self.workdir / f"{name}_{width}_{exponent}_{seed}.json" for seed in self.seeds}
        if missing := [seed for seed, path in paths.items() if not path.is_file()]:
            changes = {"optim.mup": base, "optim.learning_rate": 2.0**exponent}
            found = final_losses(replaced(self.config, changes), self.task, at_width(self.shape, width), missing)
            for seed, loss in found.items():
                files.write_json(paths[seed], {"loss": loss})
            print(f"{name}, width {width}, rate 2^{exponent}: {list(found.values())}", flush=True)
        return [files.read_json(path)["loss"] for path in paths.values()]


def mean_loss(losses: Sequence[float | None]) -> float:
    """Returns the mean over seeds; infinite where a run has none."""
    return statistics.mean(math.inf if loss is None else loss for loss in losses)


def summary(losses: Mapping[int, Mapping[int, Sequence[float | None]]]) -> dict[int, dict[str, Any]]:
    """Returns of each width its best exponent, and what that of the first width costs.

    `losses`: width -> exponent of the rate -> loss of each seed.
    """
    best = {width: min(rates, key=lambda each, of=rates: mean_loss(of[each])) for width, rates in losses.items()}
    first = best[next(iter(losses))]
    return {
        width: {
            "best_exponent": best[width],
            "loss": mean_loss(rates[best[width]]),
            "sd": statistics.stdev(known)
            if len(known := [x for x in rates[best[width]] if x is not None]) > 1
            else 0.0,
            "cost_of_first": mean_loss(rates[first]) - mean_loss(rates[best[width]]),
        }
        for width, rates in losses.items()
    }


def table(result: Mapping[str, Any]) -> Table:
    """Returns the best rates as a table: a row a parametrisation and width."""
    rows = [
        (
            name,
            width,
            f"2^{entry['best_exponent']}",
            f"{entry['loss']:.4f} ± {entry['sd']:.4f}",
            f"{entry['cost_of_first']:+.4f}",
        )
        for name in (STANDARD, MUP)
        for width, entry in result[name]["best"].items()
    ]
    return Table("Best rates", ("parametrisation", "hidden_size", "best rate", "loss", "first width's rate"), rows)


def draw(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Draws loss by rate, a line a width with the deviation over seeds; muP on the right."""
    from matplotlib.ticker import MaxNLocator

    figure = plots.new_figure(4.2)
    for axes, name in zip(figure.subplots(1, 2, sharex=True, sharey=True), (STANDARD, MUP), strict=True):
        for (width, rates), colour in zip(result[name]["losses"].items(), plots.COLOURS, strict=False):
            known = {int(exponent): np.asarray(each) for exponent, each in rates.items() if None not in each}
            x, y = list(known), [each.mean() for each in known.values()]
            sd = [each.std(ddof=1) if len(each) > 1 else 0.0 for each in known.values()]
            axes.errorbar(x, y, yerr=sd, color=colour, label=f"{width} wide", linewidth=2, marker="o", capsize=2)
            if known:
                best = int(np.argmin(y))
                axes.plot(x[best], y[best], marker="*", markersize=14, color=colour)
        plots.style(axes, title=name, x_label="peak rate", y_label="held-out loss (nats a masked token)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.xaxis.set_major_formatter("2^{x:.0f}")
        axes.grid(axis="y", color=plots.GRID, linewidth=0.8)
        axes.legend(frameon=False, labelcolor=plots.INK)
    plots.save_figure(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="text:DIR with train and valid files")
    parser.add_argument("--preset", default="modern_tiny", help="a variant of configs/mlm.py, whose shape is widened")
    parser.add_argument("--layers", type=int, default=0, help="0: those of the preset")
    parser.add_argument("--widths", default="128,256,512", help="the first one is the base of muP")
    parser.add_argument("--exponents", default="-13,-12,-11,-10,-9,-8,-7,-6", help="of rates, which are 2^exponent")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64, help="rows of 128 tokens an update")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--cache", default="", help="where prepared text is kept")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/mup_transfer"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, help="PNG of loss by rate")
    arguments = command_line.parse_own(parser, argv)
    widths, exponents, seeds = (
        command_line.integers(f"--{name}", getattr(arguments, name).split(","))
        for name in ("widths", "exponents", "seeds")
    )
    sweep = Sweep(arguments, seeds)
    result: dict[str, Any] = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "settings": {name: getattr(arguments, name) for name in SETTINGS}
        | {"source": pathlib.Path(arguments.source.rpartition(":")[2]).name},
        "tokens": arguments.steps * arguments.batch * sweep.config.data.row_length,
        "seeds": seeds,
    }
    for name, base in ((STANDARD, 0), (MUP, widths[0])):
        losses = {width: {each: sweep.losses(base, width, each) for each in exponents} for width in widths}
        result[name] = {"losses": losses, "best": summary(losses)}
    files.write_json(arguments.output, result)
    if arguments.image:
        draw(arguments.image, result)
    print(to_markdown(table(result)))


if __name__ == "__main__":
    command_line.run(main)
