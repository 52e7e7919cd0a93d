"""What pruning leaves beside a run: its size, speed and scores beside those of the first model, and what was kept."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.observe.progress import Progress
from jaxfm.observe.pruning_plots import plot_kept_heads
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.training.cut_run import VALID

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "pruning.json", "pruning.md", "plots/pruning.png"


def tables(facts: Mapping[str, Any]) -> list[Table]:
    """Returns the models side by side, the choices that were scored, and the rounds."""
    metric, found = facts["gate"]["metric"], facts["costs"]
    before, after = facts["before"], facts["after"]

    def share(name: str) -> float:
        return found[name]["after"] / found[name]["before"]

    milliseconds = [1000 * found["seconds"][name] for name in ("before", "after")]
    rows: list[tuple[Cell, ...]] = [
        *(
            (words, before[name], after[name], after[name] / before[name] if before[name] else None)
            for words, name in (
                ("layers", "num_layers"),
                ("heads of a layer", "num_heads"),
                ("neurons of a layer", "ffn_size"),
                ("entries of the vocabulary", "vocab_size"),
            )
        ),
        ("operations a token, millions", found["flops"]["before"] / 1e6, found["flops"]["after"] / 1e6, share("flops")),
        ("MB of weights", found["bytes"]["before"] / 1e6, found["bytes"]["after"] / 1e6, share("bytes")),
        (f"ms a batch of {found['batch']['rows']} rows, measured", *milliseconds, share("seconds")),
        *((f"{metric} on {split}", each["before"], each["after"], None) for split, each in facts["scores"].items()),
    ]
    listed = [Table("Pruned", ("", "first model", "pruned", "share"), rows, formats={"share": ".1%"})]
    if scored := facts.get("scored"):
        columns = ("layers", "heads", "neurons", "importance", "operations", "bytes", "time", f"{metric} on {VALID}")
        names = ("depth", "heads", "ffn_size", "importance", "flops", "size", "latency", "score")
        formats: dict[str, str] = dict.fromkeys(columns[3:7], ".1%")
        cells = [tuple(each[name] for name in names) for each in scored]
        listed.append(Table("Choices within the target, before any training", columns, cells, formats=formats))
    if rounds := facts.get("rounds"):
        listed.append(
            Table(
                "Rounds",
                ("round", "target", f"{metric} on {VALID}, pruned", "trained"),
                [
                    (number, ", ".join(each["targets"]), each["pruned"], each.get("recovered"))
                    for number, each in enumerate(rounds, start=1)
                ],
            )
        )
    return listed


def write(folder: pathlib.Path, facts: Mapping[str, Any], progress: Progress) -> None:
    """Writes pruning.json, pruning.md and a picture of the heads that were kept; shows the first table."""
    found = tables(facts)
    parts = [f"## {each.title}\n\n{to_markdown(each).strip()}" for each in found]
    if facts.get("importance"):
        plot_kept_heads(np.asarray(facts["importance"]["heads"]), facts["choice"]["kept"]["heads"], folder / PLOT_FILE)
        parts.append(f"![heads]({PLOT_FILE})")
    files.write_text(folder / MARKDOWN_FILE, "\n\n".join(parts) + "\n")
    files.write_json(folder / JSON_FILE, to_json(dict(facts)))
    progress.table(found[0])
