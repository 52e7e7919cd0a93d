"""Fine-tuning speed of jaxfm and of transformers + torch, in turns on one machine: useful sub-word tokens a second.

  python -m profiles.against_transformers --reference=hf_ner.py --source=conll:DIR --output=FILE.json [--bf16]
  python -m profiles.against_transformers --task=classification --reference=profiles/hf_classification.py \
      --source=tsv:DIR/sst2 --output=FILE.json

Both train on the first --limit examples of the training split, the same number a step, each time in a process of its
own, A B A B ..., so that a machine that slows down slows both. A useful token is a piece or a special token, never
padding. The rate is over the training loop alone: no imports, reading, tokenization or scoring, and for jaxfm no
compilation either; a second rate of jaxfm's counts the compilation of the step in. All in f32; --bf16 adds turns of
both in bf16 (the reference under its own mixed precision), --best="..." turns of the reference with more options of
its own script, such as --best="--bf16 --group_by_length". `--config.KEY=VALUE` goes to jaxfm as it is.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.records.examples import read_examples
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.hub.locate import locate
from profiles import classification_quality, command_line, ner_quality
from profiles.quality import MINILM, NEVER, REFERENCE_BATCH, choose_rows, last_json, machine, shown_command

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCORED = 32  # examples scored after training, by both: scoring is not timed, so a few are enough


@dataclasses.dataclass(frozen=True)
class Workload:
    """Data that both programs can read.

    Attributes:
      lengths: [E] tokens of each training example, cut where the reference cuts them.
      reference: the reference's arguments that name the data.
      config: jaxfm's config file.
      settings: keys of it that name the data.
    """

    lengths: np.ndarray
    reference: Sequence[str]
    config: str
    settings: Mapping[str, Any]


def ner_workload(source: str, limit: int, folder: pathlib.Path) -> Workload:
    """Writes the first `limit` training sentences as train.conll, a few of them as valid and test."""
    sentences = read_tagged(source, ["train"], columns=Columns("", "", ""))["train"].sentences[:limit]
    for split, count in (("train", limit), ("valid", SCORED), ("test", SCORED)):
        ner_quality.write_sentences(sentences[:count], folder / f"{split}.conll")
    lengths = ner_quality.training_lengths(f"conll:{folder}", locate(MINILM, "MINILM"))
    settings = {"data.source": f"conll:{folder}"}
    return Workload(lengths, ner_quality.data_files(folder), "configs/ner.py:files", settings)


def classification_workload(source: str, limit: int, folder: pathlib.Path) -> Workload:
    """Writes the first `limit` training examples as train.jsonl, a few of them as valid."""
    data = classification_quality.data_set(source)
    examples = read_examples(source, ["train"], columns=data.columns, kind=data.kind)["train"].examples[:limit]
    classification_quality.write_examples(examples, folder / "train.jsonl")
    classification_quality.write_examples(examples[:SCORED], folder / "valid.jsonl")
    settings = {
        "data.source": f"jsonl:{folder}",
        "data.text_column": "text",
        "data.label_column": "label",
        "data.pair_column": "pair" if examples[0].pair is not None else "",
        "classification.kind": data.kind,
        "eval.metric": data.reported[0],
    }
    lengths = classification_quality.training_lengths(examples, locate(MINILM, "MINILM"))
    reference = [str(folder), f"--kind={data.kind}"]
    return Workload(lengths, reference, "configs/classification.py:files", settings)


WORKLOADS: dict[str, Callable[[str, int, pathlib.Path], Workload]] = {
    "ner": ner_workload,
    "classification": classification_workload,
}


def reference_command(script: str, workload: Workload, epochs: float, more: Sequence[str] = ()) -> list[str]:
    """Returns the reference's command line; `more` are options of its own."""
    model = str(locate(MINILM, "config.model.init"))
    options = ["--epochs", f"{epochs:g}", "--lr", "1e-4", "--batch", str(REFERENCE_BATCH), "--seed", "0"]
    return [sys.executable, script, model, *workload.reference, *options, *more]


def jaxfm_command(
    workload: Workload, workdir: pathlib.Path, epochs: float, precision: str, changes: Sequence[str]
) -> list[str]:
    """Returns jaxfm's command line: the same examples a step, one evaluation and one checkpoint at the end."""
    # No longer than they need be: each row's attention costs its length squared.
    shape = choose_rows(workload.lengths, REFERENCE_BATCH, seed=0, at_least=int(workload.lengths.max()))
    values = {
        **workload.settings,
        "data.row_length": shape.row_length,
        "train.batch_size": shape.rows,
        "train.epochs": epochs,
        "train.precision": precision,
        "optim.learning_rate": 1e-4,
        "eval.select": "last",
        "eval.every_steps": NEVER,
    }
    settings = [f"--config.{key}={value}" for key, value in values.items()]
    program = [sys.executable, "-m", "jaxfm.train", f"--config={workload.config}", f"--workdir={workdir}"]
    return [*program, *settings, *changes]


def reference_rates(printed: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Returns the reference's record from the object it printed."""
    steps = printed["epochs"] * -(-examples // printed["batch"])
    tokens = printed["tokens_per_s"] * printed["train_s"]
    return {
        "tokens_per_second": printed["tokens_per_s"],
        "useful_tokens": round(tokens),
        "examples_per_step": round(examples * printed["epochs"] / steps, 2),
    }


def jaxfm_rates(report: Mapping[str, Any], examples: int) -> dict[str, Any]:
    """Returns jaxfm's record from its report.json."""
    training = report["training"]
    goodput = training["goodput"]
    busy = goodput["train"] + goodput["wait for data"]
    tokens = training["useful_tokens_per_second"] * busy
    return {
        "tokens_per_second": round(training["useful_tokens_per_second"], 1),
        "tokens_per_second_with_compilation": round(tokens / (busy + goodput["compile"]), 1),
        "compile_seconds": round(goodput["compile"], 2),
        "useful_tokens": round(tokens),
        "useful_token_share": round(training["useful_token_share"], 4),
        "examples_per_step": round(examples * training["epochs"] / training["steps"], 2),
    }


def timed(command: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Runs a command from the repository's root; returns what it printed, its wall seconds and the load before it."""
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    load, start = os.getloadavg()[0], time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout, {"process_seconds": round(time.perf_counter() - start, 1), "load_before": round(load, 2)}


def compare(runs: Mapping[str, Sequence[Mapping[str, Any]]], rate: str = "tokens_per_second") -> dict[str, Any]:
    """Returns medians, extremes and, for each program of jaxfm and each of the reference, the ratio of their medians.

    The spread of a ratio is the least and the most that a turn of both gives by itself.
    """
    medians = {name: statistics.median(run[rate] for run in turns) for name, turns in runs.items()}
    ratios = {}
    for ours in (name for name in runs if name.startswith("jaxfm")):
        for theirs in (name for name in runs if name.startswith("reference")):
            by_turn = [mine[rate] / other[rate] for mine, other in zip(runs[ours], runs[theirs], strict=True)]
            ratios[f"{ours} / {theirs}"] = {
                "ratio": round(medians[ours] / medians[theirs], 2),
                "of_turns": [round(min(by_turn), 2), round(max(by_turn), 2)],
            }
    return {
        "median_tokens_per_second": medians,
        "extremes": {name: [min(r[rate] for r in turns), max(r[rate] for r in turns)] for name, turns in runs.items()},
        "ratios": ratios,
    }


def table(result: Mapping[str, Any]) -> str:
    """Returns the comparison as a Markdown table."""
    compared, best = result["compared"], result["best"]
    names = {"reference": "transformers + torch, f32", "reference_bf16": "transformers + torch, bf16"}
    names |= {"reference_best": f"transformers + torch, {best}", "jaxfm": "jaxfm, f32", "jaxfm_bf16": "jaxfm, bf16"}
    base = compared["median_tokens_per_second"]["reference"]
    lines = ["| program | useful tokens/s: median (least to most) | against f32 reference |", "|---|---|---:|"]
    for name in names:
        if name not in result["runs"]:
            continue
        median, (least, most) = compared["median_tokens_per_second"][name], compared["extremes"][name]
        lines.append(f"| {names[name]} | {median:,.0f} ({least:,.0f} to {most:,.0f}) | {median / base:.2f} |")
        if name.startswith("jaxfm"):
            whole = statistics.median(run["tokens_per_second_with_compilation"] for run in result["runs"][name])
            lines.append(f"| {names[name]}, compilation counted in | {whole:,.0f} | {whole / base:.2f} |")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace, changes: Sequence[str], folder: pathlib.Path) -> dict[str, Any]:
    """Runs all turns and returns what is written to --output."""
    workload = WORKLOADS[arguments.task](arguments.source, arguments.limit, folder)
    examples = len(workload.lengths)
    theirs = {"reference": []} | ({"reference_bf16": ["--bf16"]} if arguments.bf16 else {})
    theirs |= {"reference_best": shlex.split(arguments.best)} if arguments.best else {}
    ours = {"jaxfm": "f32"} | ({"jaxfm_bf16": "bf16"} if arguments.bf16 else {})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*theirs, *ours)}
    for turn in range(arguments.repeats):
        for name, records in runs.items():
            if name in ours:
                workdir = folder / f"{name}_{turn}"
                _, facts = timed(jaxfm_command(workload, workdir, arguments.epochs, ours[name], changes))
                rates = jaxfm_rates(files.read_json(workdir / "report.json"), examples)
            else:
                printed, facts = timed(reference_command(arguments.reference, workload, arguments.epochs, theirs[name]))
                rates = reference_rates(last_json(printed), examples)
            records.append(rates | facts)
            print(f"turn {turn}: {name} {rates['tokens_per_second']:,.0f} useful tokens/s", file=sys.stderr, flush=True)
    return {
        "data": f"first {examples} training examples of {pathlib.Path(arguments.source).name}",
        "epochs": arguments.epochs,
        "best": arguments.best,
        "command": shown_command(sys.argv),
        **machine(),
        "compared": compare(runs),
        "runs": runs,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the JSON and prints the table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--reference", required=True, help="the torch script, see profiles/README.md")
    parser.add_argument("--task", choices=WORKLOADS, default="ner")
    parser.add_argument("--source", required=True, help="conll:DIR; of classification: a set of classification_quality")
    parser.add_argument("--output", required=True, help="JSON file of results")
    parser.add_argument("--limit", type=int, default=1000, help="training examples")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3, help="turns of each program")
    parser.add_argument("--bf16", action="store_true", help="also both in bf16")
    parser.add_argument("--best", default="", help="also the reference with these options of its own")
    arguments, changes = command_line.parse(parser, argv)
    arguments.reference = str(pathlib.Path(arguments.reference).resolve())
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, changes, pathlib.Path(folder))
    files.write_json(arguments.output, result)
    print(table(result))


if __name__ == "__main__":
    command_line.run(main)
