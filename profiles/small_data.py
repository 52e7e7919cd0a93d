"""Are the defaults good for few examples? jaxfm with its defaults, the best of a small search, and others' defaults.

  python -m profiles.small_data --data=../shared/data --output=profiles/results/small_data.json
  python -m profiles.small_data ... --sets=sentences,questions --programs=defaults,transformers --seeds=0,1,2

The sets are those of profiles/small_sets.py: 45 to 2,000 training examples, 300 test examples. All programs start from
the same MiniLM weights.

defaults      the config that docs/ tells a stranger to use, with nothing set but the source and the seed
search        rates 5e-5, 1e-4, 3e-4, each with as many updates as the defaults make and with twice as many; the best by
              valid on the first seed is run on all seeds
transformers  Trainer with its own defaults: 3 epochs, rate 5e-5, batches of 8 (../shared/reference/hf_ner.py for NER,
              profiles/hf_classification.py for the rest)
spacy         spaCy with its own defaults, which start from no weights (profiles/spacy_reference.py); it has no
              regression. --spacy_python names the Python of an environment that has it

What is done is kept in --workdir, a file a run, and not run again.
"""

import dataclasses
import importlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from jaxfm import files
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.locate import locate
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.check import plan_updates
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.initial import resolve
from profiles import command_line, ner_quality, quality
from profiles.small_sets import SETS, SmallSet, write_set

PROGRAMS = ("defaults", "search", "transformers", "spacy")
RATES, LONGER = (5e-5, 1e-4, 3e-4), (1, 2)
NER_REFERENCE = "../shared/reference/hf_ner.py"
REFERENCE = "profiles/hf_classification.py"
SPACY = "profiles/spacy_reference.py"


@dataclasses.dataclass(frozen=True)
class Record:
    """One run: scores of valid and test in percent, updates made, seconds, and what was set."""

    valid: float
    test: float
    updates: int
    seconds: float
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs programs on one set, each at most once.

    Attributes:
      chosen: the set.
      folder: of its files.
      workdir: keeps the record of each run.
    """

    chosen: SmallSet
    folder: pathlib.Path
    workdir: pathlib.Path

    def config(self, seed: int) -> ml_collections.ConfigDict:
        """Returns the config of a stranger: the config file, the source, the seed."""
        file, _, variant = self.chosen.config.partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        config = module.get_config(variant)
        config.data.source = f"jsonl:{self.folder}"
        config.seed = seed
        return config

    def jaxfm(self, seed: int, settings: Mapping[str, Any], name: str) -> Record:
        """Trains jaxfm with some keys set (none for the defaults)."""

        def run(workdir: pathlib.Path) -> Record:
            config = replaced(from_config_dict(self.config(seed)), settings)
            report = train(config, workdir)
            scores = {split: 100 * report["splits"][split][self.chosen.metric] for split in ("valid", "test")}
            training = report["training"]
            return Record(scores["valid"], scores["test"], training["steps"], 0.0, dict(settings))

        return self._once(f"{name}_{seed}", run)

    def search(self, seeds: Sequence[int]) -> list[Record]:
        """Returns the runs of the settings that are best on valid by the first seed."""
        usual = from_config_dict(self.config(seeds[0]))
        planned = plan_updates(usual, resolve(usual.model)).updates
        tried = {}
        for rate in RATES:
            for times in LONGER:
                settings = {"optim.learning_rate": rate, "train.steps": times * planned, "eval.patience": 0}
                name = f"search_{rate:g}_x{times}"
                tried[name] = (settings, self.jaxfm(seeds[0], settings, name))
        best = max(tried, key=lambda name: tried[name][1].valid)
        return [self.jaxfm(seed, tried[best][0], best) for seed in seeds]

    def transformers(self, seed: int) -> Record:
        """Trains transformers' Trainer with its defaults."""
        model = str(locate(quality.MINILM, "config.model.init"))
        settings = {"epochs": 3, "lr": 5e-5, "batch": 8}
        words = [f"--{key}={value:g}" for key, value in settings.items()]

        def run(workdir: pathlib.Path) -> Record:
            if self.chosen.task == "ner":
                for split, read in read_tagged(f"jsonl:{self.folder}", None).items():
                    ner_quality.write_sentences(read.sentences, workdir / f"{split}.conll")
                command = [NER_REFERENCE, model, *ner_quality.data_files(workdir), *words, f"--seed={seed}"]
                printed = quality.last_json(quality.watched_run(command))
                found = {split: printed[f"{split}_f1"] for split in ("valid", "test")}
            else:
                command = [REFERENCE, model, str(self.folder), f"--kind={self.chosen.kind}", *words, f"--seed={seed}"]
                printed = quality.last_json(quality.watched_run(command))
                found = {split: printed["scores"][split][self.chosen.metric] for split in ("valid", "test")}
            updates = 3 * -(-self.chosen.train // 8)
            return Record(found["valid"], found["test"], updates, 0.0, settings)

        return self._once(f"transformers_{seed}", run)

    def spacy(self, seed: int, python: str) -> Record:
        """Trains spaCy with its defaults."""
        task = "ner" if self.chosen.task == "ner" else "textcat"

        def run(workdir: pathlib.Path) -> Record:
            del workdir
            command = [python, SPACY, str(self.folder), f"--task={task}", f"--seed={seed}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
            found = quality.last_json(done.stdout)["scores"]
            return Record(found["valid"][self.chosen.metric], found["test"][self.chosen.metric], 0, 0.0, {})

        return self._once(f"spacy_{seed}", run)

    def _once(self, name: str, run: Any) -> Record:
        """Returns the record of a run that is done, or runs it in a folder that is removed afterwards."""
        kept = self.workdir / f"{name}.json"
        if kept.is_file():
            return Record(**files.read_json(kept))
        folder = self.workdir / name
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        record = dataclasses.replace(run(folder), seconds=round(time.monotonic() - begun, 1))
        shutil.rmtree(folder)
        files.write_json(kept, dataclasses.asdict(record))
        print(f"{self.chosen.name} {name}: valid {record.valid:.2f}, test {record.test:.2f}", flush=True)
        return record


def collect(
    names: Sequence[str],
    programs: Sequence[str],
    seeds: Sequence[int],
    data: pathlib.Path,
    workdir: pathlib.Path,
    output: pathlib.Path,
    spacy_python: str = "",
) -> dict[str, Any]:
    """Runs what is not done, writes `output` after each program of a set and returns its content."""
    result: dict[str, Any] = {}
    found: dict[str, dict[str, Any]] = {}
    for program in programs:
        for name in names:
            chosen = SETS[name]
            folder = write_set(chosen, data, workdir / "sets")
            runner = Runner(chosen, folder, workdir / name)
            if program == "search":
                records = runner.search(seeds)
            elif program == "defaults":
                records = [runner.jaxfm(seed, {}, "defaults") for seed in seeds]
            elif program == "spacy":
                if chosen.kind == "regression":
                    continue
                records = [runner.spacy(seed, spacy_python) for seed in seeds]
            else:
                records = [runner.transformers(seed) for seed in seeds]
            entry = found.setdefault(name, {"what": chosen.what, "metric": chosen.metric, "train": chosen.train})
            entry[program] = summary(records)
            result = {
                "command": quality.shown_command(sys.argv),
                **quality.machine(),
                "seeds": list(seeds),
                "sets": found,
            }
            files.write_json(output, result)
    return result


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Returns mean and sample standard deviation of the test scores, and the runs."""
    scores = [record.test for record in records]
    return {
        "mean": round(statistics.mean(scores), 2),
        "sd": round(statistics.stdev(scores), 2) if len(scores) > 1 else 0.0,
        "runs": [dataclasses.asdict(record) for record in records],
    }


def table(result: Mapping[str, Any]) -> Table:
    """Lays out the test scores: a set a row, a program a column."""
    programs = [name for name in PROGRAMS if any(name in entry for entry in result["sets"].values())]

    def cell(entry: Mapping[str, Any], program: str) -> str:
        return f"{entry[program]['mean']:.1f} ({entry[program]['sd']:.1f})" if program in entry else ""

    rows = [
        (name, entry["what"], entry["train"], entry["metric"], *(cell(entry, program) for program in programs))
        for name, entry in result["sets"].items()
    ]
    return Table("Small data", ("set", "what", "training examples", "metric", *programs), rows)


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/small_data"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--programs", default=",".join(PROGRAMS[:3]))
    parser.add_argument("--spacy_python", default="")
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args()
    names, programs = arguments.sets.split(","), arguments.programs.split(",")
    for flag, words, known in (("--sets", names, tuple(SETS)), ("--programs", programs, PROGRAMS)):
        for word in words:
            if word not in known:
                raise UserError(f"{flag}: {word!r} is not one of {', '.join(known)}. {did_you_mean(word, known)}")
    if not arguments.data.is_dir():
        raise UserError(f"--data={arguments.data}: no such folder; it holds wikineural-en, trec, snli-subset ...")
    if "spacy" in programs and not arguments.spacy_python:
        raise UserError("--programs: spacy needs --spacy_python=PATH, the Python of an environment that has it.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    result = collect(
        names, programs, seeds, arguments.data, arguments.workdir, arguments.output, arguments.spacy_python
    )
    print(to_markdown(table(result)))
    print(json.dumps({name: {key: entry[key]["mean"] for key in programs} for name, entry in result["sets"].items()}))


if __name__ == "__main__":
    command_line.run(main)
