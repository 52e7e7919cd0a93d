"""Runs of seconds on made data for the faults: each has switched on what an exact resume could lose.

The tokenizer, the data and the shards are written once into a folder; a run is a command over them.
"""

import dataclasses
import json
import pathlib
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxfm.programs.prepare import prepare
from profiles.quality import machine, shown_command

PERSONS = ("ada", "boole", "curry", "dedekind", "emmy", "frege", "gauss", "hilbert")
PLACES = ("arles", "bergen", "cadiz", "delft", "essen", "ferrara", "ghent", "hull")
FILLERS = ("met", "in", "saw", "the", "old", "town", "near", "left", "and", "went", "to", ".")
SIZES = {"train": 400, "valid": 60, "test": 60}
SAVE_STEPS = 5  # updates between two checkpoints of every run


@dataclasses.dataclass(frozen=True)
class SmallRun:
    """A run that is killed or damaged.

    Attributes:
      name: of the case.
      why: what of an exact resume it tries.
      write: writes its data into a folder.
      keys: of the config, without "config.".
    """

    name: str
    why: str
    write: Callable[[pathlib.Path], None]
    keys: Mapping[str, Any]

    def command(self, folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
        """Returns the command of the run in `workdir`, over what `write_all` wrote into `folder`."""
        keys = {**_COMMON, **self.keys}
        places = {"folder": str(folder)}
        words = [f"--config.{key}={str(value).format(**places)}" for key, value in keys.items() if key != "config"]
        return [sys.executable, "-m", "jaxfm.train", str(keys["config"]), f"--workdir={workdir}", *words]


_COMMON = {
    "model.init": "scratch",
    "model.preset": "bert_tiny",
    "model.tokenizer": "dir:{folder}/tokenizer",
    "model.scan_layers": True,  # compiles faster
    "data.row_length": 48,
    "data.cache": "{folder}/cache",
    "optim.learning_rate": 2e-3,
    "train.steps": 40,
    "train.min_steps": 0,
    "train.batch_size": 8,
    "eval.batch_size": 16,
    "eval.every_steps": 10,
    "checkpoint.every_steps": SAVE_STEPS,
    "checkpoint.keep_optimizer": True,  # the optimizer's state is compared at the end
    "log.every_steps": 1,
}


def write_all(folder: pathlib.Path) -> None:
    """Writes tokenizer and data of all runs into `folder`."""
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *PERSONS, *PLACES)
    (tokenizer / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (tokenizer / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    for run in RUNS:
        run.write(folder)


def made_by(argv: Sequence[str] | None, file: str) -> dict[str, Any]:
    """Returns what a result says of how it was made: the script's command and the machine."""
    words = sys.argv[1:] if argv is None else argv
    command = shown_command([file, *words]).replace("profiles.", "profiles.faults.", 1)
    return {"command": command, **machine()}


def _sentence(draw: random.Random) -> tuple[list[str], list[str]]:
    """Returns words of names and fillers, and their tags."""
    words, tags = [], []
    for _ in range(draw.randint(2, 5)):
        kind, names = draw.choice((("PER", PERSONS), ("LOC", PLACES)))
        words += [draw.choice(FILLERS), draw.choice(names)]
        tags += ["O", f"B-{kind}"]
    return words, tags


def _write_lines(folder: pathlib.Path, ending: str, of_draw: Callable[[random.Random], str]) -> None:
    folder.mkdir()
    for seed, (split, count) in enumerate(SIZES.items()):
        draw = random.Random(seed)
        text = "".join(of_draw(draw) + "\n" for _ in range(count))
        (folder / f"{split}.{ending}").write_text(text, encoding="utf-8")


def _write_tagged(folder: pathlib.Path) -> None:
    def sentence(draw: random.Random) -> str:
        return "".join(f"{word} {tag}\n" for word, tag in zip(*_sentence(draw), strict=True))

    _write_lines(folder / "tagged", "conll", sentence)


def _write_labelled(folder: pathlib.Path) -> None:
    def example(draw: random.Random) -> str:
        words, tags = _sentence(draw)
        return json.dumps({"text": " ".join(words), "label": tags[1][2:]})

    _write_lines(folder / "labelled", "jsonl", example)


def _write_pairs(folder: pathlib.Path) -> None:
    def pair(draw: random.Random) -> str:
        numbers = draw.sample(range(len(PERSONS)), 2)
        texts = [[draw.choice(FILLERS), *(names[number] for number in numbers)] for names in (PERSONS, PLACES)]
        return json.dumps(dict(zip(("anchor", "positive"), map(" ".join, texts), strict=True)))

    _write_lines(folder / "pairs", "jsonl", pair)


def write_text(folder: pathlib.Path) -> None:
    """Writes the text that `_write_shards` prepares: `folder`/text/SPLIT.txt."""
    _write_lines(folder / "text", "txt", lambda draw: " ".join(_sentence(draw)[0]) + "\n")


def prepare_command(folder: pathlib.Path, output: pathlib.Path, split: str = "train") -> list[str]:
    """Returns the command that prepares a split of the text of `write_text`, in many portions."""
    words = {
        "input": f"text:{folder}/text",
        "split": split,
        "tokenizer": f"dir:{folder}/tokenizer",
        "output": output,
        "row_length": 48,
        "deduplicate": "exact",
        "shard_documents": 25,
        "workers": 1,
    }
    return [sys.executable, "-m", "jaxfm.prepare", *(f"--{name}={value}" for name, value in words.items())]


def _write_shards(folder: pathlib.Path) -> None:
    write_text(folder)
    for split in ("train", "valid"):
        prepare(
            f"text:{folder / 'text'}",
            folder / "shards" / split,
            f"dir:{folder / 'tokenizer'}",
            split=split,
            row_length=48,
            shard_documents=100,
            workers=1,
        )


RUNS = (
    SmallRun(
        "ner",
        "packed rows, dropout, a moving average, the mean of the best checkpoints, early stopping",
        _write_tagged,
        {
            "config": "ner:files",
            "data.source": "conll:{folder}/tagged",
            "task.overlap": 8,
            "adapt.ema": 0.9,
            "adapt.average_best": 2,
            "eval.patience": 3,
        },
    ),
    SmallRun(
        "masked_lm",
        "prepared shards, masks drawn anew, a growing batch",
        _write_shards,
        {
            "config": "mlm:bert_tiny",
            "data.source": "array_record:{folder}/shards",
            "train.first_batch_size": 4,
            "train.batch_size": 8,
            "train.batch_warmup_steps": 20,
        },
    ),
    SmallRun(
        "classification",
        "low-rank updates, accumulation, label smoothing",
        _write_labelled,
        {
            "config": "classification:files",
            "data.source": "jsonl:{folder}/labelled",
            "adapt.lora.rank": 4,
            "train.accumulate": 2,
            "task.loss.label_smoothing": 0.1,
        },
    ),
    SmallRun(
        "embedding",
        "cached gradients of a loss over the whole batch",
        _write_pairs,
        {
            "config": "embedding:files",
            "data.source": "jsonl:{folder}/pairs",
            "data.window": 24,
            "train.accumulate": 2,
        },
    ),
)
BY_NAME = {run.name: run for run in RUNS}
