"""How many labels active learning saves: score against the number of labels, by each way of `jaxfm select`.

  python -m profiles.active_learning --source=tsv:../shared/data/sst2 --limit=10000 --seeds=0,1,2 \
      --output=profiles/results/active_learning_sst2.json --image=docs/images/active_learning_sst2.png
  python -m profiles.active_learning --source=tsv:../shared/data/trec --config.data.label_column=coarse_label ...
  python -m profiles.active_learning --source=conll:../shared/data/wikigold --start=100 --batch=100 ...

Labelling is simulated. For each seed --start training examples, drawn by the seed, are labelled; a run of
configs/classification.py:files (configs/ner.py:files where the source is conll or brat) is trained on them, chooses
--batch further ones by each of the ways --by, is trained anew on all labelled ones, and so on, --rounds times.
--valid examples of the training split, the same in all runs, are the validation split; they are not counted. Scores are
of the test split, or of the source's validation split where there is none. "Needed" is the number of labels at which
the mean curve over the seeds first reaches --share of the score of runs on all examples, by straight lines between the
rounds; the JSON has it of each seed's curve too. Finished runs in --workdir are taken as they are.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.sources import available_splits, read_tagged
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe import plots
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.select import BY, RANDOM, select
from jaxfm.programs.train import train
from jaxfm.schema import flatten, replaced, to_dict
from jaxfm.training import workdir as workdirs
from profiles import command_line, quality

Line = Mapping[str, Any]
COLUMNS = tuple(f"data.{name}_column" for name in ("text", "pair", "label", "words", "tags", "document"))


def config_of(source: str, changes: Sequence[str]) -> Config:
    """Returns the config of the runs, changed by words --config.KEY=VALUE."""
    tagged = source.startswith(("conll:", "brat:"))
    config = resolve_config("ner:files" if tagged else "classification:files", {"data.source": source})
    return resolve_config(config, command_line.values(changes, flatten(to_dict(config))))


def read_lines(config: Config) -> dict[str, list[Line]]:
    """Returns the examples of "train" and of "test" as lines of `jsonl:`."""
    source = config.data.source
    if source.startswith(("conll:", "brat:")):
        test = "test" if "test" in available_splits(source) else "valid"
        tagged = read_tagged(source, ("train", test))
        return {
            name: [{"tokens": list(each.words), "ner_tags": list(each.tags)} for each in tagged[split].sentences]
            for name, split in (("train", "train"), ("test", test))
        }
    columns = ExampleColumns(config.data.text_column, config.data.pair_column, config.data.label_column)
    read = read_examples(source, None, columns=columns, kind=config.task.kind)
    test = "test" if "test" in read else "valid"
    if test not in read:
        raise UserError(f"--source={source}: has neither a test nor a validation split.")
    return {
        name: [
            {"text": each.text, **({} if each.pair is None else {"pair": each.pair}), "label": each.target}
            for each in read[split].examples
        ]
        for name, split in (("train", "train"), ("test", test))
    }


def write_lines(path: pathlib.Path, lines: Sequence[Line]) -> None:
    """Writes lines, unless the file is there."""
    if not path.is_file():
        files.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


class Simulation:
    """A data set of which the labels are known, but given out only as they are asked for."""

    def __init__(self, config: Config, home: pathlib.Path, arguments: argparse.Namespace):
        """Reads the data and sets the validation split aside."""
        found = read_lines(config)
        order = np.random.default_rng(0).permutation(len(found["train"]))
        if len(order) < arguments.valid + arguments.start + arguments.batch:
            raise UserError(f"--source={config.data.source}: {len(order):,} training examples are too few.")
        self.valid = [found["train"][number] for number in order[: arguments.valid]]
        kept = order[arguments.valid :][: arguments.limit or None]
        self.train = [found["train"][number] for number in np.sort(kept)]
        self.test = found["test"][: arguments.test or None]
        self.config, self.home, self.arguments = replaced(config, dict.fromkeys(COLUMNS, "")), home, arguments

    def first(self, seed: int) -> list[int]:
        """Returns the numbers of the examples that a seed begins with."""
        return np.random.default_rng(seed).permutation(len(self.train))[: self.arguments.start].tolist()

    def score(self, folder: pathlib.Path, labelled: Sequence[int], seed: int) -> float:
        """Trains on some examples, unless that is done; returns the test score."""
        data = folder / "data"
        for split, lines in (
            ("train", [self.train[number] for number in labelled]),
            ("valid", self.valid),
            ("test", self.test),
        ):
            write_lines(data / f"{split}.jsonl", lines)
        values = {"data.source": f"jsonl:{data}", "seed": seed}
        report = train(replaced(self.config, values), folder / "run")
        return float(report["splits"]["test"][workdirs.read_config(folder / "run").eval.metric])

    def chosen(self, folder: pathlib.Path, labelled: Sequence[int], by: str, seed: int) -> list[int]:
        """Returns what the run of a folder wants labelled next, as it was chosen before where that is done."""
        path = folder / f"chosen_{by}.json"
        if not path.is_file():
            known = set(labelled)
            pool = folder / f"pool_{by}.jsonl"
            lines = (
                {name: line[name] for name in ("text", "pair", "tokens") if name in line} | {"id": number}
                for number, line in enumerate(self.train)
                if number not in known
            )
            files.write_text(pool, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
            found = select(folder / "run", input=pool, count=self.arguments.batch, by=by, seed=seed)
            files.write_json(path, [int(each["id"]) for each in found])
            pool.unlink()
        return files.read_json(path)

    def curve(self, by: str, seed: int) -> list[tuple[int, float]]:
        """Returns (labels, score) after each round."""
        labelled, points = self.first(seed), []
        for number in range(self.arguments.rounds + 1):
            # All ways begin with the same run.
            folder = self.home / f"seed_{seed}" / ("start" if number == 0 else f"{by}_{number}")
            points.append((len(labelled), self.score(folder, labelled, seed)))
            if number < self.arguments.rounds:
                labelled = [*labelled, *self.chosen(folder, labelled, by, seed)]
        return points


def needed(points: Sequence[tuple[int, float]], target: float) -> float | None:
    """Returns the number of labels at which a curve first reaches a score, by straight lines; None: it does not."""
    before: tuple[int, float] | None = None
    for count, score in points:
        if score >= target:
            if before is None:
                return float(count)
            share = (target - before[1]) / (score - before[1])
            return before[0] + share * (count - before[0])
        before = (count, score)
    return None


def mean_curve(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Returns the mean over seeds of curves with the same numbers of labels."""
    every = zip(*curves.values(), strict=True)
    return [(points[0][0], statistics.mean(score for _, score in points)) for points in every]


def summary(record: Mapping[str, Any]) -> Table:
    """Lays out a row a way: means over the seeds."""
    rows, random = [], record["needed"].get(RANDOM)
    for by, curves in record["curves"].items():
        wanted, seeds = record["needed"][by], record["needed_by_seed"][by].values()
        share = wanted / random if wanted is not None and random else None
        reached = f"{sum(each is not None for each in seeds)} of {len(seeds)}"
        last = [points[-1][1] for points in curves.values()]
        area = statistics.mean(score for _, score in mean_curve(curves))
        spread = statistics.stdev(last) if len(last) > 1 else None
        rows.append((by, wanted, share, reached, area, statistics.mean(last), spread))
    columns = ("by", "labels needed", "of random's", "seeds that reach it", "mean of the curve", "at the end", "sd")
    return Table("Active learning", columns, rows, formats={"labels needed": ".0f", "of random's": ".2f"})


def draw(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Draws the mean curve of each way, and the score that is to be reached."""
    plots.plot_lines(
        {by: mean_curve(curves) for by, curves in record["curves"].items()},
        path,
        title="Score against labels",
        x_label="labelled examples",
        y_label=plots.title_of(record["metric"]),
        level=(f"{record['share']:.0%} of all labels' score", record["share"] * record["full"]["mean"]),
    )


def measure(simulation: Simulation, ways: Sequence[str], seeds: Sequence[int], load: Mapping[str, Any]) -> None:
    """Runs all that is not finished and writes the figures after each seed."""
    arguments = simulation.arguments
    full: dict[str, float] = {}
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {by: {} for by in ways}
    for seed in seeds:
        everything = range(len(simulation.train))
        full[str(seed)] = simulation.score(simulation.home / f"seed_{seed}" / "full", everything, seed)
        for by in ways:
            curves[by][str(seed)] = simulation.curve(by, seed)
        mean = statistics.mean(full.values())
        run = simulation.home / f"seed_{seed}" / "full" / "run"
        record = {
            **load,
            "metric": workdirs.read_config(run).eval.metric,
            "examples": len(simulation.train),
            "share": arguments.share,
            "full": {"mean": mean, "values": full},
            "curves": curves,
            "needed": {by: needed(mean_curve(each), arguments.share * mean) for by, each in curves.items()},
            "needed_by_seed": {
                by: {seed: needed(points, arguments.share * mean) for seed, points in each.items()}
                for by, each in curves.items()
            },
        }
        files.write_json(arguments.output, to_json(record))
        if arguments.image:
            draw(arguments.image, record)
    print(to_markdown(summary(record)))


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="URI of labelled data")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--image", type=pathlib.Path, help="PNG of the curves")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/active_learning/NAME of --output, if not given")
    parser.add_argument("--by", default="random,entropy,margin,badge,diversity", help="with commas between them")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between them")
    parser.add_argument("--start", type=int, default=50, help="labels at the beginning")
    parser.add_argument("--batch", type=int, default=50, help="labels a round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--valid", type=int, default=200, help="examples of the validation split")
    parser.add_argument("--limit", type=int, default=0, help="most training examples; 0: all")
    parser.add_argument("--test", type=int, default=0, help="most test examples; 0: all")
    parser.add_argument("--share", type=float, default=0.95, help="of the score of all labels, which is to be reached")
    arguments, changes = command_line.parse(parser, argv)
    for name in ("start", "batch", "rounds", "valid"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least 1.")
    ways = arguments.by.split(",")
    for by in ways:
        if by not in BY:
            raise UserError(f"--by: {by!r} is none of them. {did_you_mean(by, BY)}")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    home = arguments.workdir or pathlib.Path("runs/active_learning") / arguments.output.stem
    simulation = Simulation(config_of(arguments.source, changes), home, arguments)
    measure(simulation, ways, seeds, {"command": quality.shown_command(sys.argv), **quality.machine()})


if __name__ == "__main__":
    command_line.run(main)
