"""How well texts are written from texts, beside an encoder-decoder of transformers, copying and retrieval.

  python -m profiles.seq2seq --set=reverse --output=profiles/results/seq2seq_reverse.json
  python -m profiles.seq2seq --set=multi30k --data=../shared/data --output=profiles/results/seq2seq_multi30k.json \
      --reference --seeds=0,1,2 --config.train.steps=3000

reverse    made words of letters, turned round; `sort` orders the letters, `delete` leaves out the vowels, `dates` are
           those of the quickstart of configs/seq2seq.py. There is one right answer: 100 % exact match can be reached
multi30k   English to German (Multi30K, test 2016)
scitldr    abstracts of papers to one sentence (SciTLDR), the best of the references
sgd        the next turn of the system after up to three turns of a dialogue (SGD), with the reply to the most similar
           turns of training by BM25 beside it ("retrieval")

Made sets are trained by configs/seq2seq.py:quickstart and :prefix, the others by :files and :files_prefix, whatever
--config.KEY=VALUE changes of them; --init names weights to start from. --reference trains a Marian-shaped
encoder-decoder of transformers (PyTorch) with the same tokenizer, width and batches from scratch for as many seconds as
jaxfm trained by the first of --ways, its compilation included, and writes greedily. Scores are those of the test split,
or of its first --test pairs. Finished runs in --workdir are taken as they are.
"""

import argparse
import gzip
import json
import pathlib
import random
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.quickstart_dates import build as build_dates
from jaxfm.data.records.text_pairs import read_text_pairs
from jaxfm.data.text.bm25 import Bm25
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.generation import METRICS, baseline_scores, generation_scores
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.train import train
from jaxfm.schema import flatten, to_dict
from profiles import command_line, quality

REFERENCE = "profiles/hf_seq2seq.py"
WAYS = ("diffusion", "prefix")
SPLITS = ("train", "valid", "test")
Pair = tuple[str, Sequence[str]]  # source, references
_MADE: Mapping[str, int] = {"train": 5000, "valid": 200, "test": 500}
_TURNS, _VALID_TURNS = 3, 500


def _made(rule: Callable[[str], str]) -> Callable[[pathlib.Path, str], Iterator[Pair]]:
    """Returns what makes pairs of letters with spaces between them, and what a rule makes of these."""

    def pairs(data: pathlib.Path, split: str) -> Iterator[Pair]:
        del data
        low, high = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}[split]
        rng, made = random.Random(f"pairs of letters {split}"), 0
        while made < _MADE[split]:
            word = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 10)))
            target = rule(word)
            if target and low <= uniform_hash(word) < high:
                yield " ".join(word), [" ".join(target)]
                made += 1

    return pairs


def _dates(data: pathlib.Path, split: str) -> Iterator[Pair]:
    del data
    for _, (source, target) in build_dates(split):
        yield source, [target]


def _multi30k(data: pathlib.Path, split: str) -> Iterator[Pair]:
    folder = data / "multi30k-en-de"
    lines = f"lines:train={folder / 'train'},valid={folder / 'valid'},test={folder / 'test2016'}"
    for pair in read_text_pairs(lines, [split])[split].pairs:
        yield pair.source, pair.targets


def _scitldr(data: pathlib.Path, split: str) -> Iterator[Pair]:
    for pair in read_text_pairs(f"jsonl:{data / 'scitldr-a'}", [split])[split].pairs:
        yield pair.source, pair.targets


def _dialogues(data: pathlib.Path, split: str) -> Iterator[Pair]:
    """Yields up to three turns, and what the system says next; held-out ones spread by a hash."""
    pairs: list[Pair] = []
    path = data / "sgd-dialogue" / (f"{split}.jsonl.gz" if split == "train" else f"{split}.jsonl")
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
        for line in file:
            turns = json.loads(line)["turns"]
            for number, turn in enumerate(turns):
                if number and turn["speaker"] == "SYSTEM":
                    before = turns[max(number - _TURNS, 0) : number]
                    said = (f"{each['speaker'].lower()}: {each['text']}" for each in before)
                    pairs.append((" ".join(said), [turn["text"]]))
    if split != "train":
        pairs = sorted(pairs, key=lambda pair: uniform_hash(pair[0]))[:_VALID_TURNS]
    yield from pairs


# Name -> its pairs of a split; whether they are made.
SETS: Mapping[str, tuple[Callable[[pathlib.Path, str], Iterable[Pair]], bool]] = {
    "reverse": (_made(lambda word: word[::-1]), True),
    "sort": (_made(lambda word: "".join(sorted(word))), True),
    "delete": (_made(lambda word: "".join(letter for letter in word if letter not in "aeiou")), True),
    "dates": (_dates, True),
    "multi30k": (_multi30k, False),
    "scitldr": (_scitldr, False),
    "sgd": (_dialogues, False),
}


def write_set(name: str, data: pathlib.Path, folder: pathlib.Path, limits: Mapping[str, int]) -> None:
    """Writes train.jsonl, valid.jsonl and test.jsonl, unless they are there."""
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            pairs = list(SETS[name][0](data, split))
            if limits[split]:
                pairs = pairs[: limits[split]]
            rows = [{"source": source, "target": list(targets)} for source, targets in pairs]
            files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_set(folder: pathlib.Path, split: str) -> tuple[list[str], list[list[str]]]:
    """Returns sources and references."""
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [row["source"] for row in rows], [row["target"] for row in rows]


def config_of(name: str, way: str, folder: pathlib.Path, init: str, words: Sequence[str]) -> Config:
    """Returns the config of a set and a way, changed by words --config.KEY=VALUE."""
    variants = {"diffusion": "quickstart", "prefix": "prefix"} if SETS[name][1] else {}
    variant = variants.get(way, "files" if way == "diffusion" else "files_prefix")
    overrides: dict[str, Any] = {"data.source": f"jsonl:{folder.resolve()}"}
    if init:
        overrides |= {"model.init": init, "model.preset": "", "model.tokenizer": ""}
    config = resolve_config(f"seq2seq:{variant}", overrides)
    return resolve_config(config, command_line.values(words, flatten(to_dict(config))))


def our_run(config: Config, seed: int, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains jaxfm, or reads the finished run; returns the scores of test and the seconds of training."""
    report = train(resolve_config(config, {"seed": seed}), workdir)
    scores = report["splits"]["test"]
    known = {key: scores[key] for key in ("loss", *METRICS) if key in scores}
    training = report["training"]
    goodput = training["goodput"]
    return {
        **known,
        "steps": training["steps"],
        "parameters": report["model"]["parameters"],
        "seconds_of_training": sum(goodput.get(each, 0.0) for each in ("train", "compile", "wait for data")),
    }


def their_run(
    config: Config, folder: pathlib.Path, run: pathlib.Path, seconds: float, seed: int, kept: pathlib.Path
) -> dict[str, Any]:
    """Trains the reference for as many seconds; returns its scores of test."""
    shape = files.read_json(run / "task.json")["encoder"]
    settings = {
        "seconds": seconds,
        "width": shape["hidden_size"],
        "layers": max(shape["num_layers"] // 2, 1),  # in the encoder, and as many in the decoder
        "heads": shape["num_heads"],
        "ffn": shape["ffn_size"],
        "batch": 32,
        "lr": config.optim.learning_rate,
        "seed": seed,
    }
    if not kept.is_file():
        words = [f"--{name}={value:g}" for name, value in settings.items()]
        command = [REFERENCE, str(folder), str(run / "tokenizer"), f"--predictions={kept}.texts.json", *words]
        files.write_json(kept, quality.last_json(quality.watched_run(command)))
    texts = files.read_json(pathlib.Path(f"{kept}.texts.json"))
    _, references = read_set(folder, "test")
    return {**generation_scores(texts, references), **files.read_json(kept)}


def beside(folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Returns scores of what is no model: copying, and the reply to the most similar source of training."""
    sources, references = read_set(folder, "test")
    known, replies = read_set(folder, "train")
    nearest, _ = Bm25(known).top(sources, 1)
    retrieved = [replies[index][0] for index in nearest[:, 0].tolist()]
    return {**baseline_scores(sources, references), "retrieval": generation_scores(retrieved, references)}


def summary(record: Mapping[str, Any]) -> Table:
    """Lays out a row a program: means over seeds, and the deviation of exact match and BLEU."""
    rows = []
    for name, scores in record["beside"].items():
        rows.append((name, None, *(scores[metric] for metric in METRICS), None))
    for name, seeds in record["programs"].items():
        every = list(seeds.values())
        means = [sum(each[metric] for each in every) / len(every) for metric in METRICS]
        spread = quality.summary(every, {"bleu": "bleu"})["bleu"]["sd"]
        rows.append((name, len(every), *means, spread))
    return Table(record["set"], ("program", "seeds", *METRICS, "sd of bleu"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--set", required=True, help=f"one of {', '.join(SETS)}")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/seq2seq/NAME of --output, if not given")
    parser.add_argument("--ways", default=",".join(WAYS), help="with commas between them")
    parser.add_argument("--init", default="", help="URI of weights to start from; without it, from scratch")
    parser.add_argument("--reference", action="store_true", help="train transformers' encoder-decoder too")
    parser.add_argument("--limit", type=int, default=0, help="most training pairs; 0: all")
    parser.add_argument("--test", type=int, default=0, help="most test pairs; 0: all")
    parser.add_argument("--seeds", default="0", help="with commas between them")
    arguments, words = command_line.parse(parser, argv)
    ways, seeds = arguments.ways.split(","), command_line.integers("--seeds", arguments.seeds.split(","))
    if arguments.set not in SETS:
        raise UserError(f"--set: {arguments.set!r} is none of them. {did_you_mean(arguments.set, SETS)}")
    for way in ways:
        if way not in WAYS:
            raise UserError(f"--ways: {way!r} is none of them. {did_you_mean(way, WAYS)}")
    if not SETS[arguments.set][1] and not arguments.data.is_dir():
        raise UserError(f"--data={arguments.data}: there is no such folder.")
    run_all(arguments, ways, seeds, words)


def run_all(arguments: argparse.Namespace, ways: Sequence[str], seeds: Sequence[int], words: Sequence[str]) -> None:
    """Trains all that is not there yet and writes the figures after each run."""
    home = arguments.workdir or pathlib.Path("runs/seq2seq") / arguments.output.stem
    folder = home / "data"
    write_set(arguments.set, arguments.data, folder, {"train": arguments.limit, "valid": 0, "test": arguments.test})
    record: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), "set": arguments.set}
    record |= {"beside": beside(folder), "programs": {}}
    for seed in seeds:
        for number, way in enumerate(ways):
            config = config_of(arguments.set, way, folder, arguments.init, words)
            run = home / f"{way}_{seed}"
            found = our_run(config, seed, run)
            record["programs"].setdefault(f"jaxfm, {way}", {})[str(seed)] = found
            if arguments.reference and not number:
                seconds = found["seconds_of_training"]
                theirs = their_run(config, folder, run, seconds, seed, home / f"reference_{seed}.json")
                record["programs"].setdefault("transformers, Marian", {})[str(seed)] = theirs
            files.write_json(arguments.output, to_json(record))
            print(to_markdown(summary(record)), flush=True)


if __name__ == "__main__":
    command_line.run(main)
