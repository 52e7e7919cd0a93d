"""Is an encoder better that predicts next tokens first and masked ones later? Beside masked tokens alone, equal steps.

  python -m profiles.causal_then_masked --corpus=../shared/data/mlm-corpus --ner=../shared/data/wikigold \
      --seeds=0,1,2 --steps=4000 --workdir=runs/causal_then_masked --output=profiles/results/causal_then_masked.json
  python -m profiles.causal_then_masked ... --preset=bert_tiny --until=0.25,0.5 --config.train.batch_size=32

For each seed and each share of --until the encoder of --preset is trained from scratch by configs/mlm.py on --corpus,
the first part of the updates on next tokens (config.task.causal_until), then scored on held-out text under the same
masks as every other run, and fine-tuned on --ner, --fine_tunings times with other seeds. 0, masked tokens alone, is
always one of the shares. Seeds draw weights, batches and masks; runs of one seed begin with the same weights.

Equal compute means an equal number of updates of equal batches. The encoder's work is then the same or less (a causal
token sees half as many), but the head scores all tokens in a causal step and the masked ones alone in the others: the
seconds of each run and the operations by formula are beside its scores. --config.KEY=VALUE changes all pretraining.
A difference is the mean over seeds of the paired differences to masked tokens alone, with a 95 % interval by Student's
t. Finished runs, a file each in --workdir, are taken as they are, and one that was stopped goes on.
"""

import argparse
import pathlib
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import read_metrics
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from profiles import command_line, quality, steps
from profiles.augmentation import gain

MASKED_ALONE = 0.0
# Name in a record -> whether more is better.
SCORES = {"masked_loss": False, "masked_accuracy": True, "ner_f1": True}


def shares(words: Sequence[str]) -> list[float]:
    """Returns the shares of --until, 0 first. Raises UserError for a word that is not a share of a run below 1."""
    found = [MASKED_ALONE]
    for word in words:
        try:
            share = float(word)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            raise UserError(f"--until: {word!r} must be a number of at least 0 and below 1, or several with commas.")
        if share not in found:
            found.append(share)
    return found


def pretraining(arguments: argparse.Namespace, changes: Sequence[str], until: float, seed: int) -> Config:
    """Returns the config of a pretraining run; its changes come after what this script sets."""
    own = [
        f"--config.data.source=text:{arguments.corpus}",
        f"--config.data.cache={arguments.workdir / 'cache'}",
        f"--config.train.steps={arguments.steps}",
        "--config.train.batch_size=64",
        "--config.task.evaluate=()",
        "--config.task.logits_chunk=32",
        f"--config.eval.every_steps={max(arguments.steps // 20, 1)}",
        "--config.eval.patience=0",
        "--config.eval.select=last",
    ]
    values = steps.read_values(f"configs/mlm.py:{arguments.preset}", [*own, *changes])
    return replaced(from_config_dict(values), {"task.causal_until": until, "seed": seed})


def fine_tuning(arguments: argparse.Namespace, first: pathlib.Path, seed: int) -> Config:
    """Returns the config of a run of NER from the weights of another one: those after its last update."""
    changes = [
        f"--config.model.init=run:{first.resolve()}",
        f"--config.data.source=conll:{arguments.ner}",
        f"--config.seed={seed}",
        *([f"--config.train.steps={arguments.ner_steps}"] if arguments.ner_steps else []),
    ]
    return steps.read_config("configs/ner.py:files", changes)


def curve(workdir: pathlib.Path) -> list[list[float]]:
    """Returns [step, held-out masked loss] of every evaluation of a run."""
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "valid"]
    return [[line["step"], line["loss"]] for line in lines]


def run_once(arguments: argparse.Namespace, changes: Sequence[str], until: float, seed: int) -> dict[str, Any]:
    """Returns the record of a run that is done, or pretrains and fine-tunes; scores but the loss are in percent."""
    name = f"until{until:g}_seed{seed}"
    kept = arguments.workdir / f"{name}.json"
    if kept.is_file():
        return files.read_json(kept)
    folder = arguments.workdir / name
    report = train(pretraining(arguments, changes, until, seed), folder)
    training, valid = report["training"], report["splits"]["valid"]
    f1 = []
    for number in range(arguments.fine_tunings):
        tuned = arguments.workdir / f"{name}_ner{number}"
        f1.append(100 * train(fine_tuning(arguments, folder, number), tuned)["splits"]["test"]["f1"])
        shutil.rmtree(tuned)
    record = {
        "masked_loss": valid["loss"],
        "masked_accuracy": 100 * valid["accuracy"],
        "ner_f1": statistics.mean(f1),
        "ner_f1_of_each": f1,
        "curve": curve(folder),
        "updates": training["steps"],
        "seconds": training["seconds"],
        "useful_tokens_per_second": training["useful_tokens_per_second"],
    }
    files.write_json(kept, record)
    scores = ", ".join(f"{score} {record[score]:.3f}" for score in SCORES)
    print(f"{name}: {scores}, {record['seconds']:.0f} s", flush=True)
    return record


def summary(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns share -> score -> mean, sample standard deviation and paired difference to masked tokens alone.

    `runs` are the records: share -> seed -> record.
    """
    alone = runs[f"{MASKED_ALONE:g}"]
    found: dict[str, Any] = {}
    for share, seeds in runs.items():
        for score in (*SCORES, "seconds"):
            values = {seed: run[score] for seed, run in seeds.items()}
            listed = list(values.values())
            found.setdefault(share, {})[score] = {
                "mean": statistics.mean(listed),
                "sd": statistics.stdev(listed) if len(listed) > 1 else None,
                "difference": gain(values, {seed: alone[seed][score] for seed in seeds}),
            }
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lays out a row for each share and score."""
    rows = []
    for share, scores in found.items():
        for score, each in scores.items():
            low, high = each["difference"]["interval"] or (None, None)
            own = (None, None, None) if float(share) == MASKED_ALONE else (each["difference"]["mean"], low, high)
            rows.append((share, score, each["difference"]["seeds"], each["mean"], each["sd"], *own))
    columns = ("causal until", "score", "seeds", "mean", "sd", "difference", "from", "to")
    return Table("Next tokens first, masked ones later", columns, rows, formats=dict.fromkeys(columns[3:], ".3f"))


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--corpus", type=pathlib.Path, required=True, help="folder of plain text with a valid split")
    parser.add_argument("--ner", type=pathlib.Path, required=True, help="folder of tagged sentences, with a test split")
    parser.add_argument("--preset", default="bert_mini", help="variant of configs/mlm.py")
    parser.add_argument("--until", default="0.5", help="shares of the run that predict next tokens, with commas")
    parser.add_argument("--steps", type=int, default=4000, help="updates of each pretraining run")
    parser.add_argument("--seeds", default="0,1,2", help="of pretraining")
    parser.add_argument("--fine_tunings", type=int, default=3, help="of each encoder; their mean counts")
    parser.add_argument("--ner_steps", type=int, default=0, help="updates of a fine-tuning; 0: as configs/ner.py has")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder that keeps the runs")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    arguments, changes = command_line.parse(parser, argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    asked = shares(arguments.until.split(","))
    for flag, folder in (("--corpus", arguments.corpus), ("--ner", arguments.ner)):
        if not folder.is_dir():
            raise UserError(f"{flag}={folder}: is not a folder.")
    for flag, count in (("--steps", arguments.steps), ("--fine_tunings", arguments.fine_tunings)):
        if count < 1:
            raise UserError(f"{flag}={count}: must be at least 1.")
    settings = {name: getattr(arguments, name) for name in ("preset", "steps", "fine_tunings", "ner_steps")}
    facts: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), **steps.devices()}
    runs: dict[str, dict[str, Any]] = {}
    for seed in seeds:  # all shares of a seed, then the next: an answer takes shape while runs go on
        for until in asked:
            runs.setdefault(f"{until:g}", {})[str(seed)] = run_once(arguments, changes, until, seed)
        result = {**facts, **settings, "changes": list(changes), "runs": runs, "summary": summary(runs)}
        files.write_json(arguments.output, result)
    print(to_markdown(table(summary(runs))))


if __name__ == "__main__":
    command_line.run(main)
