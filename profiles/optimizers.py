"""Which optimizer? All of them on one recipe, each tuned by the same small search, then run from several seeds.

  python -m profiles.optimizers --recipe=masked_lm --source=quickstart \
      --output=profiles/results/optimizers_masked_lm.json [--image=FILE.png] [--seeds=0,1,2] [--steps=400] \
      [--config.KEY=VALUE ...]
  python -m profiles.optimizers --recipe=classification --source=tsv:../shared/data/trec --limit=1000 --output=FILE.json

masked_lm: the quickstart's encoder (modern_tiny) from scratch, --steps updates of 16 rows of 128 tokens; scored on the
first 128 rows of a split.
classification and ner: fine-tuning of MiniLM by the config's defaults, --limit training examples (0: all).

The search is three rates for each optimizer, a factor of 3 apart around its usual one (a multiple of AdamW's), from the
first seed, and up to two more where the best is at the edge; the best by `valid` is run from the other seeds. All else
is the recipe's own, but that schedule-free has a constant rate after the warm-up. Scores are those of `test` where the
source has one. `p` is how likely so large a difference from AdamW is between equal optimizers: a t-test over seeds
(Welch). --config.KEY=VALUE changes a key of all runs. What is done is kept in --workdir, a file a run, and not run
again.
"""

import argparse
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
from jaxfm.config import Config
from jaxfm.data.records.examples import Example
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe import plots
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import read_metrics
from jaxfm.optim_config import OPTIMIZERS
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from profiles import classification_quality, command_line, ner_recipe, quality, steps

# Usual rate of an optimizer as a multiple of AdamW's. Signs (Lion) move every weight by the whole rate; plain gradients
# are small; LAMB's is a share of a weight's norm.
FACTORS = {
    "adamw": 1.0,
    "sgd": 100.0,
    "lamb": 30.0,
    "lion": 1 / 3,
    "adafactor": 1.0,
    "muon": 1.0,
    "stable_adamw": 1.0,
    "schedule_free_adamw": 1.0,
}
SPREAD = (1 / 3, 1.0, 3.0)
MOST_RATES = 5  # of a search, where the best one is at the edge
# Recipe -> its config, and the metric that is compared.
RECIPES = {
    "masked_lm": ("configs.mlm", "quickstart", "loss"),
    "classification": ("configs.classification", "files", "accuracy"),
    "ner": ("configs.ner", "files", "f1"),
}
_EVALUATIONS = 5
_HELD_OUT = 500  # training examples that are valid where a source has no such split: the search needs one


@dataclasses.dataclass(frozen=True)
class Record:
    """A run: its scores, its curve on `valid`, [[step, score], ...], seconds, and what the optimizer kept."""

    valid: float
    test: float
    curve: list[list[float]]
    seconds: float
    optimizer_mib: float


def make_config(arguments: argparse.Namespace, changes: Sequence[str], folder: pathlib.Path) -> Config:
    """Returns the recipe's config, its data written to `folder` where only a part is taken."""
    module, variant, metric = RECIPES[arguments.recipe]
    values = steps.read_values(f"{importlib.import_module(module).__file__}:{variant}", changes)
    values.data.source = arguments.source
    values.eval.metric = metric
    if arguments.recipe == "masked_lm":
        values.data.cache = str(folder / "cache")
        values.train.steps, values.task.eval_rows = arguments.steps, 128
        values.eval.every_steps = max(arguments.steps // _EVALUATIONS, 1)
        values.eval.select = "last"
        values.optim.b2, values.optim.eps = 0.999, 1e-8  # what optimizers without them must leave alone
    elif arguments.recipe == "classification":
        data = classification_quality.data_set(arguments.source)
        examples = write_data(arguments.source, arguments.limit, folder / "data", data)
        classification_quality.read_from(values, folder / "data", data, pairs=examples[0].pair is not None)
    else:
        ner_recipe.write_set(pathlib.Path(arguments.source.partition(":")[2]), arguments.limit, folder / "data")
        values.data.source = f"conll:{folder / 'data'}"
    return from_config_dict(values)


def write_data(
    source: str, limit: int, folder: pathlib.Path, data: classification_quality.DataSet
) -> Sequence[Example]:
    """Writes the splits of a source, a validation split among them; returns the training examples."""
    valid = folder / "valid.jsonl"
    valid.unlink(missing_ok=True)
    examples = classification_quality.write_data(source, limit and limit + _HELD_OUT, folder, data)
    if valid.is_file():
        examples = examples[:limit] if limit else examples
    else:
        classification_quality.write_examples(examples[-_HELD_OUT:], valid)
        examples = examples[:-_HELD_OUT]
    classification_quality.write_examples(examples, folder / "train.jsonl")
    return examples


def changes_of(name: str, rate: float, seed: int) -> dict[str, Any]:
    """Returns the keys of a run that differ from the recipe's."""
    constant = {"optim.schedule": "constant"} if name == "schedule_free_adamw" else {}
    return {"optim.name": name, "optim.learning_rate": rate, "seed": seed, **constant}


def run(config: Config, workdir: pathlib.Path) -> Record:
    """Trains a config."""
    begun = time.monotonic()
    report = train(config, workdir)
    seconds = time.monotonic() - begun
    metric, splits = report["result"]["metric"] if report["result"] else config.eval.metric, report["splits"]
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "valid"]
    curve = [[line["step"], line[metric]] for line in lines]
    valid = _score(splits["valid"], metric, curve)
    test = _score(splits["test"], metric, curve) if "test" in splits else valid
    return Record(valid, test, curve, round(seconds, 1), report["model"]["optimizer_bytes"] / 2**20)


def _score(scores: Mapping[str, Any], metric: str, curve: Sequence[Sequence[float]]) -> float:
    """Returns the number of a report; masked LM's loss stands among those of its units."""
    if metric in scores:
        return float(scores[metric])
    units = scores.get("units", {})
    found = [values[metric] for values in units.values() if metric in values]
    return float(found[0] if found else curve[-1][1])


def once(kept: pathlib.Path, config: Config) -> Record:
    """Returns the record of a run that is done, or runs it in a folder that is removed afterwards."""
    if not kept.is_file():
        workdir = kept.with_suffix("")
        record = run(config, workdir)
        shutil.rmtree(workdir)
        files.write_json(kept, dataclasses.asdict(record))
        print(f"{kept.stem}: valid {record.valid:.4f}, test {record.test:.4f}, {record.seconds} s", flush=True)
    return Record(**files.read_json(kept))


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Returns the p-value of a difference of means (Welch 1947)."""
    from scipy import stats  # comes with jax

    test: Any = stats.ttest_ind(one, other, equal_var=False)
    return float(test.pvalue)


def tuned(
    config: Config, folder: pathlib.Path, name: str, seeds: Sequence[int], *, more_is_better: bool
) -> dict[str, Any]:
    """Searches a rate for an optimizer and runs it from all seeds; returns what the result says of it."""
    usual = config.optim.learning_rate * FACTORS[name]

    def of(rate: float, seed: int) -> Record:
        return once(folder / f"{name}_{rate:.3g}_{seed}.json", replaced(config, changes_of(name, rate, seed)))

    searched = {usual * factor: of(usual * factor, seeds[0]).valid for factor in SPREAD}

    def best_rate() -> float:
        defined = {rate: score for rate, score in searched.items() if score == score}
        return (max if more_is_better else min)(defined, key=lambda rate: defined[rate])

    while (best := best_rate()) in (min(searched), max(searched)) and len(searched) < MOST_RATES:
        beyond = best * SPREAD[0 if best == min(searched) else -1]
        searched[beyond] = of(beyond, seeds[0]).valid
    runs = [of(best, seed) for seed in seeds]
    return {
        "searched": {f"{rate:.3g}": round(score, 4) for rate, score in sorted(searched.items())},
        "rate": best,
        "at_the_edge": best in (min(searched), max(searched)),
        **{
            split: {
                "mean": round(statistics.mean(scores), 4),
                "sd": round(statistics.stdev(scores), 4) if len(scores) > 1 else 0.0,
                "runs": [round(score, 4) for score in scores],
            }
            for split in ("valid", "test")
            for scores in [[getattr(each, split) for each in runs]]
        },
        "seconds": round(statistics.mean(each.seconds for each in runs), 1),
        "optimizer_mib": round(runs[0].optimizer_mib, 2),
        "curves": [each.curve for each in runs],
    }


def draw(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Draws the metric of `valid` over updates, a line an optimizer: the mean of the seeds and their range."""
    figure = plots.new_figure(4.2)
    axes = figure.subplots()
    for name, found in result["optimizers"].items():
        scores = np.asarray([[score for _, score in curve] for curve in found["curves"]])
        steps = [step for step, _ in found["curves"][0]]
        (line,) = axes.plot(steps, scores.mean(0), label=f"{name} ({found['rate']:.2g})")
        axes.fill_between(steps, scores.min(0), scores.max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.legend(fontsize=8, frameon=False, ncols=2)
    plots.style(axes, title=f"{result['recipe']}, best rate of each", x_label="update", y_label=result["metric"])
    plots.save_figure(figure, path)


def table(result: Mapping[str, Any]) -> Table:
    """Returns the result as a table: a row an optimizer."""
    rows = [
        (
            name,
            f"{found['rate']:.2g}{' (edge)' if found['at_the_edge'] else ''}",
            *(f"{found[split]['mean']:.4f} ± {found[split]['sd']:.4f}" for split in ("valid", "test")),
            "" if found.get("p") is None else f"{found['p']:.3f}",
            found["optimizer_mib"],
            found["seconds"],
        )
        for name, found in result["optimizers"].items()
    ]
    head = ("optimizer", "rate", *(f"{split} {result['metric']}" for split in ("valid", "test")), "p", "state MiB")
    return Table(result["recipe"], (*head, "seconds"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--optimizers", default=",".join(OPTIMIZERS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=400, help="updates of masked_lm")
    parser.add_argument("--limit", type=int, default=0, help="training examples; 0: all")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/optimizers"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, help="PNG of the curves")
    arguments, changes = command_line.parse(parser, argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    for flag, given, known in (
        ("--recipe", [arguments.recipe], RECIPES),
        ("--optimizers", arguments.optimizers.split(","), FACTORS),
    ):
        for name in given:
            if name not in known:
                raise UserError(f"{flag}: {name!r} is none of them. {did_you_mean(name, known)}")
    data = pathlib.PurePath(arguments.source.partition(":")[2]).name or arguments.source
    changed = "".join(f"_{word.removeprefix('--config.')}" for word in changes).replace("/", "-")
    where = f"{arguments.recipe}_{data}_{arguments.limit}_{arguments.steps}{changed}"
    folder = arguments.workdir / where
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(arguments, changes, folder)
    metric = RECIPES[arguments.recipe][2]
    found: dict[str, Any] = {}
    for name in arguments.optimizers.split(","):
        found[name] = tuned(config, folder, name, seeds, more_is_better=metric != "loss")
        if name != "adamw" and "adamw" in found and len(seeds) > 1:
            found[name]["p"] = round(welch(found["adamw"]["test"]["runs"], found[name]["test"]["runs"]), 4)
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "recipe": arguments.recipe,
            "data": data,
            "limit": arguments.limit,
            "changes": changes,
            "metric": metric,
            "seeds": seeds,
            "optimizers": found,
        }
        files.write_json(arguments.output, result)
    if arguments.image:
        draw(arguments.image, result)
    print(to_markdown(table(result)))
    print(json.dumps({name: each["test"]["mean"] for name, each in found.items()}))


if __name__ == "__main__":
    command_line.run(main)
