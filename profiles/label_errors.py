"""Are flipped labels found by `jaxfm audit`, and what is training without them worth?

  python -m profiles.label_errors --source=tsv:../shared/data/trec --config.data.label_column=coarse_label \
      --seeds=0,1,2 --output=profiles/results/label_errors_trec.json
  python -m profiles.label_errors --source=conll:../shared/data/wikigold --seeds=0,1,2 \
      --output=profiles/results/label_errors_wikigold.json

For each seed a share (--noise) of the training labels is flipped: of texts to another class, of named entities in turn
to another type and to none. `jaxfm audit` with --folds folds then looks for them. Precision and recall over the labels
(texts; words) by every method stand beside those of cleanlab on the same probabilities, and the average precision of
both rankings. Labels that were wrong before count as false alarms. Then runs of configs/classification.py:files
(configs/ner.py:files where the source is conll) are trained on the flipped labels, without the suspects, with the
suggested labels, and on the labels as they were; each is scored on test. What is done is kept in --workdir and not run
again.
"""

import importlib
import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxfm
from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.labels import LABEL, TAGS, LabelledRecord
from jaxfm.data.text.tagging import entity_spans, write_tags
from jaxfm.errors import UserError, install_hint
from jaxfm.evaluation.confident_learning import FILTERS, NOISE_RATE, SCORES, find_errors, label_quality
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.audit_clean import RELABEL, REMOVE
from jaxfm.programs.audit_records import TRAIN, VALID, Records, read_records, readable
from jaxfm.programs.given_config import resolve_config
from jaxfm.schema import flatten, replaced, to_dict
from profiles import command_line, quality

NOISY, CLEAN = "flipped", "as they were"
RUNS = (NOISY, REMOVE, RELABEL, CLEAN)


def config_of(source: str, changes: Sequence[str]) -> Config:
    """Returns the config of all runs."""
    config = resolve_config("ner:files" if source.startswith("conll:") else "classification:files")
    known, given = flatten(to_dict(config)), {"data.source": source}
    for word in changes:
        key, _, text = word.removeprefix("--config.").partition("=")
        if key not in known:
            raise UserError(f"--config.{key}: there is no such key.")
        given[key] = text if known[key] is None else type(known[key])(text)
    return replaced(config, given)


def flip(records: Sequence[LabelledRecord], share: float, seed: int) -> tuple[list[LabelledRecord], np.ndarray]:
    """Returns records of which a share of the labels is wrong, and which of all labels (texts, words) are changed."""
    draw = np.random.default_rng(seed)
    if TAGS in records[0].row:
        return _flip_entities(records, share, draw)
    if isinstance(records[0].row[LABEL], list):
        raise UserError("--config.task.kind: labels of one class a text are flipped; leave it at 'single'.")
    names = sorted({record.row[LABEL] for record in records})
    chosen = draw.permutation(len(records))[: round(share * len(records))]
    made = list(records)
    for number in chosen.tolist():
        others = [name for name in names if name != records[number].row[LABEL]]
        made[number] = _with(records[number], LABEL, others[int(draw.integers(len(others)))])
    return made, np.isin(np.arange(len(records)), chosen)


def _flip_entities(
    records: Sequence[LabelledRecord], share: float, draw: np.random.Generator
) -> tuple[list[LabelledRecord], np.ndarray]:
    spans = [entity_spans(record.row[TAGS]) for record in records]
    types = sorted({kind for own in spans for _, _, kind in own})
    places = [(number, at) for number, own in enumerate(spans) for at in range(len(own))]
    order = draw.permutation(len(places))[: round(share * len(places))]
    changed: dict[int, dict[int, str | None]] = {}
    for turn, index in enumerate(order.tolist()):
        number, at = places[index]
        others = [kind for kind in types if kind != spans[number][at][2]]
        changed.setdefault(number, {})[at] = others[int(draw.integers(len(others)))] if turn % 2 == 0 else None
    made, is_changed = [], []
    for number, record in enumerate(records):
        new = []
        for at, span in enumerate(spans[number]):
            kind = changed.get(number, {}).get(at, span[2])
            new += [] if kind is None else [(span[0], span[1], kind)]
        tags = write_tags(new, len(record.row[TAGS]))
        made.append(_with(record, TAGS, tags))
        is_changed.append(np.asarray([one != other for one, other in zip(tags, record.row[TAGS], strict=True)]))
    return made, np.concatenate(is_changed)


def _with(record: LabelledRecord, column: str, value: Any) -> LabelledRecord:
    return LabelledRecord({**record.row, column: value}, record.origin, record.classes)


def precision_and_recall(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Returns precision, recall and F1 of labels that were found, and their number."""
    hits = int((found & true).sum())
    precision, recall = hits / max(int(found.sum()), 1), hits / max(int(true.sum()), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-12)
    return {"found": int(found.sum()), "precision": precision, "recall": recall, "f1": f1}


def average_precision(quality: np.ndarray, true: np.ndarray) -> float:
    """Returns the mean of the precisions at each true one, the lowest quality first."""
    ranked = true[np.argsort(quality, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())


def measured(report: Any, changed: np.ndarray) -> dict[str, Any]:
    """Returns how well changed labels are found, by jaxfm and by cleanlab from the same probabilities."""
    find = _cleanlab().find_label_issues
    labels = np.concatenate([record.classes for record in report.records[TRAIN]])
    probabilities = np.concatenate(report.probabilities[TRAIN])
    methods = {}
    for method in FILTERS:
        ours = find_errors(labels, probabilities, method)
        theirs = find(labels, probabilities, filter_by=method, n_jobs=1)
        methods[method] = {
            "jaxfm": precision_and_recall(ours, changed),
            "cleanlab": precision_and_recall(theirs, changed),
            "differ": int((ours != theirs).sum()),
        }
    ranks = {score: average_precision(label_quality(labels, probabilities, score), changed) for score in SCORES}
    return {
        "labels": len(labels),
        "changed": int(changed.sum()),
        "estimated_wrong": report.errors[TRAIN].noise,
        "methods": methods,
        "average_precision": ranks,
    }


def _cleanlab() -> Any:
    try:
        return importlib.import_module("cleanlab.filter")
    except ImportError:
        raise UserError(f"profiles.label_errors compares with the package cleanlab: {install_hint('test')}.") from None


def run_seed(config: Config, records: Records, seed: int, folder: pathlib.Path, arguments: Any) -> dict[str, Any]:
    """Flips labels, audits, and trains on what comes of it."""
    config = replaced(config, {"seed": seed})
    train = records[TRAIN]
    if 0 < arguments.limit < len(train):
        train = [train[n] for n in np.sort(np.random.default_rng(seed).permutation(len(train))[: arguments.limit])]
    noisy, changed = flip(train, arguments.noise, seed)
    others = {split: readable(split, own) for split, own in records.items() if split != TRAIN}
    seen = {split: rows for split, rows in others.items() if split == VALID}
    unnamed = {f"data.{name}_column": "" for name in ("text", "pair", "label", "words", "tags", "document")}
    config = replaced(config, unnamed)
    data = {NOISY: readable(TRAIN, noisy), CLEAN: readable(TRAIN, train)}
    found: dict[str, Any] = {}
    for action in (REMOVE, RELABEL):
        clean = folder / f"data_{action}"
        if (folder / f"{action}.json").is_file():
            found = files.read_json(folder / f"{action}.json")
            continue
        if clean.exists():  # written by a run of this script that was killed before it said so
            shutil.rmtree(clean)
        report = jaxfm.audit(
            config,
            folder / "audit",
            folds=arguments.folds,
            method=arguments.method,
            clean=clean,
            label_errors=action,
            data={TRAIN: data[NOISY], **seen},
        )
        found = measured(report, changed)
        files.write_json(folder / f"{action}.json", to_json(found))
    scores = {}
    for name in RUNS:
        rows = data[name] if name in data else _rows(folder / f"data_{name}" / f"{TRAIN}.jsonl")
        report = jaxfm.train(config, folder / f"run_{RUNS.index(name)}", data={TRAIN: rows, **others})
        metric = "f1" if TAGS in rows[0] else "accuracy"
        scores[name] = {"records": len(rows), "metric": metric, "test": report["splits"]["test"][metric]}
    return {**found, "runs": scores}


def _rows(path: pathlib.Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tables(seeds: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Lays out precision and recall by method, and the scores of the runs, as means and deviations over the seeds."""
    every = list(seeds.values())
    found = [
        (method, who, *(statistics.mean(each["methods"][method][who][key] for each in every) for key in _KEYS))
        for method in FILTERS
        for who in ("jaxfm", "cleanlab")
    ]
    columns = ("method", "by", *_KEYS)
    rows = []
    for name in RUNS:
        values = [100 * each["runs"][name]["test"] for each in every]
        rows.append((name, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None))
    metric = every[0]["runs"][NOISY]["metric"]
    formats = dict.fromkeys(_KEYS, ".3f") | {"found": ".0f"}
    return [
        Table("Flipped labels found", columns, found, formats=formats),
        Table(
            f"Test {metric} of runs on the labels", ("labels", metric, "sd"), rows, formats={metric: ".2f", "sd": ".2f"}
        ),
    ]


_KEYS = ("found", "precision", "recall", "f1")


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/label_errors/NAME of --output, if not given")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--noise", type=float, default=0.05, help="share of the training labels that are flipped")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--method", default=NOISE_RATE, choices=FILTERS, help="by which labels are removed")
    parser.add_argument("--limit", type=int, default=0, help="training records, drawn by the seed; 0: all")
    arguments, changes = command_line.parse(parser, None)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    if not 0 < arguments.noise < 0.5:
        raise UserError(f"--noise={arguments.noise}: must be above 0 and below 0.5.")
    _cleanlab()
    config = config_of(arguments.source, changes)
    records, _ = read_records(replaced(config, {"data.holdout": 0.0}))
    if "test" not in records:
        raise UserError(f"--source={arguments.source}: has no test split, on which the runs are scored.")
    home = arguments.workdir or pathlib.Path("runs/label_errors") / arguments.output.stem
    found: dict[str, Any] = {}
    for seed in seeds:
        found[str(seed)] = run_seed(config, records, seed, home / f"seed_{seed}", arguments)
        facts = {name: getattr(arguments, name) for name in ("source", "noise", "folds", "method", "limit")}
        result = {"command": quality.shown_command(sys.argv), **quality.machine(), **facts, "seeds": found}
        files.write_json(arguments.output, to_json(result))
    for each in tables(found):
        print(f"{each.title}\n\n{to_markdown(each)}")


if __name__ == "__main__":
    command_line.run(main)
