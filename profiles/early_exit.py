"""What early exit costs and gives: score against layers, and the sentences a second of prediction with and without it.

  python -m profiles.early_exit --source=tsv:../shared/data/sst2 --limit=4000 --every=1,2 --seeds=0,1,2 \
      --output=profiles/results/early_exit_sst2.json --image=docs/images/early_exit_sst2.png
  python -m profiles.early_exit --source=conll:../shared/data/wnut17 --every=2 --seeds=0,1,2 \
      --output=profiles/results/early_exit_wnut17.json

For each seed a run of configs/classification.py:files (configs/ner.py:files where the source is conll) is trained
without early heads ("alone"), and one with a head after each --every layers, in each of the --ways: "joint",
"distilled" (early heads learn half from the last one), "apart" (they do not change the layers) and, of whole texts,
"first token" (they read what the last one reads). Finished runs in --workdir are taken as they are. Scores are of the
test split, or of the validation split where there is none; "heads" has that of each head where all examples leave
there. Speed: that split's texts, the first --sentences of them, --batch at a time, by each model in turns, with the
run's threshold, by all layers, and by the run without early heads; given is the median over the turns.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe import plots
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.model import Model
from jaxfm.programs.model_exits import NEVER
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from profiles import command_line, quality
from profiles.quantisation import config_of, speeds

ALONE = "alone"
# Way to train early heads -> keys that say so.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "joint": {},
    "distilled": {"exits.distillation": 0.5},
    "apart": {"exits.joint": False},
    "first token": {"exits.pooling": "task"},
}


def names_of(ways: Sequence[str], every: Sequence[int]) -> dict[str, tuple[str, int]]:
    """Returns the names of runs with early heads -> way and layers between two heads."""
    return {f"{way}, every {count}": (way, count) for way in ways for count in every}


def runs_of(config: Any, folder: pathlib.Path, wanted: Mapping[str, tuple[str, int]]) -> dict[str, pathlib.Path]:
    """Trains what is not finished; returns name -> run directory, the run without early heads first."""
    found = {ALONE: folder / ALONE}
    train(config, found[ALONE])
    for name, (way, every) in wanted.items():
        found[name] = folder / f"{way.replace(' ', '_')}_{every}"
        train(replaced(config, {**WAYS[way], "exits.every": every}), found[name])
    return found


def measured(paths: Mapping[str, pathlib.Path], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns scores, curves, layers and sentences a second of the runs of one seed."""
    reports = {name: files.read_json(path / "report.json")["splits"] for name, path in paths.items()}
    split = "test" if "test" in reports[ALONE] else "valid"
    lines = (paths[ALONE] / "predictions" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: arguments.sentences or None]]
    texts = [row["text"] if "text" in row else " ".join(row["words"]) for row in rows]
    parts = [texts[first : first + arguments.batch] for first in range(0, len(texts), arguments.batch)]
    models = {f"{ALONE}, all layers": Model(paths[ALONE])}
    for name, path in paths.items():
        if name != ALONE:
            models |= {f"{name}, early": Model(path), f"{name}, all layers": Model(path, exit=NEVER)}
    calls: dict[str, Callable[[], Any]] = {
        name: lambda model=model: [model(part) for part in parts] for name, model in models.items()
    }
    rates = speeds(calls, len(texts), arguments.turns)
    found: dict[str, Any] = {}
    metric = next(each["exits"]["metric"] for splits in reports.values() for each in [splits[split]] if "exits" in each)
    for name, splits in reports.items():
        exits = splits[split].get("exits")
        found[name] = {
            "metric": metric,
            "all_layers": splits[split][metric],
            "sentences_per_second_all_layers": rates[f"{name}, all layers"],
        }
        if exits is None:
            continue
        layers = models[f"{name}, early"].layers
        found[name] |= {
            **{key: exits[key] for key in ("score", "average_layers", "layers", "threshold", "lost", "heads", "curve")},
            "layers_of_speed": None if layers is None else layers.average,
            "sentences_per_second": rates[f"{name}, early"],
        }
    return found


def table(seeds: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lays out the runs: means over the seeds, and the spread of the score."""
    first, *_ = seeds.values()
    rows = []
    for name in first:
        every = [each[name] for each in seeds.values()]

        def mean(key: str, every: Sequence[Mapping[str, Any]] = every) -> float | None:
            return statistics.mean(each[key] for each in every) if all(key in each for each in every) else None

        whole = [each["all_layers"] for each in every]
        spread = statistics.stdev(whole) if len(whole) > 1 else None
        keys = ("score", "average_layers", "lost", "sentences_per_second_all_layers", "sentences_per_second")
        rows.append((name, mean("all_layers"), spread, *map(mean, keys)))
    columns = ("run", "by all layers", "sd", "early", "layers", "lost", "sentences/s, all layers", "sentences/s, early")
    formats = {"layers": ".2f", "lost": ".2%", columns[-2]: ".0f", columns[-1]: ".0f"}
    return Table("Early exit", columns, rows, formats=formats)


def draw(path: pathlib.Path, seeds: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws the score over the average layers of the first seed's runs, and that of the run without early heads."""
    first, *_ = seeds.values()
    series = {
        name: sorted((each["average_layers"], each["score"]) for each in found["curve"])
        for name, found in first.items()
        if "curve" in found
    }
    metric = first[ALONE]["metric"]
    plots.plot_lines(
        series,
        path,
        title=f"{plots.title_of(metric)} against layers",
        x_label="layers an example, on average",
        y_label=plots.title_of(metric),
        level=("without early heads", first[ALONE]["all_layers"]),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="URI of the data, as of profiles.quantisation")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--image", type=pathlib.Path, help="PNG of the curves")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/early_exit/NAME of --output, if not given")
    parser.add_argument("--seeds", default="0", help="with commas between them")
    parser.add_argument("--every", default="2", help="layers between two heads, with commas between them")
    parser.add_argument("--ways", default="joint,distilled,apart", help="with commas between them")
    parser.add_argument("--limit", type=int, default=0, help="training examples of classification; 0: all")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=0, help="whose prediction is timed; 0: all of the split")
    parser.add_argument("--batch", type=int, default=1024, help="sentences of a call")
    arguments, changes = command_line.parse(parser, argv)
    for name in ("turns", "batch"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least 1.")
    ways = arguments.ways.split(",")
    if wrong := [way for way in ways if way not in WAYS]:
        raise UserError(f"--ways: {wrong[0]!r} is none of {', '.join(WAYS)}.")
    seeds, every = (
        command_line.integers(f"--{name}", getattr(arguments, name).split(",")) for name in ("seeds", "every")
    )
    load = os.getloadavg()[0]
    home = arguments.workdir or pathlib.Path("runs/early_exit") / arguments.output.stem
    found: dict[str, Any] = {}
    for seed in seeds:
        folder = home / f"seed_{seed}"
        config = config_of(arguments.source, seed, changes, folder, arguments.limit)
        found[str(seed)] = measured(runs_of(config, folder, names_of(ways, every)), arguments)
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "load_before": round(load, 2),
            "seeds": found,
        }
        files.write_json(arguments.output, to_json(result))
    if arguments.image:
        draw(arguments.image, found)
    print(to_markdown(table(found)))


if __name__ == "__main__":
    command_line.run(main)
