"""Recommendation on drawn shops whose best ranking is known: both methods, PyTorch's SASRec, and that best, by seeds.

  python -m profiles.recommendation --output=profiles/results/recommendation.json [--users=8000] [--steps=1100] \
      [--programs=causal,masked,reference] [--seeds=0,1,2]

Each seed draws another shop of 240 items (`jaxfm.data.records.quickstart_shop`) and its users, of whom the last item
is for test. All programs see the same histories, have two layers of 128 numbers and the same number of updates of about
as many items (`reference` is profiles/torch_sasrec.py). "best" ranks by the probabilities from which the shop was
drawn. Scores are over all items but those that a user has, in percent. What is done is kept in --workdir.
"""

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.records.histories import LEAVE_ONE_OUT, Histories, make_histories
from jaxfm.data.records.interactions import InteractionColumns, read_interactions
from jaxfm.data.records.quickstart_shop import Shop, draw_histories, make_shop
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.recommendation import baselines, rank_scores, rank_units
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.train import train
from profiles import command_line, quality

REFERENCE = "profiles/torch_sasrec.py"
THEIRS = "reference"
PROGRAMS = ("causal", "masked", THEIRS)
METRICS = ("ndcg@10", "recall@10")
_PRESET, _ROWS, _ROW = "bert_tiny", 8, 128


def write_shop(shop: Shop, users: int, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Writes the interactions of a shop as a table; returns its path."""
    names = shop.items
    lines = ["user,item,time"]
    for user, taken in enumerate(draw_histories(shop, users, seed)):
        lines += [f"user-{user},{names[item]},{step}" for step, item in enumerate(taken)]
    files.write_text(folder / "interactions.csv", "\n".join(lines) + "\n")
    return folder / "interactions.csv"


def best_and_baselines(shop: Shop, histories: Histories) -> dict[str, dict[str, float]]:
    """Returns the test scores of the shop's own probabilities, and of rankings without training, in percent."""
    numbers = {name: number for number, name in enumerate(shop.items)}
    own = np.asarray([numbers[name] for name in histories.items])
    targets = histories.targets["test"]
    before = [histories.before(target) for target in targets]
    gold = np.asarray([histories.item(target) for target in targets])
    best = np.stack([shop.best_scores(own[taken].tolist())[own] for taken in before])
    found = {"best": rank_scores(best, gold, before)}
    training = [histories.training(user) for user in range(len(histories.users))]
    found |= baselines(training, len(histories.items), before, gold, before)
    return {name: _percent(rank_units(ranked.rank)) for name, ranked in found.items()}


def _percent(units: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: round(100 * float(units[name].mean()), 2) for name in METRICS}


def our_run(method: str, table: pathlib.Path, steps: int, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains one seed; returns its scores in percent and its seconds."""
    changes = {
        "data.source": f"csv:{table}",
        "task.method": method,
        "model.preset": _PRESET,
        "train.steps": steps,
        "train.batch_size": _ROWS,
        "data.row_length": _ROW,
        "eval.every_steps": quality.NEVER,
        "eval.select": "last",
        "eval.patience": 0,
        "seed": seed,
    }
    begun = time.monotonic()
    report = train(resolve_config("configs/recommend.py:files", changes), folder)
    scores = report["splits"]["test"]
    found = {name: round(100 * scores[name], 2) for name in METRICS}
    return {**found, "seconds": round(report["training"]["seconds"], 1), "all_seconds": round(time.monotonic() - begun)}


def their_run(histories: Histories, steps: int, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains PyTorch's SASRec on the same histories, as many items an update on average."""
    training = [histories.training(user).tolist() for user in range(len(histories.users))]
    data: dict[str, Any] = {"items": len(histories.items), "train": training}
    for split, targets in histories.targets.items():
        data[split] = [[*histories.before(target).tolist(), histories.item(target)] for target in targets]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "histories.json").write_text(json.dumps(data))
    batch = round(_ROWS * _ROW / statistics.mean(map(len, training)))
    command = [REFERENCE, str(folder / "histories.json"), f"--steps={steps}", f"--seed={seed}", f"--batch={batch}"]
    return quality.last_json(quality.watched_run(command))


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--users", type=int, default=8_000)
    parser.add_argument("--steps", type=int, default=1_100)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    programs = arguments.programs.split(",")
    if unknown := [name for name in programs if name not in PROGRAMS]:
        raise UserError(f"--programs: {unknown[0]!r} is none of them. {did_you_mean(unknown[0], PROGRAMS)}")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    records: dict[str, list[dict[str, Any]]] = {}
    result: dict[str, Any] = {}
    for seed in seeds:
        shop = make_shop(seed=seed)
        table = write_shop(shop, arguments.users, seed, workdir / f"shop_{seed}")
        histories = make_histories(
            read_interactions(f"csv:{table}", InteractionColumns()), split=LEAVE_ONE_OUT, per_user=5, per_item=5
        )
        for name, found in best_and_baselines(shop, histories).items():
            records.setdefault(name, []).append(found)
        for program in programs:
            kept, folder = workdir / f"{program}_{seed}.json", workdir / f"{program}_{seed}"
            if not kept.exists():
                made = (
                    their_run(histories, arguments.steps, seed, folder)
                    if program == THEIRS
                    else our_run(program, table, arguments.steps, seed, folder)
                )
                files.write_json(kept, made)
            records.setdefault(program, []).append(files.read_json(kept))
            print(f"{program} {seed}: {records[program][-1]}", flush=True)
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "users": arguments.users,
            "items": len(shop.items),
            "steps": arguments.steps,
            "seeds": seeds,
            "programs": {
                name: quality.summary(found, {metric: metric for metric in METRICS}) | {"runs": found}
                for name, found in records.items()
            },
        }
        files.write_json(arguments.output, result)
    best = result["programs"]["best"]["ndcg@10"]["mean"]
    rows = [
        (
            name,
            *(f"{found[metric]['mean']:.2f} ± {found[metric]['sd']:.2f}" for metric in METRICS),
            f"{100 * found['ndcg@10']['mean'] / best:.1f} %",
        )
        for name, found in result["programs"].items()
    ]
    print(to_markdown(Table("On test, percent", ("program", *METRICS, "of the best nDCG@10"), rows)))


if __name__ == "__main__":
    command_line.run(main)
