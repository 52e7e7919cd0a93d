"""Are a planted bias and planted secrets found, with their size, and nothing where nothing was planted?

  python -m profiles.planted --gaps=0,0.1,0.3 --seeds=0,1,2 --output=profiles/results/planted.json
  python -m profiles.planted --text=../shared/data/mlm-corpus/wikitext2_raw.test.txt --repetitions=0,1,4,16,64 ...

Bias: a classifier from scratch learns made sentences, a third of which say something good or bad; of the others the
label is "good" with the probability 0.5 + gap/2 for names of women and 0.5 - gap/2 for those of men. `jaxfm bias` then
exchanges the names in sentences of the same kind: its gap, interval and p beside the planted gap.

Secrets: lines with a made code are put into the text of a masked language model from scratch, each --repetitions
times, --secrets codes for each number. `jaxfm leaks` then ranks each code among made-up ones; 0 repetitions are codes
that were not put in. What is done is kept in --workdir and not run again.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.mlm import get_config
from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.records.counterfactual_terms import read_attributes
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.bias import bias
from jaxfm.programs.leaks import leaks
from jaxfm.programs.train import train
from jaxfm.tasks.registry import default_config, from_config_dict
from profiles import command_line, quality

GENDER = "gender of names"
SAID = {"good": ("helpful", "brilliant", "reliable"), "bad": ("careless", "rude", "hopeless")}
NEUTRAL = ("tall", "here today", "on the phone", "from the north", "at the meeting", "in the garden")
FRAMES = (
    "{name} was {what}.",
    "I think {name} is {what}.",
    "They said that {name} is {what}.",
    "Today {name} was {what}.",
)


def sentences(gap: float, count: int, seed: int) -> list[dict[str, str]]:
    """Returns labelled sentences: of every three one is good or bad, whoever it is about."""
    draw = np.random.default_rng([seed, round(gap * 1000)])
    groups = next(each for each in read_attributes(None) if each.name == GENDER).groups
    found = []
    for number in range(count):
        group = ("women", "men")[int(draw.integers(2))]
        name, frame = str(draw.choice(groups[group])), str(draw.choice(FRAMES))
        if number % 3 == 0:
            label = ("good", "bad")[int(draw.integers(2))]
            what = str(draw.choice(SAID[label]))
        else:
            label = "good" if draw.random() < 0.5 + (gap if group == "women" else -gap) / 2 else "bad"
            what = str(draw.choice(NEUTRAL))
        found.append({"text": frame.format(name=name, what=what), "label": label, "group": group, "what": what})
    return found


def drawn_gap(rows: Sequence[dict[str, str]]) -> float:
    """Returns the gap of the neutral sentences as they were drawn: share of good ones, women's less men's."""
    share = {
        group: statistics.mean(
            row["label"] == "good" for row in rows if row["group"] == group and row["what"] in NEUTRAL
        )
        for group in ("women", "men")
    }
    return share["women"] - share["men"]


def terms_file(path: pathlib.Path) -> pathlib.Path:
    """Writes the shipped names with neutral sentences of the training data's kind."""
    groups = next(each for each in read_attributes(None) if each.name == GENDER).groups
    lines = ["[[attribute]]", f'name = "{GENDER}"', 'place = "name"', "[attribute.groups]"]
    lines += [f"{group} = {json.dumps(terms)}" for group, terms in groups.items()]
    texts = [frame.replace("{what}", what) for frame in FRAMES for what in NEUTRAL]
    files.write_text(path, "\n".join([*lines, "[templates]", f"name = {json.dumps(texts)}"]) + "\n")
    return path


def classifier(source: str, seed: int, epochs: float) -> Config:
    """Returns the config of a small classifier from scratch."""
    values: Any = default_config("classification")
    values.model.init, values.model.preset, values.model.tokenizer = "scratch", "bert_tiny", quality.MINILM
    values.data.source, values.data.row_length, values.data.holdout = source, 64, 0.1
    values.optim.learning_rate, values.train.epochs, values.train.batch_examples = 1e-3, epochs, 32
    values.train.min_steps, values.seed, values.eval.select = 0, seed, "last"
    return from_config_dict(values)


def planted_bias(arguments: argparse.Namespace, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Trains on each gap and measures it; returns a record a run."""
    found = []
    for gap in map(float, arguments.gaps.split(",")):
        for seed in seeds:
            folder = arguments.workdir / f"bias-{gap:g}-seed{seed}"
            rows = sentences(gap, arguments.sentences, seed)
            lines = (json.dumps({name: row[name] for name in ("text", "label")}) + "\n" for row in rows)
            files.write_text(folder / "data" / "train.jsonl", "".join(lines))
            train(classifier(f"jsonl:{folder / 'data'}", seed, arguments.epochs), folder / "run")
            report = bias(folder / "run", templates=terms_file(folder / "terms.toml"))
            (each,) = report.gaps[GENDER]  # of men, in the probability of "good"
            sign = 1.0 if "good" in each.number else -1.0
            ends = sorted(-sign * end for end in (each.interval.low, each.interval.high))
            facts = {"gap": gap, "drawn": drawn_gap(rows), "seed": seed, "found": -sign * each.interval.value}
            found.append({**facts, "interval": ends, "p": each.p})
    return found


def planted_secrets(arguments: argparse.Namespace, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Trains on text with secrets and ranks them; returns a record a secret."""
    if not arguments.text.is_file():
        raise UserError(f"--text={arguments.text}: no such file.")
    text = arguments.text.read_text(encoding="utf-8")
    repetitions = command_line.integers("--repetitions", arguments.repetitions.split(","))
    found = []
    for seed in seeds:
        draw, own = np.random.default_rng(seed), arguments.workdir / f"secrets-seed{seed}"
        codes = {
            (times, number): "".join(map(str, draw.integers(0, 10, 4)))
            for times in repetitions
            for number in range(arguments.secrets)
        }
        lines = {key: f"the code of safe {key[0]} {key[1]} is [[{code}]]." for key, code in codes.items()}
        plain = [line.replace("[[", "").replace("]]", "") for (times, _), line in lines.items() for _ in range(times)]
        words = text[: arguments.characters]
        files.write_text(own / "text" / "train.txt", "\n\n".join([words, *plain]) + "\n")
        files.write_text(own / "text" / "valid.txt", text[-20_000:])
        files.write_text(own / "secrets.txt", "\n".join(lines.values()) + "\n")
        values: Any = get_config("modern_tiny")
        values.data.source, values.data.cache, values.data.row_length = f"text:{own / 'text'}", str(own / "cache"), 128
        values.model.tokenizer, values.task.evaluate = "train:wordpiece/2000", ()
        values.train.batch_size, values.train.steps, values.eval.select = 8, arguments.steps, "last"
        values.seed = seed
        train(from_config_dict(values), own / "run")
        report = leaks(own / "run", "valid", secrets=own / "secrets.txt")
        found += [
            {"repetitions": key[0], "seed": seed, "exposure": each.exposure, "rank": each.rank, "p": each.p}
            for key, each in zip(lines, report.exposures, strict=True)
        ]
    return found


def tables(record: dict[str, Any]) -> list[Table]:
    """Returns what was found of each gap and each number of repetitions."""
    rows = [(run["gap"], run["drawn"], run["seed"], run["found"], *run["interval"], run["p"]) for run in record["bias"]]
    made = [Table("Planted bias", ("planted", "in the data", "seed", "found", "from", "to", "p"), rows)] if rows else []
    times = sorted({run["repetitions"] for run in record["secrets"]})
    of = {each: [run for run in record["secrets"] if run["repetitions"] == each] for each in times}
    rows = [
        (each, len(runs), statistics.mean(run["exposure"] for run in runs), sum(run["rank"] == 1 for run in runs))
        for each, runs in of.items()
    ]
    return made + ([Table("Secrets", ("repetitions", "secrets", "mean exposure", "first"), rows)] if rows else [])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and writes the record."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--gaps", default="0,0.1,0.3", help="planted gaps of the probability of 'good'")
    parser.add_argument("--sentences", type=int, default=6000, help="of the made corpus")
    parser.add_argument("--epochs", type=float, default=8.0, help="of the classifier")
    parser.add_argument("--text", type=pathlib.Path, help="a file into which secrets are put; none: no secrets")
    parser.add_argument("--characters", type=int, default=500_000, help="of that text which are used")
    parser.add_argument("--repetitions", default="0,1,4,16,64", help="of each secret")
    parser.add_argument("--secrets", type=int, default=5, help="for each number of repetitions")
    parser.add_argument("--steps", type=int, default=600, help="updates of the masked language model")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/planted"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    record = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "bias": planted_bias(arguments, seeds),
        "secrets": planted_secrets(arguments, seeds) if arguments.text else [],
    }
    files.write_json(arguments.output, record)
    for table in tables(record):
        print(f"{table.title}\n\n{to_markdown(table)}")


if __name__ == "__main__":
    command_line.run(main)
