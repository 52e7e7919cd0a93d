"""What pruning costs and gives: score, operations, bytes and measured latency, with and without training.

  python -m profiles.pruning --source=tsv:../shared/data/sst2 --limit=4000 --seeds=0,1,2 \
      --output=profiles/results/pruning_sst2.json
  python -m profiles.pruning --source=tsv:../shared/data/trec --config.data.holdout=0.1 --seeds=0,1,2 \
      --output=profiles/results/pruning_trec.json
  python -m profiles.pruning --source=conll:../shared/data/wnut17 --seeds=0,1,2 \
      --output=profiles/results/pruning_wnut17.json

For each seed a run of configs/classification.py:files (configs/ner.py:files where the source is conll) is trained;
finished runs in --workdir are taken as they are. Each is pruned by jaxfm.prune to each of --budgets of its operations,
whatever it loses: by either rule of importance, without training, trained for --epochs, and trained in --rounds for as
long in all. Beside these stands the whole model trained for --epochs more, and the vocabulary cut to the training
texts. Scores are of the test split, or of the validation split where there is none. Latency is that of a batch of
evaluation, all models in turns, the median over --turns.
"""

import argparse
import os
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jaxfm
from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.pruned_run import build_of
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.training import cut_run, latency
from jaxfm.training.cut_run import VALID
from jaxfm.training.part_importance import RULES
from jaxfm.training.saved_run import available_mesh, open_run
from profiles import command_line, quality
from profiles.quantisation import config_of, size_of

FIRST, LONGER, VOCABULARY = "first model", "first model, trained longer", "vocabulary cut"
_ANY = 1e9


def runs_of(config: Any, folder: pathlib.Path, arguments: argparse.Namespace) -> dict[str, pathlib.Path]:
    """Trains and prunes what is not finished; returns form -> run directory."""
    found = {FIRST: folder / "first", LONGER: folder / "longer", VOCABULARY: folder / "vocabulary"}
    train(config, found[FIRST])
    before = open_run(found[FIRST])
    longer = replaced(cut_run.config_from(before.config, before.workdir), _training(arguments.epochs))
    train(longer, found[LONGER])
    made: dict[str, tuple[str, dict[str, Any]]] = {VOCABULARY: ("vocabulary", {"vocabulary": True})}
    for budget in arguments.budgets:
        name, to = f"pruned to {budget:g}", {"target": f"flops:{budget:g}"}
        place = f"pruned_{100 * budget:g}"
        made |= {f"{name}, {rule}": (f"{place}_{rule}", {**to, "importance": rule}) for rule in RULES}
        if arguments.epochs:
            made[f"{name}, trained"] = (f"{place}_trained", {**to, "recover_epochs": arguments.epochs})
        if arguments.epochs and arguments.rounds > 1:
            each = arguments.epochs / arguments.rounds
            more = {"recover_epochs": each, "rounds": arguments.rounds}
            made[f"{name}, trained in {arguments.rounds} rounds"] = (f"{place}_rounds", {**to, **more})
    for form, (name, asked) in made.items():
        found[form] = folder / name
        if not (found[form] / "report.json").is_file():
            jaxfm.prune(found[FIRST], found[form], **asked, max_loss=_ANY)
    return found


def _training(epochs: float) -> dict[str, Any]:
    return {"train.epochs": epochs, "train.steps": 0, "train.min_steps": 0} if epochs else {"train.steps": 1}


def measured(paths: Mapping[str, pathlib.Path], turns: int) -> dict[str, dict[str, float]]:
    """Returns score, share of the operations, megabytes and milliseconds of each run of one seed."""
    calls: dict[str, Callable[[], Any]] = {}
    found: dict[str, dict[str, float]] = {}
    for form, path in paths.items():
        run = open_run(path)
        report = files.read_object(path / "report.json")
        split = "test" if "test" in report["splits"] else VALID
        task, (mesh, _) = run.task(run.config.data.source, VALID), available_mesh(run.config)
        restored = run.restore(mesh, build_of(run.config))
        calls[form] = latency.forward_pass(
            task.objective.outputs, restored.graphdef, restored.params, task.datasets[VALID], mesh,
            run.config.eval.batch_size,
        )  # fmt: skip
        encoder = run.spec.encoder
        flops = report.get("pruning", {}).get("costs", {}).get("flops")
        found[form] = {
            "score": round(100 * report["splits"][split][run.config.eval.metric], 2),
            "flops_share": round(flops["after"] / flops["before"], 4) if flops else 1.0,
            "parameters": report["model"]["parameters"],
            "megabytes_on_disk": round(size_of(path), 2),
            "layers": encoder.num_layers,
            "heads": encoder.num_heads,
            "neurons": encoder.ffn_size,
            "vocabulary": encoder.vocab_size,
        }
    seconds = latency.in_turns(calls, turns)
    for form, each in found.items():
        each["milliseconds"] = round(1000 * seconds[form], 3)
        each["latency_share"] = round(seconds[form] / seconds[FIRST], 4)
    return found


def table(result: Mapping[str, Any]) -> Table:
    """Lays out the forms: mean score over the seeds and its spread, shares of the first seed's first model."""
    first, *_ = result["seeds"].values()
    rows = []
    for form, values in first.items():
        scores = [each[form]["score"] for each in result["seeds"].values()]
        times = [each[form]["latency_share"] for each in result["seeds"].values()]
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        rows.append(
            (
                form, statistics.mean(scores), spread, values["flops_share"],
                values["parameters"] / first[FIRST]["parameters"], statistics.median(times),
                f"{values['layers']} x {values['heads']} x {values['neurons']}",
            )
        )  # fmt: skip
    columns = ("model", "score", "sd", "operations", "parameters", "time", "layers x heads x neurons")
    formats = {"score": ".1f", "sd": ".1f", **dict.fromkeys(columns[3:6], ".1%")}
    return Table("Pruned models", columns, rows, formats=formats)


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/pruning/NAME of --output, if not given")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--limit", type=int, default=0, help="training examples of classification; 0: all")
    parser.add_argument("--budgets", default="0.5", help="shares of the operations")
    parser.add_argument("--epochs", type=float, default=1.0, help="of training after pruning, in all; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=9)
    arguments, changes = command_line.parse(parser, None)
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns}: must be at least 1.")
    arguments.budgets = budgets_of(arguments.budgets)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    load = os.getloadavg()[0]
    home = arguments.workdir or pathlib.Path("runs/pruning") / arguments.output.stem
    found: dict[str, Any] = {}
    for seed in seeds:
        folder = home / f"seed_{seed}"
        config = config_of(arguments.source, seed, changes, folder, arguments.limit)
        found[str(seed)] = measured(runs_of(config, folder, arguments), arguments.turns)
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "load_before": round(load, 2),
            "seeds": found,
        }
        files.write_json(arguments.output, result)
    print(to_markdown(table(result)))


def budgets_of(text: str) -> list[float]:
    """Returns shares of the operations; UserError for others."""
    found = []
    for word in text.split(","):
        try:
            share = float(word)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise UserError(f"--budgets: {word} must be a share of the operations, above 0 and below 1.")
        found.append(share)
    return found


if __name__ == "__main__":
    command_line.run(main)
