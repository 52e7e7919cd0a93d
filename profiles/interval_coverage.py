"""How often does a 95 % interval hold the truth? Made-up splits of few units: the table of docs/trust.md.

  python -m profiles.interval_coverage [--sets=400] [--counts=10,27,60,200] [--output=FILE.json]

A split is drawn from a model whose scores are known; its intervals are found as after training
(jaxfm/evaluation/intervals.py) and by the percentile bootstrap alone. Counted is how many hold what the metric is of
20,000 units.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxfm import files
from jaxfm.core.evaluation import BootstrapData
from jaxfm.evaluation.bootstrap import Interval, bootstrap_intervals
from jaxfm.evaluation.classes import score_classes
from jaxfm.evaluation.entities import count_spans, tagging_metrics, tagging_prior
from jaxfm.evaluation.intervals import intervals
from jaxfm.observe.tables import Table, to_markdown
from profiles import command_line

NAMES, KINDS = ("no", "perhaps", "yes"), ("LOC", "ORG", "PER")
SHARES = np.array([0.6, 0.3, 0.1])  # of the classes, and of the types
ACCURACIES = (0.6, 0.8, 0.95, 0.99)
TRUE_UNITS, RESAMPLES = 20_000, 400

Draw = Callable[[np.random.Generator, int, float], BootstrapData]
Method = Callable[..., Mapping[str, Interval]]


def draw_classes(random: np.random.Generator, count: int, accuracy: float) -> BootstrapData:
    """Returns examples of three classes of very different frequency, a share of which is right."""
    gold = random.choice(3, count, p=SHARES)
    wrong = (gold + random.integers(1, 3, count)) % 3
    predicted = np.where(random.random(count) < accuracy, gold, wrong)
    return score_classes(gold, np.eye(len(NAMES))[predicted], NAMES).bootstrap_data


def draw_sentences(random: np.random.Generator, count: int, accuracy: float) -> BootstrapData:
    """Returns sentences of up to three entities; how many are found differs from one sentence to the next."""
    gold, found = [], []
    for _ in range(count):
        ease = random.beta(6 * accuracy, 6 * (1 - accuracy))
        spans = [(place, place + 1, str(random.choice(KINDS, p=SHARES))) for place in range(random.integers(0, 4))]
        gold.append(spans)
        right = [span for span in spans if random.random() < ease]
        found.append(right + [(9, 10, str(random.choice(KINDS)))] * (random.random() > (1 + ease) / 2))
    counts, none = count_spans(gold, found, KINDS), np.zeros(count)
    units = {"entities": counts, "words": none + 1, "right": none, "loss": none}
    return BootstrapData("sentences", units, tagging_metrics, list(range(count)), prior=tagging_prior(len(KINDS)))


# What is drawn, and the metrics of it that are looked at.
DRAWN: Mapping[str, tuple[Draw, tuple[str, ...]]] = {
    "classes": (draw_classes, ("accuracy", "macro_f1")),
    "entities": (draw_sentences, ("f1", "macro_f1")),
}


def coverage(
    draw: Draw,
    names: Sequence[str],
    count: int,
    accuracy: float,
    sets: int,
    method: Method = intervals,
    resamples: int = RESAMPLES,
) -> dict[str, float]:
    """Returns how often the interval of a split of `count` units holds what each metric is of many."""
    random = np.random.default_rng(1)
    truth = of_all(draw(random, TRUE_UNITS, accuracy))
    held = dict.fromkeys(names, 0)
    for _ in range(sets):
        data = draw(random, count, accuracy)
        values = of_all(data)
        for name, found in method(data, {name: values[name] for name in names}, resamples=resamples).items():
            held[name] += found.low <= truth[name] <= found.high
    return {name: count / sets for name, count in held.items()}


def of_all(data: BootstrapData) -> dict[str, float]:
    """Returns the metrics of a split."""
    return data.metrics(np.arange(data.count))


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--counts", default="10,27,60,200")
    parser.add_argument("--output", type=pathlib.Path, default=None)
    arguments = parser.parse_args()
    rows = []
    for what, (draw, names) in DRAWN.items():
        for count in command_line.integers("--counts", arguments.counts.split(",")):
            for accuracy in ACCURACIES:
                ours, plain = (
                    coverage(draw, names, count, accuracy, arguments.sets, method)
                    for method in (intervals, bootstrap_intervals)
                )
                rows += [(what, name, accuracy, count, 100 * ours[name], 100 * plain[name]) for name in names]
                print(rows[-2:], flush=True)
    columns = ("drawn", "metric", "share that is right", "units", "reported", "bootstrap alone")
    table = Table("Coverage", columns, rows, formats=dict.fromkeys(columns[4:], ".1f") | {columns[2]: ".2f"})
    print(to_markdown(table))
    if arguments.output is not None:
        cells = [dict(zip(columns, row, strict=True)) for row in rows]
        files.write_json(arguments.output, {"sets": arguments.sets, "rows": cells})
        print(json.dumps({"written": str(arguments.output)}))


if __name__ == "__main__":
    command_line.run(main)
