"""How often `jaxfm drift` accuses equal data, how often it finds changed ones, and its estimate of accuracy.

  python -m profiles.drift --source=tsv:../shared/data/sst2 --other=tsv:../shared/data/trec \
      --output=profiles/results/drift_sst2.json
  python -m profiles.drift --source=tsv:../shared/data/trec --config.data.label_column=coarse_label ...
  python -m profiles.drift --source=conll:../shared/data/wikigold --other=conll:../shared/data/wnut17 ...

A run of configs/classification.py:files (configs/ner.py:files where the source is conll or brat) is trained on --limit
training examples, with --valid others as its validation split; --pool others it never sees. Of these each draw takes
--reference records as the reference, and as many others as --new says as new data: as they are ("equal"), perturbed
by --kinds at --severities, from --other, or with more of the most frequent class (--share of them). So the reference
is drawn anew each time, and equal data are equal whatever was trained on. Rates of equal data are given at several
levels of all tests together; the estimated accuracies stand beside the real accuracy of all perturbed records of the
pool. A finished run in --workdir is taken as it is.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.records import TEXTS, WORDS, TextsRecord, WordsRecord
from jaxfm.data.perturbations.kinds import SEVERITIES, Resources, kinds_for, perturb_all
from jaxfm.errors import UserError
from jaxfm.evaluation.drift_rules import ERROR, LOOK, NOTHING, TRAIN_AGAIN, Drop, Thresholds, judge, measures
from jaxfm.evaluation.drift_samples import Looked
from jaxfm.evaluation.error_estimate import ATC, DOC, Judged, estimate_error
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.drift_data import Reader, Side
from jaxfm.programs.drift_model import DriftModel
from jaxfm.programs.drift_tests import Draws, model_tests, text_tests
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.training.saved_run import open_run
from profiles import command_line, quality
from profiles.active_learning import COLUMNS, config_of, read_lines, write_lines

EQUAL, OTHER, CLASSES = "equal", "other source", "other shares of classes"
LEVELS = (0.01, 0.05, 0.1, 0.2)
_SEED = 0  # of the division of the examples


@dataclasses.dataclass(frozen=True)
class Shown:
    """Records of one kind, and what the run says of them.

    Attributes:
      side: the records.
      looked: what is said of them.
      weights: how likely each is drawn; None: all alike.
    """

    side: Side
    looked: Looked
    weights: np.ndarray | None = None

    @property
    def accuracy(self) -> float | None:
        """Of all units; None without labels."""
        judged = self.looked.judged
        return None if judged is None or judged.right is None else float(judged.right.mean())

    def drawn(self, index: np.ndarray) -> tuple[Side, Looked]:
        """Returns some of the records."""
        records = tuple(self.side.records[number] for number in index.tolist())
        judged, predicted = self.looked.judged, self.looked.predicted
        looked = Looked(
            self.looked.vectors[index],
            None if judged is None else of_records(judged, index),
            None if predicted is None else predicted[index],
            self.looked.classes,
        )
        return Side(self.side.name, records, len(records)), looked


def of_records(judged: Judged, index: np.ndarray) -> Judged:
    """Returns the units of some records, in their order."""
    starts = np.searchsorted(judged.record, np.arange(judged.count + 1))
    units = np.concatenate([np.arange(int(starts[each]), int(starts[each + 1])) for each in index.tolist()])
    record = np.repeat(np.arange(len(index)), starts[index + 1] - starts[index])
    right = None if judged.right is None else judged.right[units]
    return Judged(judged.confidence[units], record, len(index), right)


def prepared(arguments: argparse.Namespace, changes: Sequence[str], home: pathlib.Path) -> pathlib.Path:
    """Divides the examples and trains the run, unless that is done; returns its directory."""
    config = config_of(arguments.source, changes)
    lines = read_lines(config)["train"]
    needed = arguments.limit + arguments.valid + arguments.pool
    if len(lines) < needed:
        raise UserError(f"--source={arguments.source}: has {len(lines):,} training examples; {needed:,} are needed.")
    order = np.random.default_rng(_SEED).permutation(len(lines))[:needed]
    parts = np.split(order, np.cumsum([arguments.limit, arguments.valid]))
    for split, index in zip(("train", "valid", "test"), parts, strict=True):
        write_lines(home / "data" / f"{split}.jsonl", [lines[number] for number in index])
    values = {**dict.fromkeys(COLUMNS, ""), "data.source": f"jsonl:{home / 'data'}"}
    train(replaced(config, values), home / "run")
    return home / "run"


def perturbed(side: Side, kind: str, severity: int) -> Side:
    """Returns the records changed; labels stay what they are."""
    records: list[Any] = [
        WordsRecord(tuple(each["tokens"]), tuple(each["gold"]))
        if "tokens" in each
        else TextsRecord((each["text"], *([each["pair"]] if "pair" in each else [])))
        for each in side.records
    ]
    found: list[Mapping[str, Any]] = []
    changed = perturb_all(records, kind, severity, _SEED, Resources())
    for before, after in zip(side.records, changed, strict=True):
        if isinstance(after, WordsRecord):
            found.append({**before, "tokens": list(after.words), "gold": list(after.tags)})
        else:
            assert isinstance(after, TextsRecord)
            found.append({**before, **dict(zip(("text", "pair"), after.texts, strict=False))})
    return Side(f"{kind} {severity}", tuple(found), len(found))


def shown_sets(run: pathlib.Path, arguments: argparse.Namespace) -> tuple[dict[str, Shown], Any]:
    """Returns all kinds of new data by name, the pool as it is first, and the tokenizer of the run."""
    quiet = Progress(None, quiet=True)
    reader = Reader(open_run(run), 0, _SEED)
    pool, model = reader.of_run("test", None), DriftModel(reader)
    sides = {EQUAL: pool}
    for kind in arguments.kinds:
        for severity in arguments.severities:
            sides[f"{kind} {severity}"] = perturbed(pool, kind, severity)
    if arguments.other:
        limited = Reader(reader.run, arguments.pool, _SEED)
        sides[OTHER] = limited.new(arguments.other, arguments.other_split, {}, quiet, labelled=False)
        if len(sides[OTHER].records) < max(arguments.new):
            raise UserError(f"--other={arguments.other}: has fewer records than --new={max(arguments.new)}.")
    found = {name: Shown(side, model.look(side, quiet)) for name, side in sides.items()}
    gold = [each["gold"] for each in pool.records]
    if not model.unit or not all(isinstance(each, str) for each in gold):
        return found, model.tokenizer
    often = statistics.mode(gold)
    is_often = np.asarray([each == often for each in gold])
    weights = np.where(is_often, arguments.share / is_often.sum(), (1 - arguments.share) / (~is_often).sum())
    return found | {CLASSES: dataclasses.replace(found[EQUAL], weights=weights)}, model.tokenizer


def one_draw(sets: Mapping[str, Shown], name: str, count: int, seed: int, arguments: argparse.Namespace) -> Any:
    """Returns what is said of new data of one kind."""
    generator, pool, shown = np.random.default_rng(seed), sets[EQUAL], sets[name]
    order = generator.permutation(len(pool.side.records))
    reference, rest = pool.drawn(order[: arguments.reference]), order[arguments.reference :]
    if name == OTHER:
        index = generator.choice(len(shown.side.records), count, replace=False)
    elif shown.weights is not None:
        weights = shown.weights[rest]
        index = generator.choice(rest, count, replace=False, p=weights / weights.sum())
    else:
        index = rest[:count]
    new = shown.drawn(index)
    draws, thresholds = Draws(arguments.rounds, seed), Thresholds()
    tests, _ = text_tests(draws, arguments.tokenizer, reference[0], new[0])
    tests += model_tests(draws, reference[1], new[1])[0]
    found = measures(tests, thresholds)
    estimated = None
    if reference[1].judged is not None and new[1].judged is not None:
        estimated = estimate_error(reference[1].judged, new[1].judged, seed=seed)
    fallen = None if estimated is None else Drop("accuracy", estimated.drop[ATC])
    verdict, rules = judge(found, fallen, None, thresholds)
    record: dict[str, Any] = {"verdict": verdict, "rules": [each.name for each in rules]}
    record |= {"p": {each.name: each.p for each in found}, "beyond": {each.name: each.beyond for each in found}}
    if estimated is not None:
        record["estimates"] = {
            each: dataclasses.asdict(estimated.accuracy[each]) for each in (ATC, DOC) if each in estimated.accuracy
        }
    return record


def rates(drawn: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns how often each verdict was given, each rule fired, and the least of all p-values was below each level."""
    count = len(drawn)
    found = {verdict: sum(each["verdict"] == verdict for each in drawn) / count for verdict in (TRAIN_AGAIN, LOOK)}
    found |= {ERROR: sum(ERROR in each["rules"] for each in drawn) / count}
    least = [min(each["p"].values()) for each in drawn]
    found |= {f"p below {level:g}": sum(p < level for p in least) / count for level in LEVELS}
    for name in drawn[0]["p"]:
        found[name] = sum(each["p"][name] < LEVELS[0] for each in drawn) / count
    return found


def of_estimates(drawn: Sequence[Mapping[str, Any]], truth: float) -> dict[str, dict[str, float]]:
    """Returns the mean of each estimate, its mean distance from the truth, and how often its interval holds that."""
    found = {}
    for name in drawn[0]["estimates"]:
        values = [each["estimates"][name] for each in drawn]
        found[name] = {
            "mean": statistics.mean(each["value"] for each in values),
            "error": statistics.mean(abs(each["value"] - truth) for each in values),
            "held": sum(each["low"] <= truth <= each["high"] for each in values) / len(values),
        }
    return found


def tables(record: Mapping[str, Any]) -> list[Table]:
    """Lays out the rates of equal and of changed data, and the estimates of accuracy."""
    alarms, found, estimates = [], [], []
    for name, sizes in record["sets"].items():
        for count, values in sizes.items():
            rate = values["rates"]
            levels = [rate[f"p below {level:g}"] for level in LEVELS]
            if name == EQUAL:
                alarms.append((int(count), values["draws"], 1 - rate[TRAIN_AGAIN] - rate[LOOK], *levels))
            else:
                found.append((name, int(count), values["draws"], rate[LOOK] + rate[TRAIN_AGAIN], rate[TRAIN_AGAIN]))
            for estimate, each in values.get("estimates", {}).items():
                estimates.append((name, int(count), estimate, values["accuracy"], *each.values()))
    of_levels = tuple(f"p < {level:g}" for level in LEVELS)
    made = [
        Table(
            "Equal data: how often the verdict is nothing, and the least p (Holm) is below a level",
            ("new records", "draws", NOTHING, *of_levels),
            alarms,
            formats=dict.fromkeys((NOTHING, *of_levels), ".3f"),
        )
    ]
    if found:
        columns = ("new data", "new records", "draws", "found", TRAIN_AGAIN)
        made.append(Table("Changed data", columns, found, formats=dict.fromkeys(columns[3:], ".2f")))
    if estimates:
        columns = ("new data", "new records", "estimate", "real accuracy", "mean", "mean error", "interval holds")
        made.append(Table("Estimated accuracy", columns, estimates, formats=dict.fromkeys(columns[3:], ".3f")))
    return made


def measure(sets: Mapping[str, Shown], arguments: argparse.Namespace, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all rates; they are written after each kind of data."""
    record: dict[str, Any] = {**facts, "sets": {}}
    for name, shown in sets.items():
        record["sets"][name] = {}
        for count in arguments.new:
            draws = arguments.draws if name == EQUAL else arguments.changed_draws
            drawn = [one_draw(sets, name, count, seed, arguments) for seed in range(draws)]
            values: dict[str, Any] = {"draws": draws, "rates": rates(drawn)}
            # Of other shares of classes the pool has no accuracy of its own.
            if shown.accuracy is not None and "estimates" in drawn[0] and name != CLASSES:
                values |= {"accuracy": shown.accuracy, "estimates": of_estimates(drawn, shown.accuracy)}
            record["sets"][name][str(count)] = values
            files.write_json(arguments.output, to_json(record))
    return record


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="URI of labelled data")
    parser.add_argument("--other", help="URI of texts from elsewhere")
    parser.add_argument("--other-split", default="test")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/drift/NAME of --output, if not given")
    parser.add_argument("--limit", type=int, default=3000, help="training examples")
    parser.add_argument("--valid", type=int, default=500, help="examples of the validation split")
    parser.add_argument("--pool", type=int, default=1500, help="further examples, of which reference and new are drawn")
    parser.add_argument("--reference", type=int, default=500, help="records of a reference")
    parser.add_argument("--new", default="50,200", help="new records, with commas between them")
    parser.add_argument("--draws", type=int, default=300, help="of equal data")
    parser.add_argument("--changed-draws", type=int, default=30, help="of each kind of changed data")
    parser.add_argument("--rounds", type=int, default=1000, help="of each test")
    parser.add_argument("--kinds", default="keyboard,case", help="perturbations, with commas between them")
    parser.add_argument("--severities", default="1,3,5", help="with commas between them")
    parser.add_argument("--share", type=float, default=0.8, help="of the most frequent class, where shares change")
    arguments, changes = command_line.parse(parser, argv)
    for name in ("limit", "valid", "pool", "draws", "changed_draws"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}={getattr(arguments, name)}: must be at least 1.")
    for name in ("new", "severities"):
        setattr(arguments, name, command_line.integers(f"--{name}", getattr(arguments, name).split(",")))
    if any(each not in SEVERITIES for each in arguments.severities):
        raise UserError(f"--severities: are of {', '.join(map(str, SEVERITIES))}.")
    if arguments.reference + max(arguments.new) > arguments.pool:
        raise UserError(f"--pool={arguments.pool}: is less than --reference and --new take together.")
    reads = WORDS if arguments.source.startswith(("conll:", "brat:")) else TEXTS
    arguments.kinds = kinds_for(reads, arguments.kinds.split(","), "--kinds")
    run = prepared(arguments, changes, arguments.workdir or pathlib.Path("runs/drift") / arguments.output.stem)
    sets, arguments.tokenizer = shown_sets(run, arguments)
    asked = {name: getattr(arguments, name) for name in ("limit", "valid", "pool", "reference", "rounds", "share")}
    facts = {"command": quality.shown_command(sys.argv), **quality.machine(), **asked}
    for each in tables(measure(sets, arguments, facts)):
        print(f"\n{each.title}\n\n{to_markdown(each)}")


if __name__ == "__main__":
    command_line.run(main)
