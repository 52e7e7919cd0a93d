"""Federated methods beside central and local training: score by round, worst client, bytes; poisoned and lost clients.

  python -m profiles.federated --set=sst2 --data=../shared/data --splits=iid,dirichlet=0.1 --clients=10 --rounds=20 \
      --limit=10000 --seeds=0,1,2 --output=profiles/results/federated_sst2.json --image=docs/images/federated_sst2.png
  python -m profiles.federated --set=ner --data=../shared/data --splits=files --rounds=20 --limit=1500 --seeds=0,1,2 \
      --output=profiles/results/federated_ner.json

sst2: --limit sentences of its training split over --clients clients; scores are of its validation split. ner: wikigold,
broad-twitter and wikineural-en, a file a client of --limit sentences at most, with the types PER, LOC and ORG that all
of them have; scores are of their test splits as one. Runs are those of `jaxfm federated` with the configs
classification:files and ner:files, whatever --config.KEY=VALUE changes of them; the model is that of the last round.
--scenarios are lines of SCENARIOS. "poisoned" ones have a client whose update is turned round and ten times as large;
in "lost" one client is gone after a third of the rounds and another does a quarter of its updates. Central and local
training stand beside the first scenario. Finished runs in --workdir are taken as they are.
"""

import argparse
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe import plots
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.federated import federated
from jaxfm.programs.federated_options import BESIDE
from jaxfm.programs.given_config import resolve_config
from jaxfm.schema import flatten, to_dict
from profiles import command_line, quality

POISON: Mapping[str, Any] = {"poison": "1:sign_flip", "poison_scale": 10.0}
LORA: Mapping[str, Any] = {"adapt.lora.rank": 8, "optim.learning_rate": 1e-3}
# Name -> (options, keys of the config).
SCENARIOS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "fedavg": ({}, {}),
    "fedprox": ({"method": "fedprox", "proximal": 0.01}, {}),
    "scaffold": ({"method": "scaffold"}, {}),
    "fedadam": ({"server_optimizer": "adam", "server_rate": 1e-3}, {}),
    "fedyogi": ({"server_optimizer": "yogi", "server_rate": 1e-3}, {}),
    "lora": ({}, LORA),
    "median": ({"aggregate": "median"}, {}),
    "poisoned": (POISON, {}),
    "poisoned_median": (POISON | {"aggregate": "median"}, {}),
    "poisoned_trimmed_mean": (POISON | {"aggregate": "trimmed_mean", "trim": 0.2}, {}),
    "poisoned_quorum": (POISON | {"quorum": 3, "tolerance": 0.02}, {}),
    "lost": ({"slow": "1:0.25"}, {}),
}
TYPES = {
    **{name: name for name in ("PER", "LOC", "ORG")},
    **{"person": "PER", "location": "LOC", "group": "ORG", "corporation": "ORG"},
}
NER_SETS = ("wikigold", "broad-twitter", "wikineural-en")
_VALID = 500  # sentences of sst2's training split that are the server's own validation split
Line = Mapping[str, Any]


def _write(path: pathlib.Path, lines: Iterable[Line]) -> None:
    files.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _by_hash(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: uniform_hash(json.dumps(line, sort_keys=True)))


def write_sst2(data: pathlib.Path, folder: pathlib.Path, limit: int) -> tuple[str, dict[str, Any]]:
    """Writes the data of the set sst2 unless they are there; returns the source and keys of the config."""
    if not (folder / "train.jsonl").is_file():
        read = read_examples(f"tsv:{data / 'sst2'}", ("train", "valid"), columns=ExampleColumns(), kind="single")
        train, test = (
            [{"text": each.text, "label": each.target} for each in read[split].examples] for split in ("train", "valid")
        )
        train = _by_hash(train)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "test.jsonl", test)
        _write(folder / "valid.jsonl", train[:_VALID])
        _write(folder / "train.jsonl", train[_VALID:][: limit or None])
    return f"jsonl:{folder}", {}


def write_ner(data: pathlib.Path, folder: pathlib.Path, limit: int) -> tuple[str, dict[str, Any]]:
    """Writes a file a client, and all of them as one, unless they are there; returns the source and options."""
    clients, every = folder / "clients", folder / "all"
    if not (every / "train.jsonl").is_file():
        of_splits: dict[str, list[Line]] = {"train": [], "valid": [], "test": []}
        clients.mkdir(parents=True, exist_ok=True)
        every.mkdir(parents=True, exist_ok=True)
        for name in NER_SETS:
            read = read_tagged(f"conll:{data / name}", ("train", "valid", "test"))
            for split, of_split in of_splits.items():
                lines = _by_hash([_tagged(each.words, each.tags) for each in read[split].sentences])
                lines = lines[: limit or None] if split == "train" else lines[:_VALID]
                of_split += lines
                if split == "train":
                    _write(clients / f"{name}.jsonl", lines)
        for split in ("test", "valid", "train"):
            _write(every / f"{split}.jsonl", of_splits[split])
    return f"jsonl:{every}", {"clients": str(clients)}


def _tagged(words: Sequence[str], tags: Sequence[str]) -> Line:
    def known(tag: str) -> str:
        prefix, _, name = tag.partition("-")
        return f"{prefix}-{TYPES[name]}" if name in TYPES else "O"

    return {"tokens": list(words), "ner_tags": [known(tag) for tag in tags]}


SETS: Mapping[str, tuple[str, Callable[[pathlib.Path, pathlib.Path, int], tuple[str, dict[str, Any]]]]] = {
    "sst2": ("classification:files", write_sst2),
    "ner": ("ner:files", write_ner),
}


def config_of(name: str, source: str, changes: Sequence[str]) -> Config:
    """Returns the config of the runs of a set, changed by words --config.KEY=VALUE."""
    config = resolve_config(name, {"data.source": source, "eval.select": "last"})
    return resolve_config(config, command_line.values(changes, flatten(to_dict(config))))


def scores_of(scores: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Returns what is compared of a model: its test score, and those of clients."""
    split = "test" if "test" in scores else "valid"
    held = scores["held_out"]
    return {"score": scores[split][metric], **{name: held[name] for name in ("mean", "worst", "worst_client", "gap")}}


def run_all(arguments: argparse.Namespace, changes: Sequence[str], record: dict[str, Any]) -> None:
    """Runs all that is not finished and writes the figures after each run."""
    file, write = SETS[arguments.set]
    home = arguments.workdir or pathlib.Path("runs/federated") / arguments.output.stem
    source, own = write(arguments.data, home / "data", arguments.limit)
    config = config_of(file, source, changes)
    options = {"rounds": arguments.rounds, "local_steps": arguments.local_steps, "eval_every": arguments.eval_every}
    found: dict[str, Any] = {}
    for seed in arguments.seeds:
        for split in arguments.splits:
            for number, scenario in enumerate(arguments.scenarios):
                asked, keys = SCENARIOS[scenario]
                asked = {"clients": arguments.clients, **options, **own, **asked, "split": split}
                if scenario == "lost":
                    asked["leave"] = f"2:{1 + arguments.rounds // 3}"
                workdir = home / f"seed_{seed}" / split.replace("=", "_") / scenario
                beside = ",".join(BESIDE) if number == 0 else ""
                overrides = {"seed": seed, **keys}
                report = federated(config, workdir, overrides=overrides, beside=beside, **asked)
                metric, place = report["metric"], found.setdefault(split, {})
                for name, scores in {scenario: report["result"], **report["beside"]}.items():
                    place.setdefault(name, {})[str(seed)] = scores_of(scores, metric)
                place[scenario][str(seed)] |= {
                    "curve": [(each["round"], each["valid"][metric]) for each in report["rounds"] if "valid" in each],
                    "bytes_up": report["traffic"]["bytes_up"],
                    "refused": [each["round"] for each in report["rounds"] if not each["accepted"]],
                }
                files.write_json(arguments.output, to_json({**record, "metric": metric, "found": found}))
                if arguments.image:
                    draw(arguments.image, found, metric)
    print(to_markdown(summary(found)))


def summary(found: Mapping[str, Any]) -> Table:
    """Lays out a row a split and scenario: means over seeds."""
    rows: list[tuple[Cell, ...]] = []
    for split, scenarios in found.items():
        for name, by_seed in scenarios.items():
            every = list(by_seed.values())

            def mean(key: str, every: Sequence[Mapping[str, Any]] = every) -> float | None:
                known = [each[key] for each in every if each.get(key) is not None]
                return statistics.mean(known) if known else None

            known = [each["score"] for each in every]
            sent = mean("bytes_up")
            spread = statistics.stdev(known) if len(known) > 1 else None
            rows.append(
                (split, name, mean("score"), spread, mean("mean"), mean("worst"), mean("gap"), sent and sent / 1e6)
            )
    columns = ("split", "scenario", "score", "sd", "mean of clients", "worst client", "gap", "MB up")
    return Table("Federated training", columns, rows, formats={"MB up": ",.1f"})


def draw(path: pathlib.Path, found: Mapping[str, Any], metric: str) -> None:
    """Draws the mean curve of the first scenarios of the first split, and what central training comes to."""
    split, scenarios = next(iter(found.items()))
    series = {}
    for name, by_seed in scenarios.items():
        curves = [each["curve"] for each in by_seed.values() if "curve" in each]
        if curves:
            rounds = zip(*curves, strict=True)
            series[name] = [(points[0][0], statistics.mean(value for _, value in points)) for points in rounds]
    plots.plot_lines(
        dict(list(series.items())[: len(plots.COLOURS)]),
        path,
        title=f"Score by round ({split})",
        x_label="round",
        y_label=f"{plots.title_of(metric)} on the server's validation split",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--set", required=True, help=f"one of {', '.join(SETS)}")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="the folder of the real data sets")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--image", type=pathlib.Path, help="PNG of the curves")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/federated/NAME of --output, if not given")
    parser.add_argument("--splits", default="iid", help="of --split of jaxfm federated, with commas between them")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="with commas between them")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--local_steps", type=int, default=5, help="updates of a client in a round")
    parser.add_argument("--eval_every", type=int, default=1, help="rounds between two evaluations")
    parser.add_argument("--limit", type=int, default=0, help="most training examples (of ner: a client); 0: all")
    parser.add_argument("--seeds", default="0", help="with commas between them")
    arguments, changes = command_line.parse(parser, argv)
    if arguments.set not in SETS:
        raise UserError(f"--set={arguments.set}: is unknown. {did_you_mean(arguments.set, SETS)}")
    arguments.splits, arguments.scenarios = arguments.splits.split(","), arguments.scenarios.split(",")
    for name in arguments.scenarios:
        if name not in SCENARIOS:
            raise UserError(f"--scenarios: {name!r} is unknown. {did_you_mean(name, SCENARIOS)}")
    arguments.seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    record = {"command": quality.shown_command(sys.argv), **quality.machine(), "rounds": arguments.rounds}
    run_all(arguments, changes, record | {"local_steps": arguments.local_steps, "limit": arguments.limit})


if __name__ == "__main__":
    command_line.run(main)
