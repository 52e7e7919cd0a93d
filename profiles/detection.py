"""Objects in drawn images over several seeds: average precision, that of small shapes, and a sheet of failures.

  python -m profiles.detection --output=profiles/results/detection.json --workdir=runs/detection --seeds=0,1,2 \
      [--config.train.epochs=60.0] [--config.task.drawn_images=10000]

Each seed is a run of configs/detection.py:quickstart, whose images are drawn here and are the same for all seeds. The
run's best checkpoint by average precision on valid is scored on test. The sheet of the worst test images of each seed
stays in its run directory (report.html). A seed whose run is finished is not trained again.
"""

import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.evaluation import average_precision
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.schema import flatten, replaced, to_dict
from jaxfm.tasks.registry import from_config_dict
from profiles import command_line, quality

METRICS = (*average_precision.METRICS, "loss")


def quickstart() -> Config:
    """Returns the config that all seeds share, as configs/detection.py has it."""
    from configs.detection import get_config

    return from_config_dict(get_config())


def measure(config: Config, seed: int, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a seed, or reads what it left; returns its scores on test, its seconds and the files of its sheet."""
    begun = time.monotonic()
    report = train(replaced(config, {"seed": seed}), workdir)
    scores = report["splits"]["test"]
    sheets = sorted(str(path.relative_to(workdir)) for path in workdir.rglob("*worst_errors*.png"))
    return {
        **{name: round(scores[name], 4) for name in METRICS if name in scores},
        "classes": scores["classes"],
        "seconds": round(time.monotonic() - begun, 1),
        "sheets": sheets,
    }


def table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Returns a line a metric: each seed, and their mean."""
    names = [name for name in METRICS if all(name in run for run in runs.values())]
    rows = [
        (name, *(run[name] for run in runs.values()), statistics.mean(run[name] for run in runs.values()))
        for name in names
    ]
    return Table("Drawn shapes, test", ("metric", *(f"seed {seed}" for seed in runs), "mean"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/detection"))
    parser.add_argument("--seeds", default="0,1,2")
    arguments, words = command_line.parse(parser, argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    config = quickstart()
    changes = command_line.values(words, flatten(to_dict(config)))
    config = replaced(config, changes)
    if not average_precision.is_installed():
        raise UserError("pycocotools is not installed; this script compares average precision.")
    runs = {}
    for seed in seeds:
        runs[str(seed)] = measure(config, seed, arguments.workdir / f"seed_{seed}")
        result = {"command": quality.shown_command(sys.argv), **quality.machine(), "changes": changes, "seeds": runs}
        files.write_json(arguments.output, result)
    print(to_markdown(table(runs)))


if __name__ == "__main__":
    command_line.run(main)
