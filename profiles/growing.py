"""Does a masked LM that grows learn more at the same FLOPs than one of full depth from the start?

  python -m profiles.growing --source=text:../shared/data/mlm-corpus --layers=1,2,3 --steps=1500 --seeds=0,1,2 \
      --output=profiles/results/growing.json

Masked LM from scratch, of --preset's shape, as configs/mlm.py trains it, on rows of 128 tokens and a small vocabulary.
`grown` begins with the first depth of --layers and comes to the preset's own by --steps updates (config.grow;
--at=0.3,0.6: when); `stacked` is the same with copies as they are; `full` has all layers from the start and the number
of updates that costs the FLOPs of `grown` (by the objective's formula). All have one shape of schedule, stretched to
their updates. Scores are losses on the held-out text after the last update, of the weights then.

On a GPU try --preset=modern_base --layers=6,11,22. What is done is kept in --workdir, a run directory a run, and not
run again.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from configs.mlm import get_config
from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training import growth, initial
from profiles import command_line, quality

ARMS = ("grown", "stacked", "full")


def make_config(arguments: argparse.Namespace) -> Config:
    """Returns the config of `grown`."""
    values: Any = get_config(arguments.preset)
    values.data.source, values.data.cache = arguments.source, str(arguments.workdir / "cache")
    values.data.row_length = 128
    values.model.tokenizer = f"train:wordpiece/{arguments.vocabulary}"
    values.optim.schedule = "linear"
    values.train.batch_size, values.train.steps = arguments.batch, arguments.steps
    values.eval.every_steps, values.eval.select = max(arguments.steps // 20, 1), "last"
    values.task.evaluate = ()
    values.grow.layers = tuple(command_line.integers("--layers", arguments.layers.split(",")))
    try:
        values.grow.at = tuple(float(share) for share in arguments.at.split(",") if share)
    except ValueError:
        raise UserError(f"--at={arguments.at}: must be shares of a run, as 0.3,0.6.") from None
    return from_config_dict(values)


def flops(config: Config, encoder: EncoderConfig) -> tuple[float, float]:
    """Returns the FLOPs of the whole run of a model that grows, and those of an update at its full depth."""
    layers, total = config.grow.layers, config.train.steps
    of_depth = {}
    for depth in layers:
        objective = registry.abstract_objective(config, dataclasses.replace(encoder, num_layers=depth))
        of_depth[depth] = objective.flops_per_row(config.adapt) * config.train.batch_size
    # A depth begins at the first evaluation from its share on.
    every = config.eval.every_steps
    begins = [
        0,
        *(min(-(-round(share * total) // every) * every, total) for share in growth.shares(config.grow)),
        total,
    ]
    spent = sum(of_depth[depth] * (begins[i + 1] - begins[i]) for i, depth in enumerate(layers))
    return spent, of_depth[layers[-1]]


def arm(config: Config, name: str, equal_steps: int) -> Config:
    """Returns the config of one of the compared runs."""
    if name == "full":
        every = max(equal_steps // 20, 1)
        return replaced(
            config, {"grow.layers": (), "grow.at": (), "train.steps": equal_steps, "eval.every_steps": every}
        )
    return replaced(config, {"grow.new_layers": "stacked" if name == "stacked" else "preserving"})


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains what is not trained yet; returns the record."""
    config = make_config(arguments)
    encoder, _ = initial.shape(config.model)
    growth.check(config, encoder, loaded=False)
    spent, of_update = flops(config, encoder)
    equal_steps = round(spent / of_update)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for name in ARMS:
            own = dataclasses.replace(arm(config, name, equal_steps), seed=seed)
            report = train(own, arguments.workdir / f"{name}-seed{seed}")
            loss, training = report["splits"]["valid"]["loss"], report["training"]
            runs.append(
                {"arm": name, "seed": seed, "loss": loss, "steps": training["steps"], "seconds": training["seconds"]}
            )
    return {
        "command": quality.shown_command(sys.argv),
        "machine": quality.machine(),
        "layers": list(config.grow.layers),
        "at": list(growth.shares(config.grow)),
        "flops": spent,
        "steps": {"grown": config.train.steps, "full": equal_steps},
        "runs": runs,
    }


def table(record: dict[str, Any]) -> Table:
    """Returns the mean loss of each arm over its seeds."""
    rows = []
    for name in ARMS:
        own = [run for run in record["runs"] if run["arm"] == name]
        losses, seconds = [run["loss"] for run in own], [run["seconds"] for run in own]
        spread = statistics.stdev(losses) if len(losses) > 1 else None
        rows.append((name, own[0]["steps"], statistics.mean(losses), spread, statistics.mean(seconds)))
    return Table(
        "Loss at equal FLOPs", ("model", "updates", "loss", "sd", "seconds"), rows, formats={"seconds": ",.0f"}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and writes the record."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="text:DIR")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the JSON file to write")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/growing"), help="of the runs")
    parser.add_argument("--preset", default="modern_tiny", help="variant of configs/mlm.py (default: modern_tiny)")
    parser.add_argument("--layers", default="1,2,3", help="depths, the last one the preset's (default: 1,2,3)")
    parser.add_argument("--at", default="", help="shares of the updates at which it grows (default: evenly)")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--steps", type=int, default=1500, help="updates of the grown model (default: 1500)")
    parser.add_argument("--batch", type=int, default=32, help="rows of an update (default: 32)")
    parser.add_argument("--vocabulary", type=int, default=4000, help="entries of the tokenizer (default: 4000)")
    arguments = command_line.parse_own(parser, argv)
    record = measure(arguments)
    files.write_json(arguments.output, record)
    print(to_markdown(table(record)))


if __name__ == "__main__":
    command_line.run(main)
