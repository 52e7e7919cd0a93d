"""Spoken digits over several seeds: error rates of transcripts, and what pretraining without labels is worth.

  python -m profiles.speech_quality --data=../shared/data/spoken-digits --output=profiles/results/speech_digits.json \
      [--parts=digits,joined,few] [--epochs=200] [--seeds=0,1,2]

digits  `speech_recognition:digits` for --epochs: digits spelled out, word and character error rate on test, by the
        search over prefixes (greedy_wer: without it)
joined  `speech_recognition:joined` for a share of these epochs: strings of one to three digits of one speaker
few     `audio_classification` with 10 labelled clips a class, accuracy on test: from scratch, and from masked sound
        that has heard all training clips without their labels (--pretrain_epochs)

The weights after the last step are scored. What is done is kept in --workdir.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.train import train
from profiles import command_line, quality
from profiles.audio_quality import archive_of

PARTS = ("digits", "joined", "few")
_LABELLED = 10  # clips of each class
_JOINED_SHARE = 0.3  # of --epochs: joined clips are four times as many
_PRESET = "ast_strips_nano"
_LAST: Mapping[str, Any] = {"eval.select": "last", "eval.patience": 0, "train.min_steps": 0, "data.holdout": 0.0}


def trained(name: str, changes: Mapping[str, Any], folder: pathlib.Path) -> dict[str, Any]:
    """Trains a run of a config with some keys changed; returns its report."""
    often = {"eval.every_steps": quality.NEVER}
    return train(resolve_config(name, {**_LAST, **often, **changes}), folder)


def recognition(part: str, archive: pathlib.Path, epochs: float, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Returns error rates on test in percent, and seconds."""
    changes = {"data.source": f"npz:{archive}", "train.epochs": epochs, "seed": seed}
    report = trained(f"configs/speech_recognition.py:{part}", changes, folder / part)
    scores = report["splits"]["test"]
    found = {name: round(100 * scores[name], 2) for name in ("wer", "cer")}
    found["greedy_wer"] = round(100 * scores["greedy"]["wer"], 2)
    return {**found, "seconds": round(report["training"]["seconds"], 1)}


def few_labels(
    archive: pathlib.Path, epochs: float, pretrain_epochs: float, seed: int, folder: pathlib.Path
) -> dict[str, Any]:
    """Returns the accuracy on test in percent from scratch, and after masked sound on all training clips."""
    few = folder / "few.npz"
    write_few(archive, few, seed)
    common = {"data.label_column": "digit", "task.sample_rate": 8000, "train.epochs": epochs, "seed": seed}
    common |= {"data.source": f"npz:{few}", "task.pooling": "mean"}
    name = "configs/audio_classification.py:digits"
    scratch = trained(name, {**common, "model.preset": _PRESET}, folder / "scratch")
    pretraining = {"data.source": f"npz:{archive}", "train.epochs": pretrain_epochs, "seed": seed}
    trained("configs/masked_sound.py:digits", pretraining, folder / "masked")
    after = {**common, "task.sample_rate": 0, "model.init": f"run:{folder / 'masked'}", "model.preset": ""}
    return {
        "scratch": round(100 * scratch["splits"]["test"]["accuracy"], 2),
        "pretrained": round(100 * trained(name, after, folder / "after")["splits"]["test"]["accuracy"], 2),
    }


def write_few(archive: pathlib.Path, path: pathlib.Path, seed: int) -> None:
    """Writes an archive with the same test clips and some training clips of each class, drawn by the seed."""
    with np.load(archive, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    rng, labels = np.random.default_rng(seed), data["digit_train"]
    drawn = [rng.permutation(np.flatnonzero(labels == digit))[:_LABELLED] for digit in np.unique(labels)]
    chosen = np.sort(np.concatenate(drawn))
    offsets = data["offsets_train"]
    clips = [data["audio_train"][offsets[clip] : offsets[clip + 1]] for clip in chosen]
    data["audio_train"] = np.concatenate(clips)
    data["offsets_train"] = np.concatenate([[0], np.cumsum([len(clip) for clip in clips])])
    data |= {name: data[name][chosen] for name in ("digit_train", "speaker_train")}
    with files.atomic_write(path, binary=True) as file:
        np.savez(file, **data)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of spoken digits: one .npz")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--epochs", type=float, default=200.0)
    parser.add_argument("--pretrain_epochs", type=float, default=100.0)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    parts = arguments.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        raise UserError(f"--parts: {unknown[0]!r} is none of them. {did_you_mean(unknown[0], PARTS)}")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    archive = archive_of(arguments.data)
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    epochs = arguments.epochs
    work: dict[str, Callable[[int, pathlib.Path], dict[str, Any]]] = {
        "digits": lambda seed, folder: recognition("digits", archive, epochs, seed, folder),
        "joined": lambda seed, folder: recognition("joined", archive, _JOINED_SHARE * epochs, seed, folder),
        "few": lambda seed, folder: few_labels(archive, epochs, arguments.pretrain_epochs, seed, folder),
    }
    records: dict[str, list[dict[str, Any]]] = {}
    result: dict[str, Any] = {}
    for seed in seeds:
        for part in parts:
            kept = workdir / f"{part}_{seed}.json"
            if not kept.exists():
                files.write_json(kept, work[part](seed, workdir / f"{part}_{seed}"))
            records.setdefault(part, []).append(files.read_json(kept))
            print(f"{part} {seed}: {records[part][-1]}", flush=True)
            result = {
                "command": quality.shown_command(sys.argv),
                **quality.machine(),
                "epochs": epochs,
                "pretrain_epochs": arguments.pretrain_epochs,
                "labelled_clips_per_class": _LABELLED,
                "seeds": seeds,
                "parts": {
                    name: {"summary": quality.summary(found, {key: key for key in found[0]}), "runs": found}
                    for name, found in records.items()
                },
            }
            files.write_json(arguments.output, result)
    rows = [
        (part, name, f"{value['mean']:.2f} ± {value['sd']:.2f}")
        for part, found in result["parts"].items()
        for name, value in found["summary"].items()
    ]
    print(to_markdown(Table("On test, percent (and seconds)", ("part", "score", "mean and deviation"), rows)))


if __name__ == "__main__":
    command_line.run(main)
