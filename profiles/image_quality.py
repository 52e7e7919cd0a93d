"""Classification of images over several seeds: from scratch, after masked pretraining, and transformers' Trainer.

  python -m profiles.image_quality --data=../shared/data/cifar10-subset --output=profiles/results/images_cifar10.json \
      --epochs=30 --pretrain_epochs=100 [--patch=4] [--preset=vit_mini] [--limit=2000] [--seeds=0,1,2] [--flip]

All models have the same shape and see the same images, the weights after the last step are scored on the set's test
images. `scratch` trains for --epochs, `reference` is profiles/hf_image.py with the same settings, `masked` pretrains
(MAE) for --pretrain_epochs without labels and then trains for --epochs, `scratch_long` trains from scratch for as many
epochs as cost the operations of both (by the objectives' formulas). --limit takes that many training images, equally of
each class. What is done is kept in --workdir.
"""

import dataclasses
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.tasks.registry import default_config, from_config_dict
from profiles import command_line, image_sets, quality

REFERENCE = "profiles/hf_image.py"
SCRATCH, LONG, MASKED, THEIRS = PROGRAMS = ("scratch", "scratch_long", "masked", "reference")
_SHIFT = 4  # pixels, of 32


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all programs share.

    Attributes:
      preset: shape of the encoder.
      patch: side of a patch.
      side: of the images.
      channels: of the images.
      epochs: with labels.
      pretrain_epochs: without.
      rate: peak learning rate.
      batch: images a step.
      flip: images are mirrored at random.
    """

    preset: str
    patch: int
    side: int
    channels: int
    epochs: float
    pretrain_epochs: float
    rate: float
    batch: int
    flip: bool

    def config(self, task: str, source: str, seed: int) -> Any:
        """Returns the config of a run from scratch."""
        values = default_config(task)
        values.model.init, values.model.preset = "scratch", self.preset
        values.data.source, values.data.holdout = source, 0.0
        changes = {
            "task.image_size": self.side,
            "task.patch_size": self.patch,
            "task.channels": self.channels,
            "task.augment.pad_crop": max(round(_SHIFT * self.side / 32), 1),
            "task.augment.flip": self.flip,
            "train.batch_size": self.batch,
            "train.epochs": self.epochs,
            "train.min_steps": 0,
            "optim.learning_rate": self.rate,
            "eval.select": "last",
            "eval.patience": 0,
            "seed": seed,
        }
        return replaced(from_config_dict(values), changes)

    def long_epochs(self, source: str) -> float:
        """Returns the epochs from scratch that cost as many operations as pretraining and training."""
        costs = []
        for task in ("masked_images", "image_classification"):
            config = self.config(task, source, 0)
            objective = registry.abstract_objective(config, preset(self.preset))
            costs.append(objective.flops_per_row(config.adapt))
        return round(self.epochs + self.pretrain_epochs * costs[0] / costs[1], 1)


def write_arrays(arrays: Mapping[str, np.ndarray], limit: int, folder: pathlib.Path) -> int:
    """Writes the images that all programs read, as arrays and as a table; returns the number of training images."""
    data = {name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test", "class_names")}
    for name in ("x_train", "x_test"):
        data[name] = data[name][..., None] if data[name].ndim == 3 else data[name]
    if limit:
        classes = len(data["class_names"])
        chosen = np.concatenate(
            [np.flatnonzero(data["y_train"] == number)[: limit // classes] for number in range(classes)]
        )
        data |= {"x_train": data["x_train"][np.sort(chosen)], "y_train": data["y_train"][np.sort(chosen)]}
    with files.atomic_write(folder / "images.npz", binary=True) as file:
        np.savez(file, **data)
    image_sets.write_set(folder, folder)
    return len(data["y_train"])


def our_run(program: str, recipe: Recipe, source: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains one seed; returns its accuracy in percent, its seconds and images a second."""
    config, begun = recipe.config("image_classification", source, seed), time.monotonic()
    pretrained = 0.0
    if program == MASKED:
        pretraining = replaced(recipe.config("masked_images", source, seed), {"train.epochs": recipe.pretrain_epochs})
        train(pretraining, folder / "pretraining")
        pretrained = time.monotonic() - begun
        config = replaced(config, {"model.init": f"run:{folder / 'pretraining'}", "model.preset": ""})
        config = replaced(config, {"task.patch_size": 0, "task.channels": 0})
    if program == LONG:
        config = replaced(config, {"train.epochs": recipe.long_epochs(source)})
    report = train(config, folder / "training")
    training = report["training"]
    return {
        "accuracy": round(100 * report["splits"]["test"]["accuracy"], 2),
        "seconds": round(time.monotonic() - begun, 1),
        "pretraining_seconds": round(pretrained, 1),
        "epochs": config.train.epochs,
        "patches_per_s": round(training["useful_patches_per_second"], 1),
    }


def their_run(recipe: Recipe, data: pathlib.Path, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains one seed with transformers' Trainer."""
    shape = preset(recipe.preset)
    words = {
        "patch": recipe.patch, "width": shape.hidden_size, "layers": shape.num_layers, "heads": shape.num_heads,
        "shift": max(round(_SHIFT * recipe.side / 32), 1), "batch": recipe.batch, "seed": seed,
        "epochs": recipe.epochs, "lr": recipe.rate,
    }  # fmt: skip
    command = [REFERENCE, str(data), str(folder), *(f"--{name}={value}" for name, value in words.items())]
    return quality.last_json(quality.watched_run([*command, *(["--flip"] if recipe.flip else [])]))


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and sample deviation of the accuracies, all of them, and mean seconds."""
    values = [record["accuracy"] for record in records]
    found = {
        "accuracy": round(statistics.mean(values), 2),
        "sd": round(statistics.stdev(values), 2) if len(values) > 1 else 0.0,
        "runs": values,
        "seconds": round(statistics.mean(record["seconds"] for record in records), 1),
    }
    return found | {
        name: records[0][name] for name in ("epochs", "patches_per_s", "images_per_s") if name in records[0]
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of a set: one .npz with class names")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--preset", default="vit_mini")
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--epochs", type=float, default=30.0)
    parser.add_argument("--pretrain_epochs", type=float, default=100.0)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--limit", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    programs = arguments.programs.split(",")
    if unknown := [name for name in programs if name not in PROGRAMS]:
        raise UserError(f"--programs: {unknown[0]!r} is none of {', '.join(PROGRAMS)}.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    arrays = image_sets.read_npz(arguments.data)
    data = workdir / "data"
    count = write_arrays(arrays, arguments.limit, data)
    side, pixels = arrays["x_train"].shape[1], arrays["x_train"]
    recipe = Recipe(
        arguments.preset, arguments.patch, side, 1 if pixels.ndim == 3 else pixels.shape[3], arguments.epochs,
        arguments.pretrain_epochs, arguments.rate, arguments.batch, arguments.flip,
    )  # fmt: skip
    source = f"parquet:{data / data.name}"
    records: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:
        for program in programs:
            kept = workdir / f"{program}_{seed}.json"
            if not kept.exists():
                folder = workdir / f"{program}_{seed}"
                made = (
                    their_run(recipe, data, seed, folder)
                    if program == THEIRS
                    else our_run(program, recipe, source, seed, folder)
                )
                files.write_json(kept, made)
            records.setdefault(program, []).append(files.read_json(kept))
            print(f"{program} {seed}: {records[program][-1]}", flush=True)
            result = {
                "command": quality.shown_command(sys.argv),
                **quality.machine(),
                "recipe": dataclasses.asdict(recipe),
                "images": {"train": count, "test": len(arrays["x_test"])},
                "seeds": seeds,
                "programs": {name: summary(found) for name, found in records.items()},
            }
            files.write_json(arguments.output, result)
    rows = [
        (name, f"{found['accuracy']:.2f} ± {found['sd']:.2f}", found["seconds"])
        for name, found in result["programs"].items()
    ]
    print(to_markdown(Table("Accuracy on test, percent", ("program", "accuracy", "seconds"), rows)))


if __name__ == "__main__":
    command_line.run(main)
