"""Entities inside entities: the span classifier against the most that any flat tagger could reach, of the made corpus.

  python -m profiles.nested_ner --output=profiles/results/nested_ner.json [--seeds=0,1,2]

A flat tagger gives each word one tag, so what it finds does not overlap. Of a sentence with g entities of which at most
m do not overlap, it finds at most m, all right at best: its F1 is at most 2 m / (m + g), summed over the sentences. The
runs are those of configs/nested_ner.py:quickstart. The file is written after each of them; finished runs in --workdir
are taken as they are.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.records import nested_quickstart
from jaxfm.data.text.tagging import Span
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.train import train
from jaxfm.tasks.word_spans.spans import entities_of
from profiles import command_line

SPLITS = ("valid", "test")
COLUMNS = ("split", "entities", "of these inside another", "bound of a flat tagger", "F1", "standard deviation")


def most_apart(spans: Sequence[Span]) -> int:
    """Returns the greatest number of spans of which none overlaps another: always take the one that ends first."""
    count = end_before = 0
    for start, end, _ in sorted(spans, key=lambda span: span[1]):
        if start >= end_before:
            count, end_before = count + 1, end
    return count


def flat_bound(entities: Sequence[Sequence[Span]]) -> float:
    """Returns the F1 that no tagger without overlaps can exceed on sentences with these entities."""
    apart, total = sum(map(most_apart, entities)), sum(map(len, entities))
    return 2 * apart / (apart + total)


def run(seed: int, workdir: pathlib.Path) -> dict[str, float]:
    """Trains the quickstart; returns the F1 of each split."""
    from configs import nested_ner

    config = nested_ner.get_config()
    config.seed = seed
    report = train(config, workdir)
    return {split: report["splits"][split]["f1"] for split in SPLITS}


def rows(scores: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Returns a row a split."""
    found = []
    read = nested_quickstart.read()
    for split in SPLITS:
        entities = [entities_of(sentence).given for sentence in read[split].sentences]
        inside = sum(len(sentence.overlapping) for sentence in read[split].sentences)
        values = np.asarray([each[split] for each in scores])
        spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
        cells = (split, sum(map(len, entities)), inside, flat_bound(entities), float(values.mean()), spread)
        found.append(dict(zip(COLUMNS, cells, strict=True)))
    return found


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/nested_ner"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    scores: list[dict[str, float]] = []
    for seed in seeds:
        scores.append(run(seed, arguments.workdir / f"seed_{seed}"))
        each = [{"seed": done, **score} for done, score in zip(seeds, scores, strict=False)]
        files.write_json(arguments.output, {"unit": "F1", "seeds": each, "splits": rows(scores)})
    print(to_markdown(Table("Nested entities", COLUMNS, [tuple(row.values()) for row in rows(scores)])))


if __name__ == "__main__":
    command_line.run(main)
