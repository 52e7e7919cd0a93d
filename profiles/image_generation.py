"""Images of classes that are made in few and many steps, as a classifier of real ones sees them, over several seeds.

  python -m profiles.image_generation --output=profiles/results/image_generation.json --workdir=runs/image_generation \
      --seeds=0,1,2 [--steps=1,4,12] [--config.train.epochs=50.0] [--config.task.unmasking.temperature=0.9]

The judge is a run of configs/image_classification.py:quickstart, the models are runs of
configs/image_generation.py:quickstart; both learn from scikit-learn's digits. The best checkpoint by the loss on valid
makes as many images as `task.test_made` says, of classes as in test. Beside them are the test images themselves, as
many training images, and a baseline: pixels each drawn from the training images of the class, whatever the others are.
A run that is finished is not trained again. Sheets of what is made lie beside the output, a PNG file a number of steps.
"""

import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.train import train
from jaxfm.schema import flatten, replaced, to_dict
from jaxfm.tasks.image_generation.judged import Comparison, Judging
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.saved_run import SavedRun, open_run
from jaxfm.training.session import compute_dtype
from profiles import command_line, quality

_SPLIT = "test"
_BASELINE_SEED = 7


def configs() -> tuple[Config, Config]:
    """Returns the config of the judge and that of the models."""
    from configs import image_classification, image_generation

    return from_config_dict(image_classification.get_config()), from_config_dict(image_generation.get_config())


def scored(run: SavedRun, steps: int, sheet: pathlib.Path | None) -> tuple[dict[str, float], Judging]:
    """Returns what the judge says of images made in so many steps, and the judge; draws a sheet of them."""
    config = replaced(run.config, {"task.unmasking.steps": steps})
    task: Any = run.task(config.data.source, _SPLIT, config)
    mesh = make_mesh(MeshConfig())
    restored, rows = run.restore(mesh, Build(compute_dtype(config.train.precision))), task.datasets[_SPLIT]
    size = whole_batches(config.eval.batch_size, len(rows), mesh)
    begun = time.monotonic()
    outputs = Evaluator(task.objective.outputs, restored.graphdef, mesh, size)(restored.params, rows)
    seconds = time.monotonic() - begun
    scorer = task.scorer(_SPLIT)
    report = scorer.report(outputs)
    if sheet is not None:
        report.plots["samples"](sheet)
    found = {name: round(report.metrics[name], 4) for name in ("recognised", "frechet", "loss", "accuracy")}
    return {**found, "images": len(scorer.made), "seconds": round(seconds, 1)}, scorer.judging


def baseline(run: SavedRun, judging: Judging, classes: Sequence[str]) -> Comparison:
    """Returns what the judge says of images each of whose pixels is that of a training image of the class, any one."""
    task: Any = run.task(run.config.data.source, "train")
    train_split = task.held_out["train"]
    pixels = np.stack([train_split.pixels.image(number) for number in range(len(train_split.examples))])
    own = np.asarray([example.labels[0] for example in train_split.examples])
    draw, made = np.random.default_rng(_BASELINE_SEED), []
    for name in classes:
        some = pixels[own == name]
        rows, columns = np.indices(some.shape[1:3])
        made.append(some[draw.integers(0, len(some), some.shape[1:3]), rows, columns])
    return judging.compare(made, list(classes))


def table(result: Mapping[str, Any], steps: Sequence[int]) -> Table:
    """Returns a line a way of making images: mean and deviation over seeds."""
    rows: list[tuple[Any, ...]] = []
    for count in steps:
        found = [run["steps"][str(count)] for run in result["seeds"].values()]
        shares, distances = ([run[name] for run in found] for name in ("recognised", "frechet"))
        rows.append((f"{count} steps", found[0]["images"], _spread(shares, 3), _spread(distances, 2)))
    for name, facts in result["beside"].items():
        distance = "" if "frechet" not in facts else f"{facts['frechet']:.2f}"
        rows.append((name, facts["images"], f"{facts['recognised']:.3f}", distance))
    return Table("Digits, test", ("", "images", "recognised", "Fréchet distance from test"), rows)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/image_generation"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", default="1,4,12")
    arguments, words = command_line.parse(parser, argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    steps = command_line.integers("--steps", arguments.steps.split(","))
    if min(steps) < 1:
        raise UserError(f"--steps={arguments.steps}: must be at least 1.")
    judge_config, config = configs()
    changes = command_line.values(words, flatten(to_dict(config)))
    config = replaced(config, changes)
    judge = arguments.workdir / "judge"
    train(judge_config, judge)
    config = replaced(config, {"task.judge": f"run:{judge}"})
    result: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), "changes": changes}
    result |= {"seeds": {}, "beside": {}}
    for seed in seeds:
        workdir = arguments.workdir / f"seed_{seed}"
        begun = time.monotonic()
        report = train(replaced(config, {"seed": seed}), workdir)
        trained, run, found = time.monotonic() - begun, open_run(workdir), {}
        for count in steps:
            sheet = arguments.output.with_suffix(f".{count}_steps.png") if seed == seeds[0] else None
            found[str(count)], judging = scored(run, count, sheet)
            if not result["beside"]:
                result["beside"] = {
                    "real test images": judging.of_real.facts(),
                    "training images": report["splits"][_SPLIT]["real_images"]["training images"],
                    "pixels by themselves": baseline(run, judging, classes_of(run)).facts(),
                }
        result["seeds"][str(seed)] = {"train_seconds": round(trained, 1), "steps": found}
        files.write_json(arguments.output, result)
    print(to_markdown(table(result, steps)))


def classes_of(run: SavedRun) -> list[str]:
    """Returns the classes of the images that are made for test."""
    task: Any = run.task(run.config.data.source, _SPLIT)
    return [run.spec.classes[number] for number in task.held_out[_SPLIT].made.tolist()]  # type: ignore[attr-defined]


if __name__ == "__main__":
    command_line.run(main)
