"""Images and their texts over several seeds: retrieval both ways and zero-shot classes, beside chance.

  python -m profiles.image_text_quality --data=../shared/data/emoji-captions \
      --output=profiles/results/image_text_emoji.json [--epochs=30] [--seeds=0,1,2] [--loss=sigmoid]

A small ViT from scratch and MiniLM for the texts (configs/image_text.py:files). Test pairs are those of the set;
classes are the column `category`, whose names training never sees as texts. Intervals are those of the report (95 %,
pairs drawn anew). What is done is kept in --workdir.
"""

import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from configs import image_text
from jaxfm import files
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from profiles import command_line, image_sets, quality

SHOWN = (
    "text_of_image_recall@1", "text_of_image_recall@5", "image_of_text_recall@1", "image_of_text_recall@5",
    "zero_shot_accuracy",
)  # fmt: skip


def run_seed(source: str, seed: int, changes: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Trains one seed; returns its scores in percent with their intervals, and its seconds."""
    config = from_config_dict(image_text.get_config("files"))
    config = replaced(config, {"data.source": source, "seed": seed, **changes})
    begun = time.monotonic()
    report = train(config, workdir)
    scores = report["splits"]["test"]
    intervals = scores["intervals"]["metrics"]
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "scores": {name: round(100 * scores[name], 2) for name in SHOWN},
        "intervals": {name: [round(100 * each, 2) for each in intervals[name]] for name in SHOWN},
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of a set: one .npz, and captions")
    parser.add_argument("--loss", default="infonce", choices=("infonce", "sigmoid"))
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--prompt", default="a picture of {}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments, words = command_line.parse(parser, argv)
    given = dict(word.removeprefix("--config.").split("=", 1) for word in words)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    source = f"parquet:{image_sets.write_set(arguments.data, workdir / 'data')}"
    changes: dict[str, Any] = {
        "task.loss": arguments.loss,
        "task.label_prompt": arguments.prompt,
        "data.label_column": "category",
        "train.epochs": arguments.epochs,
        "train.min_steps": 0,
        **given,
    }
    records: list[dict[str, Any]] = []
    for seed in seeds:
        kept = workdir / f"{seed}.json"
        if not kept.exists():
            files.write_json(kept, run_seed(source, seed, changes, workdir / str(seed)))
        records.append(files.read_json(kept))
        print(f"{seed}: {records[-1]['scores']}", flush=True)
    found = {}
    for name in SHOWN:
        values = [record["scores"][name] for record in records]
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        found[name] = {"mean": round(statistics.mean(values), 2), "sd": round(sd, 2), "runs": values}
    result = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "config": {name: str(value) for name, value in changes.items()},
        "seeds": seeds,
        "scores": found,
        "intervals": [record["intervals"] for record in records],
        "seconds": round(statistics.mean(record["seconds"] for record in records), 1),
    }
    files.write_json(arguments.output, result)
    rows = [(name, f"{each['mean']:.2f} ± {each['sd']:.2f}") for name, each in found.items()]
    print(to_markdown(Table("Images and texts, percent of the test pairs", ("score", "mean ± sd"), rows)))


if __name__ == "__main__":
    command_line.run(main)
