"""Whether explanations are complete and faithful, and what they take: completeness error, faithfulness, seconds.

  python -m profiles.explaining --source=tsv:../shared/data/sst2 --limit=4000 --seeds=0,1,2 \
      --output=profiles/results/explaining_sst2.json
  python -m profiles.explaining --source=conll:../shared/data/wnut17 --seeds=0,1,2 \
      --output=profiles/results/explaining_wnut17.json
  python -m profiles.explaining --task=qa --source=json:../shared/data/squad_v1 --seeds=0,1,2 \
      --output=profiles/results/explaining_qa.json

For each seed a run of configs/TASK.py:files is trained (ner where the source is conll, else classification, unless
--task says qa); finished runs in --workdir are taken as they are. --records examples of the validation split, drawn by
the seed, are explained by every method, and each method is compared with --orders random orders of the words
(`jaxfm explain --faithfulness`). Seconds are for 1,000 records: of explaining them a second time, so without compiling.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.evaluation.faithfulness import RANDOM, SCORES, to_values
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.explain import split_records
from jaxfm.programs.explain_faithfulness import faithfulness
from jaxfm.programs.explanations import Explainer
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.attribution import METHODS
from profiles import command_line, quality
from profiles.quantisation import config_of

TASKS = ("classification", "ner", "qa")


def task_config(task: str, source: str, seed: int, changes: Sequence[str], folder: pathlib.Path, limit: int) -> Any:
    """Returns the config of a seed's run."""
    if task != "qa":
        return config_of(source, seed, changes, folder, limit)
    from configs import qa

    values: Any = qa.get_config("files")
    values.data.source = source
    words = [word.removeprefix("--config.").partition("=") for word in changes]
    config = from_config_dict(values)
    for key, _, text in words:
        group, _, name = key.rpartition(".")
        owner: Any = config
        for part in filter(None, group.split(".")):
            owner = getattr(owner, part)
        config = replaced(config, {key: type(getattr(owner, name))(text)})
    return replaced(config, {"seed": seed})


def seconds_of(explainer: Explainer, records: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, float]:
    """Returns method -> seconds for 1,000 records, of the second time that they are explained."""
    found = {}
    portions = list(explainer.prepared(records))
    for method in methods:
        for _ in range(2):
            begin = time.perf_counter()
            for rows, explained in portions:
                explainer.attribution(explained)(explainer.params, rows, explained, method)
            found[method] = round((time.perf_counter() - begin) / len(records) * 1000, 2)
    return found


def measured(workdir: pathlib.Path, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Returns what was measured of one run."""
    model = Model(workdir, precision="f32")
    records = split_records(workdir, "valid", limit=arguments.records, seed=seed)
    report = faithfulness(model.explainer, records, METHODS, orders=arguments.orders, seed=seed)
    return {
        "records": report.records,
        "parts": report.parts,
        "completeness_error": report.missing,
        "methods": to_values(report.found),
        "better_than_random": {name: each.better for name, each in report.found.items() if name != RANDOM},
        "seconds_per_1000_records": seconds_of(model.explainer, records, METHODS),
    }


def table(result: Mapping[str, Any]) -> Table:
    """Lays out the methods: means over the seeds, the largest p of all seeds."""
    seeds = list(result["seeds"].values())
    rows = []
    for name in (RANDOM, *METHODS):
        cells: list[Any] = [name.replace("_", " ")]
        for score in SCORES:
            each = [seed["methods"][name][score] for seed in seeds]
            cells.append(statistics.mean(one["value"] for one in each))
            cells.append(None if name == RANDOM else max(one["against_random"]["p"] for one in each))
        cells.append(None if name == RANDOM else statistics.mean(s["seconds_per_1000_records"][name] for s in seeds))
        rows.append(cells)
    columns = ("words by", SCORES[0], "largest p", SCORES[1], "its largest p", "s for 1,000")
    error = max(seed["completeness_error"] for seed in seeds)
    title = f"{len(seeds)} seeds; completeness error of integrated gradients: at most {error:.3%}"
    return Table(title, columns, rows, formats={"s for 1,000": ".1f"})


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--task", choices=TASKS, help="ner where the source is conll, else classification")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/explaining/NAME of --output, if not given")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--limit", type=int, default=0, help="training examples of classification; 0: all")
    parser.add_argument("--records", type=int, default=300, help="examples of the validation split; 0: all")
    parser.add_argument("--orders", type=int, default=5, help="random orders")
    arguments, changes = command_line.parse(parser, None)
    if arguments.orders < 1:
        raise UserError(f"--orders={arguments.orders}: must be at least 1.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    task = arguments.task or ("ner" if arguments.source.startswith("conll:") else "classification")
    home = arguments.workdir or pathlib.Path("runs/explaining") / arguments.output.stem
    found: dict[str, Any] = {}
    for seed in seeds:
        folder = home / f"seed_{seed}"
        train(task_config(task, arguments.source, seed, changes, folder, arguments.limit), folder / "run")
        found[str(seed)] = measured(folder / "run", arguments, seed)
        result = {"command": quality.shown_command(sys.argv), **quality.machine(), "task": task, "seeds": found}
        files.write_json(arguments.output, to_json(result))  # few records have no interval
    print(to_markdown(table(result)))


if __name__ == "__main__":
    command_line.run(main)
