"""Does the spike guard help? Validation losses of small masked-LM runs with it and without, over several seeds.

  python -m profiles.faults.spike_guard --output=profiles/results/spike_guard.json

The runs are those of `configs/mlm.py:quickstart` (docstrings of the installed packages) cut short. Kinds of runs:
  usual      nothing
  rate       a rate ten times as high
  repeated   every --every updates, from the middle of the run on, a batch in which one token stands at every place
  random     the same with tokens drawn at random
each with gradients clipped at 1, as by default, and not clipped. Counted are the updates that were left out, and of the
corrupted ones how many.
"""

import argparse
import contextlib
import io
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.batch import Batch
from jaxfm.data.pipeline import TrainBatches
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_plain
from jaxfm.observe.writers import read_metrics
from jaxfm.programs.train import train
from profiles import command_line, quality, steps

USUAL, RATE, REPEATED, RANDOM = "usual", "rate", "repeated", "random"
KINDS = (USUAL, RATE, REPEATED, RANDOM)
SPECIAL = 5  # the vocabulary begins with tokens that are no words


def run_config(
    kind: str, clip: float, factor: float, seed: int, arguments: argparse.Namespace, cache: pathlib.Path
) -> Config:
    """Returns the config of a run."""
    count = arguments.steps
    words = {
        "train.batch_size": arguments.batch,
        "seed": seed,
        "data.cache": cache,
        "data.row_length": 64,
        "train.steps": count,
        "optim.clip_norm": clip,
        "optim.spike_factor": factor,
        "optim.learning_rate": 3e-2 if kind == RATE else 3e-3,
        "eval.every_steps": count,
        "eval.select": "last",
        "log.every_steps": 1,  # so that each update that is left out has its line
        "log.tensorboard": False,
    }
    return steps.read_config("configs/mlm.py:quickstart", [f"--config.{key}={value}" for key, value in words.items()])


@contextlib.contextmanager
def corrupted(kind: str, at: Sequence[int], vocabulary: int) -> Iterator[None]:
    """Has the batches of updates `at`, from 1, be corrupted as `kind` says."""
    plain = TrainBatches.batch

    def batch(self: TrainBatches, step: int) -> Batch:
        found = plain(self, step)
        if kind not in (REPEATED, RANDOM) or step + 1 not in at:
            return found
        draw = np.random.default_rng(step)
        shape = () if kind == REPEATED else found["tokens"].shape
        tokens = draw.integers(SPECIAL, vocabulary, shape)
        return found | {"tokens": np.where(found["segment_ids"] > 0, tokens, found["tokens"]).astype(np.int32)}

    with mock.patch.object(TrainBatches, "batch", batch):
        yield


def run(kind: str, clip: float, factor: float, seed: int, arguments: argparse.Namespace, folder: pathlib.Path) -> Any:
    """Trains; returns its record."""
    at = range(arguments.steps // 2, arguments.steps, arguments.every)
    config = run_config(kind, clip, factor, seed, arguments, folder / "cache")
    workdir = folder / f"{kind}-{clip:g}-{factor:g}-{seed}"
    loss, ended = float("nan"), ""
    with corrupted(kind, at, 4096), contextlib.redirect_stdout(io.StringIO()):
        try:
            loss = train(config, workdir)["splits"]["valid"]["loss"]
        except UserError as error:
            ended = str(error)
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "train"]
    left_out = [line["step"] for line in lines if line.get("spikes")]
    return {
        "kind": kind,
        "clip_norm": clip,
        "spike_factor": factor,
        "seed": seed,
        "valid_loss": loss,
        "left_out": left_out,
        "corrupted": len(at) if kind in (REPEATED, RANDOM) else 0,
        "caught": len(set(left_out) & set(at)) if kind in (REPEATED, RANDOM) else 0,
        "not_finite": sum(line["skipped"] > 0 for line in lines),
        "ended": ended,
    }


def table(runs: Sequence[dict[str, Any]]) -> Table:
    """Returns what a person reads: a line for each kind and clip, mean and standard deviation over seeds."""
    rows = []
    for kind, clip in dict.fromkeys((each["kind"], each["clip_norm"]) for each in runs):
        own = [each for each in runs if (each["kind"], each["clip_norm"]) == (kind, clip)]
        off, on = ([each for each in own if bool(each["spike_factor"]) == guarded] for guarded in (False, True))
        pairs = {each["seed"]: each["valid_loss"] for each in off}
        gains = [pairs[each["seed"]] - each["valid_loss"] for each in on if each["seed"] in pairs]
        better = sum(gain > 0 for gain in gains)
        caught = f"{sum(each['caught'] for each in on)} of {sum(each['corrupted'] for each in on)}"
        others = sum(len(each["left_out"]) - each["caught"] for each in on)
        rows.append((kind, clip or "none", _summary(off), _summary(on), f"{better} of {len(gains)}", caught, others))
    columns = (
        "runs",
        "clipped at",
        "loss without",
        "loss with",
        "better seeds",
        "corrupted left out",
        "others left out",
    )
    return Table("Validation loss without and with the spike guard", columns, rows)


def _summary(runs: Sequence[dict[str, Any]]) -> str:
    losses = [each["valid_loss"] for each in runs]
    spread = statistics.stdev(losses) if len(losses) > 1 else 0.0
    return f"{statistics.mean(losses):.3f} ({spread:.3f})"


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--clips", default="1,0", help="clip_norm of the runs; 0: not clipped")
    parser.add_argument("--factor", type=float, default=6.0, help="of the guard")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=16, help="rows of an update")
    parser.add_argument("--every", type=int, default=25, help="updates between two corrupted batches")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    clips = command_line.integers("--clips", arguments.clips.split(","))
    kinds = arguments.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"--kinds: {unknown[0]!r} is none of {', '.join(KINDS)}.")
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            for clip in clips:
                for seed in seeds:
                    for factor in (0.0, arguments.factor):
                        runs.append(run(kind, float(clip), factor, seed, arguments, pathlib.Path(folder)))
                        print(runs[-1], flush=True)
                files.write_json(arguments.output, _result(arguments, runs))
    print(to_plain(table(runs)))


def _result(arguments: argparse.Namespace, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    command = quality.shown_command(sys.argv).replace("profiles.spike_guard", "profiles.faults.spike_guard")
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    runs = [{**each, "valid_loss": str(each["valid_loss"]) if each["ended"] else each["valid_loss"]} for each in runs]
    return {"command": command, **quality.machine(), "settings": settings, "runs": runs}


if __name__ == "__main__":
    command_line.run(main)
