"""Classification of sound over several seeds: jaxfm, and transformers' AST with its own Trainer, of the same shape.

  python -m profiles.audio_quality --data=../shared/data/spoken-digits --output=profiles/results/audio_digits.json \
      [--programs=jaxfm,reference] [--epochs=40] [--seeds=0,1,2]

Both start from random weights of the shape of `ast_nano` and take the settings of `audio_classification:digits`:
rate 1e-3, cosine decay, batches of 32 clips, clips moved by up to 0.1 s, noise, SpecAugment; the weights after the last
step are scored on the set's test clips. `reference` is profiles/hf_audio.py. What is done is kept in --workdir.
"""

import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families.registry import preset
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.train import train
from profiles import command_line, quality

REFERENCE = "profiles/hf_audio.py"
OURS, THEIRS = PROGRAMS = ("jaxfm", "reference")
_PRESET, _LABEL = "ast_nano", "digit"


def our_config(archive: pathlib.Path, epochs: float, seed: int) -> Any:
    """Returns the config of a run from scratch."""
    return resolve_config(
        "configs/audio_classification.py:digits",
        {
            "model.preset": _PRESET,
            "data.source": f"npz:{archive}",
            "data.label_column": _LABEL,
            "data.holdout": 0.0,
            "train.epochs": epochs,
            "train.min_steps": 0,
            "eval.select": "last",
            "eval.patience": 0,
            "eval.every_steps": quality.NEVER,
            "seed": seed,
        },
    )


def our_run(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Trains one seed; returns its accuracy in percent, its seconds and clips a second."""
    begun = time.monotonic()
    report = train(config, folder)
    training = report["training"]
    return {
        "accuracy": round(100 * report["splits"]["test"]["accuracy"], 2),
        "seconds": round(training["seconds"], 1),
        "all_seconds": round(time.monotonic() - begun, 1),
        "steps": training["steps"],
        "clips_per_s": round(training["steps"] * config.train.batch_size / training["seconds"], 1),
    }


def their_run(config: Any, archive: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Trains one seed with transformers' Trainer, with the settings of `config`."""
    shape, augment = preset(_PRESET), config.task.augment
    patches = shape.patches
    words: Mapping[str, Any] = {
        "label": _LABEL, "patch": patches.size, "stride": patches.stride[1], "mels": patches.mels,
        "frames": (patches.grid[1] - 1) * patches.stride[1] + patches.size, "width": shape.hidden_size,
        "layers": shape.num_layers, "heads": shape.num_heads, "batch": config.train.batch_size,
        "time_masks": augment.time_masks, "time_width": augment.time_width, "frequency_masks": augment.frequency_masks,
        "frequency_width": augment.frequency_width, "shift": augment.shift, "noise": augment.noise,
        "epochs": config.train.epochs, "lr": config.optim.learning_rate, "decay": config.optim.weight_decay,
        "seed": config.seed,
    }  # fmt: skip
    command = [REFERENCE, str(archive), str(folder), *(f"--{name}={value}" for name, value in words.items())]
    return quality.last_json(quality.watched_run(command))


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and sample deviation of the accuracies, all of them, mean seconds and clips a second."""
    scores = quality.summary(records, {"accuracy": "accuracy"})["accuracy"]
    means = {name: round(statistics.mean(each[name] for each in records), 1) for name in ("seconds", "clips_per_s")}
    return {**scores, "runs": [record["accuracy"] for record in records], **means}


def archive_of(folder: pathlib.Path) -> pathlib.Path:
    """Returns the one .npz in a folder. Raises UserError where there is none, or several."""
    found = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if len(found) != 1:
        raise UserError(f"--data={folder}: must be a folder with one .npz file of clips; it has {len(found)}.")
    return found[0].resolve()


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of spoken digits: one .npz")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--epochs", type=float, default=40.0)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    programs = arguments.programs.split(",")
    if unknown := [name for name in programs if name not in PROGRAMS]:
        raise UserError(f"--programs: {unknown[0]!r} is none of them. {did_you_mean(unknown[0], PROGRAMS)}")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    archive = archive_of(arguments.data)
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    records: dict[str, list[dict[str, Any]]] = {}
    result: dict[str, Any] = {}
    for seed in seeds:
        for program in programs:
            kept, folder = workdir / f"{program}_{seed}.json", workdir / f"{program}_{seed}"
            config = our_config(archive, arguments.epochs, seed)
            if not kept.exists():
                made = our_run(config, folder) if program == OURS else their_run(config, archive, folder)
                files.write_json(kept, made)
            records.setdefault(program, []).append(files.read_json(kept))
            print(f"{program} {seed}: {records[program][-1]}", flush=True)
            result = {
                "command": quality.shown_command(sys.argv),
                **quality.machine(),
                "preset": _PRESET,
                "epochs": arguments.epochs,
                "seeds": seeds,
                "programs": {name: summary(found) for name, found in records.items()},
            }
            files.write_json(arguments.output, result)
    rows = [
        (name, f"{found['mean']:.2f} ± {found['sd']:.2f}", found["seconds"], found["clips_per_s"])
        for name, found in result["programs"].items()
    ]
    print(to_markdown(Table("Accuracy on test, percent", ("program", "accuracy", "seconds", "clips a second"), rows)))


if __name__ == "__main__":
    command_line.run(main)
