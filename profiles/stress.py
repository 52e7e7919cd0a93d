"""What training on changed copies does for changes that were not trained on, and out-of-domain detection.

  python -m profiles.stress --source=tsv:../shared/data/sst2 --limit=4000 --seeds=0,1,2 \
      --ood=tsv:../shared/data/trec --output=profiles/results/stress_sst2.json
  python -m profiles.stress --source=tsv:../shared/data/trec --config.data.holdout=0.1 --seeds=0,1,2 \
      --ood=tsv:../shared/data/sst2 --ood-split=valid --output=profiles/results/stress_trec.json
  python -m profiles.stress --source=conll:../shared/data/wnut17 --seeds=0,1,2 \
      --ood=conll:../shared/data/wikigold --output=profiles/results/stress_wnut17.json

For each seed two runs of configs/classification.py:files (configs/ner.py:files where the source is conll) are trained:
"changed" with --copies copies of the training records by the kinds of --seen, "plain" without, for as many more
epochs, so that both make about as many updates. Finished runs in --workdir are taken as they are. Each is scored by
jaxfm.stress with the kinds of --seen and of --unseen, on the test split, or the validation split where there is none. A
drop is the mean over kinds and severities.
"""

import argparse
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jaxfm
from jaxfm import files
from jaxfm.core.records import TEXTS, WORDS
from jaxfm.data.perturbations.kinds import SEVERITIES, kinds_for
from jaxfm.errors import UserError
from jaxfm.evaluation.robustness import Effect
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from profiles import command_line, quality
from profiles.quantisation import config_of

PLAIN, CHANGED = "plain", "changed"


def configs_of(config: Any, seen: Sequence[str], severity: int, copies: int) -> dict[str, Any]:
    """Returns the config of the run with changed copies, and of the one without that makes as many updates."""
    kinds = ",".join(f"{kind}={severity}" for kind in seen)
    longer = {} if config.train.steps else {"train.epochs": config.train.epochs * (1 + copies)}
    return {
        PLAIN: replaced(config, longer),
        CHANGED: replaced(config, {"task.perturb.kinds": kinds, "task.perturb.copies": copies}),
    }


def measured(run: pathlib.Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the score as it is, the drops on seen and unseen kinds, and out-of-domain detection of a run."""
    split = "test" if "test" in files.read_json(run / "report.json")["splits"] else "valid"
    report = jaxfm.stress(
        run,
        split,
        kinds=[*arguments.seen, *arguments.unseen],
        severities=arguments.severities,
        limit=arguments.records,
        ood=arguments.ood,
        ood_split=arguments.ood_split,
    )
    assert report.clean is not None

    def mean(effects: Sequence[Effect]) -> float:
        return statistics.mean(each.drop.value for each in effects)

    return {
        "split": split,
        "metric": report.metric,
        "clean": report.clean.value.value,
        "drop_seen": mean([each for each in report.effects if each.kind in arguments.seen]),
        "drop_unseen": mean([each for each in report.effects if each.kind in arguments.unseen]),
        "effects": [each.to_dict() for each in report.effects],
        "out_of_domain": [each.to_dict() for each in report.detections],
    }


def table(seeds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Table]:
    """Lays out both runs, mean and deviation over the seeds, and the detection by each score."""
    rows, detections = [], []
    for name in (PLAIN, CHANGED):
        found = [each[name] for each in seeds.values()]
        columns = [[100 * each[key] for each in found] for key in ("clean", "drop_seen", "drop_unseen")]
        spread = [(statistics.mean(each), statistics.stdev(each) if len(each) > 1 else None) for each in columns]
        rows.append((name, *(value for pair in spread for value in pair)))
        for number, score in enumerate(each["score"] for each in found[0]["out_of_domain"]):
            values = [each["out_of_domain"][number]["auroc"]["value"] for each in found]
            false = [each["out_of_domain"][number]["false_positives"]["value"] for each in found]
            detections.append((name, score, statistics.mean(values), min(values), max(values), statistics.mean(false)))
    columns = ("run", "as it is", "sd", "drop, seen kinds", "sd ", "drop, unseen kinds", "sd  ")
    tables = [Table("Training on changed copies", columns, rows, formats=dict.fromkeys(columns[1:], ".2f"))]
    if detections:
        of_scores = ("run", "score", "AUROC", "least", "most", "FPR at 95% TPR")
        tables.append(Table("Out of domain", of_scores, detections, formats=dict.fromkeys(of_scores[2:], ".3f")))
    return tables


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/stress/NAME of --output, if not given")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--limit", type=int, default=0, help="training examples of classification; 0: all")
    parser.add_argument("--records", type=int, default=0, help="records that are scored; 0: all")
    parser.add_argument("--seen", default="keyboard,swaps")
    parser.add_argument("--unseen", default="ocr,whitespace,lookalikes,punctuation")
    parser.add_argument("--train-severity", type=int, default=3)
    parser.add_argument("--severities", default="1,3,5")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--ood", default=None)
    parser.add_argument("--ood-split", default="test")
    arguments, changes = command_line.parse(parser, None)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    arguments.severities = command_line.integers("--severities", arguments.severities.split(","))
    if arguments.train_severity not in SEVERITIES:
        raise UserError(f"--train-severity={arguments.train_severity}: is 1 to 5.")
    reads = WORDS if arguments.source.startswith("conll:") else TEXTS
    for name in ("seen", "unseen"):
        setattr(arguments, name, kinds_for(reads, getattr(arguments, name).split(","), f"--{name}"))
    if both := set(arguments.seen) & set(arguments.unseen):
        raise UserError(f"--unseen: {', '.join(sorted(both))} is one of --seen too.")
    home = arguments.workdir or pathlib.Path("runs/stress") / arguments.output.stem
    found: dict[str, Any] = {}
    for seed in seeds:
        folder = home / f"seed_{seed}"
        config = config_of(arguments.source, seed, changes, folder, arguments.limit)
        runs = configs_of(config, arguments.seen, arguments.train_severity, arguments.copies)
        found[str(seed)] = {}
        for name, each in runs.items():
            train(each, folder / name)
            found[str(seed)][name] = measured(folder / name, arguments)
        asked = {"seen": arguments.seen, "unseen": arguments.unseen, "severities": arguments.severities}
        result = {"command": quality.shown_command(sys.argv), **quality.machine(), **asked, "seeds": found}
        files.write_json(arguments.output, to_json(result))
    for each in table(found):
        print(to_markdown(each))


if __name__ == "__main__":
    command_line.run(main)
