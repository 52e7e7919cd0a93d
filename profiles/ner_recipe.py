"""Which recipe of named-entity recognition wins? Recipes beside the defaults and transformers' Trainer, several seeds.

  python -m profiles.ner_recipe --data=../shared/data --sets=wnut17,wikigold --recipes=reference,argmax,default,crf \
      --seeds=0,1,2 --output=profiles/results/ner_recipes.json

All start from the same MiniLM weights. A recipe is `default` (configs/ner.py:files with the source and the seed
alone), one of RECIPES, or several of them joined by + (epochs+r_drop). `reference` is ../shared/reference/hf_ner.py:
transformers' Trainer, 3 epochs of batches of 16 at rate 1e-4. Scores are entity F1 in percent; a recipe is to be
chosen by `valid` alone. Beside the means stands how a recipe differs from the default on test: of each seed a
randomisation test over sentences, and how often its p is below 5 %. --limit takes that many training sentences, the
first ones. What is done is kept in --workdir, a file a run, and not run again.
"""

import dataclasses
import importlib
import json
import pathlib
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.evaluation import BootstrapData
from jaxfm.data.records.sources import available_splits
from jaxfm.data.records.splits import canonical_split
from jaxfm.data.records.tagged_builder import USUAL_COLUMNS
from jaxfm.data.records.tagged_holdout import read_splits
from jaxfm.data.text.tagging import entity_spans
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.bootstrap import compare
from jaxfm.hub.locate import locate
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from profiles import command_line, ner_quality, quality

REFERENCE = "../shared/reference/hf_ner.py"
DEFAULT, TRANSFORMERS = "default", "reference"
# What a recipe changes of the defaults.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "argmax": {"task.decoding": "argmax"},
    "crf": {"task.head": "crf"},
    "mean_pieces": {"task.word_pooling": "mean"},
    "document": {"task.context": "document"},
    "epochs": {"train.epochs": 12.0},
    "layer_decay": {"adapt.layer_decay": 0.9},
    "r_drop": {"task.loss.r_drop": 1.0},
    "ema": {"adapt.ema": 0.99},
    "average": {"adapt.average_best": 3},
    "rate": {"optim.learning_rate": 2e-4},
}


@dataclasses.dataclass(frozen=True)
class Record:
    """One run: F1 of valid and test in percent, seconds, and of each test sentence right, found and gold entities."""

    valid: float
    test: float
    seconds: float
    counts: list[list[int]]


def changes_of(recipe: str) -> dict[str, Any]:
    """Returns the keys that a recipe sets; UserError for one that is not known."""
    found: dict[str, Any] = {}
    for name in recipe.split("+") if recipe != DEFAULT else ():
        if name not in RECIPES:
            raise UserError(
                f"--recipes: {name!r} is none of them. {did_you_mean(name, (*RECIPES, DEFAULT, TRANSFORMERS))}"
            )
        found |= RECIPES[name]
    return found


def write_set(data: pathlib.Path, limit: int, folder: pathlib.Path) -> pathlib.Path:
    """Writes train, valid and test of a set as files of words and tags, unless they are there; returns `folder`.

    A set without train is trained on its valid, of which a share is then held out.
    """
    if (folder / "test.conll").is_file():
        return folder
    source = f"conll:{data}"
    there = available_splits(source)
    if "train" not in there:
        (only,) = (path for path in data.glob("*.conll*") if canonical_split(path.name.partition(".")[0]) == "valid")
        source = f"conll:train={only},test={data / 'test.conll'}"
    for split, read in read_splits(source, None, columns=USUAL_COLUMNS, holdout=None).items():
        sentences = read.sentences[: limit or None] if split == "train" else read.sentences
        ner_quality.write_sentences(sentences, folder / f"{split}.conll")
    return folder


def run_jaxfm(folder: pathlib.Path, recipe: str, seed: int, workdir: pathlib.Path) -> Record:
    """Trains a recipe."""
    values = importlib.import_module("configs.ner").get_config("files")
    values.data.source, values.seed = f"conll:{folder}", seed
    config = replaced(from_config_dict(values), changes_of(recipe))
    begun = time.monotonic()
    report = train(config, workdir)
    seconds = time.monotonic() - begun
    counts = []
    for line in (workdir / "predictions" / "test.jsonl").read_text().splitlines():
        record = json.loads(line)
        found, gold = set(entity_spans(record["predicted"])), set(entity_spans(record["gold"]))
        counts.append([len(found & gold), len(found), len(gold)])
    scores = {split: 100 * report["splits"][split]["f1"] for split in ("valid", "test")}
    return Record(scores["valid"], scores["test"], round(seconds, 1), counts)


def run_reference(folder: pathlib.Path, seed: int) -> Record:
    """Trains transformers."""
    model = str(locate(quality.MINILM, "config.model.init"))
    words = [f"--{key}={value:g}" for key, value in {"epochs": 3, "lr": 1e-4, "batch": 16, "seed": seed}.items()]
    begun = time.monotonic()
    printed = quality.last_json(quality.watched_run([REFERENCE, model, *ner_quality.data_files(folder), *words]))
    return Record(printed["valid_f1"], printed["test_f1"], round(time.monotonic() - begun, 1), [])


def once(kept: pathlib.Path, folder: pathlib.Path, recipe: str, seed: int) -> Record:
    """Returns the record of a run that is done, or runs it in a folder that is removed afterwards."""
    if not kept.is_file():
        workdir = kept.with_suffix("")
        workdir.mkdir(parents=True, exist_ok=True)
        if recipe == TRANSFORMERS:
            record = run_reference(folder, seed)
        else:
            record = run_jaxfm(folder, recipe, seed, workdir)
        shutil.rmtree(workdir)
        files.write_json(kept, dataclasses.asdict(record))
        print(f"{kept.parent.name} {kept.stem}: valid {record.valid:.2f}, test {record.test:.2f}", flush=True)
    return Record(**files.read_json(kept))


def p_value(one: Record, other: Record) -> float:
    """Returns how likely so large a difference of F1 is between equal models."""

    def data(record: Record) -> BootstrapData:
        counts = np.asarray(record.counts, np.float64)
        return BootstrapData(
            sampling_unit="sentences",
            units={"entities": counts},
            computed=lambda units, weights: {"f1": _f1(weights @ units["entities"])},
            identity=list(range(len(counts))),
        )

    return compare(data(one), data(other)).differences["f1"].p


def _f1(totals_R3: np.ndarray) -> np.ndarray:
    right, found, gold = totals_R3.T
    return 2 * right / np.maximum(found + gold, 1e-12)


def summary(records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Returns of each recipe of a set mean and sd of F1, seconds, and how it differs from the default."""
    found: dict[str, Any] = {}
    for recipe, runs in records.items():
        entry: dict[str, Any] = {}
        for split in ("valid", "test"):
            scores = [getattr(run, split) for run in runs]
            entry[split] = {"mean": round(statistics.mean(scores), 2), "runs": [round(score, 2) for score in scores]}
            entry[split]["sd"] = round(statistics.stdev(scores), 2) if len(scores) > 1 else 0.0
        entry["seconds"] = round(statistics.mean(run.seconds for run in runs), 1)
        if recipe not in (DEFAULT, TRANSFORMERS) and DEFAULT in records:
            pairs = list(zip(records[DEFAULT], runs, strict=True))
            entry["p_against_default"] = [round(p_value(*pair), 4) for pair in pairs]
        found[recipe] = entry
    return found


def table(result: Mapping[str, Any]) -> Table:
    """Returns the result as a table: a row a set and recipe."""
    rows = [
        (
            name,
            recipe,
            *(f"{entry[split]['mean']:.2f} ± {entry[split]['sd']:.2f}" for split in ("valid", "test")),
            entry["seconds"],
            sum(p < 0.05 for p in entry["p_against_default"]) if "p_against_default" in entry else "",
        )
        for name, recipes in result["sets"].items()
        for recipe, entry in recipes.items()
    ]
    return Table("Recipes", ("set", "recipe", "valid F1", "test F1", "seconds", "seeds with p < 5 %"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a folder with a folder for each set")
    parser.add_argument("--sets", default="wnut17,wikigold,broad-twitter,uner-ewt,wikineural-en")
    parser.add_argument("--recipes", default=f"{TRANSFORMERS},argmax,{DEFAULT},crf")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=0, help="training sentences of each set; 0: all")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/ner_recipe"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args(argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    recipes = arguments.recipes.split(",")
    for recipe in recipes:
        if recipe != TRANSFORMERS:
            changes_of(recipe)
    for name in (names := arguments.sets.split(",")):
        if not (arguments.data / name).is_dir():
            raise UserError(f"--data={arguments.data}: has no folder {name}.")
    result: dict[str, Any] = {}
    sets: dict[str, dict[str, list[Record]]] = {name: {} for name in names}
    for recipe in recipes:
        for name in names:
            folder = write_set(
                arguments.data / name,
                arguments.limit,
                arguments.workdir / f"{name}_{arguments.limit}" / "data",
            )
            sets[name][recipe] = [once(folder.parent / f"{recipe}_{seed}.json", folder, recipe, seed) for seed in seeds]
            result = {
                "command": quality.shown_command(sys.argv),
                **quality.machine(),
                "seeds": seeds,
                "recipes": {each: changes_of(each) for each in recipes if each != TRANSFORMERS},
                "sets": {each: summary(records) for each, records in sets.items() if records},
            }
            files.write_json(arguments.output, result)
    print(to_markdown(table(result)))


if __name__ == "__main__":
    command_line.run(main)
