"""Relations of SemEval-2010 task 8 over several seeds: markers, the text alone, or the torch reference.

  python -m profiles.relations --source=tsv:DIR --output=profiles/results/relations_markers.json
  python -m profiles.relations --source=tsv:DIR --output=profiles/results/relations_none.json --config.task.markers=none
  python -m profiles.relations --source=tsv:DIR --output=profiles/results/reference_relations.json \
      --reference=profiles/hf_relations.py

Any source of relations will do: --config.task.markers, negative and unrelated say how it is read. Both programs get the
same splits: JSON lines, written once into --workdir. "macro_f1" is the official score of the task: nine relations,
direction taken into account, Other left out. Recipe and rows: profiles/quality.py. With --limit that number of training
pairs is taken, always the same ones, and one at least of every relation.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from jaxfm import files
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.relation_forms import Entity
from jaxfm.data.records.relations import RelationExample, read_relations, usual_negative
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.programs import program
from profiles import command_line, quality

USAGE = "usage: python -m profiles.relations --source=tsv:DIR --output=FILE.json [--seeds=0,1] [--config.KEY=VALUE]"
REPORTED = ("macro_f1", "micro_f1", "accuracy")
_MARKERS = 4  # tokens of each pair


def write_data(source: str, limit: int, folder: pathlib.Path) -> tuple[list[RelationExample], str]:
    """Writes every split as JSON lines of text, head, tail and relation; returns train and the name of Other."""
    read = read_relations(source, None, holdout=None)
    examples = {split: list(found.examples) for split, found in read.items()}
    if limit:
        examples["train"] = _first(examples["train"], limit)
    for split, found in examples.items():
        rows = [
            {"text": each.text, "head": _side(each.head), "tail": _side(each.tail), "relation": each.relation}
            for each in found
        ]
        files.write_text(folder / f"{split}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return examples["train"], usual_negative({str(each.relation) for each in examples["train"]})


def _first(examples: Sequence[RelationExample], limit: int) -> list[RelationExample]:
    """Returns so many examples of the smallest hashes of their texts, one of every relation among them."""
    ordered = sorted(examples, key=lambda each: uniform_hash(each.text))
    first = {each.relation: number for number, each in reversed(list(enumerate(ordered)))}
    kept = sorted(first.values())
    others = [number for number in range(len(ordered)) if number not in set(kept)]
    return [ordered[number] for number in sorted([*kept, *others[: max(limit - len(kept), 0)]])]


def _side(entity: Entity) -> dict[str, Any]:
    return {"start": entity.start, "end": entity.end} | ({"type": entity.type} if entity.type else {})


def training_lengths(examples: Sequence[RelationExample], tokenizer: pathlib.Path, markers: str) -> np.ndarray:
    """Returns the tokens of each pair [E], special ones and markers included, cut at the window."""
    encoded = load_tokenizer(tokenizer)([each.text for each in examples])
    lengths = np.asarray([len(ids) for ids in encoded["input_ids"]], np.int64)  # pyright: ignore[reportArgumentType]
    return np.minimum(lengths + (_MARKERS if markers != "none" else 0), quality.WINDOW)


def collect(
    config: ml_collections.ConfigDict,
    source: str,
    seeds: Sequence[int],
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    examples: int,
    limit: int,
    reference: str | None,
) -> dict[str, Any]:
    """Runs every seed that is not done, writes `output` after each and returns its content.

    Args:
      config: of `quality.recipe`.
      source: URI of related entities.
      seeds: in the order of their runs.
      workdir: keeps the data and each seed's run.
      output: JSON file.
      examples: wanted a step; 0: rows as `config` says.
      limit: training pairs to take; 0: all.
      reference: path of the script to run instead of jaxfm.
    """
    folder = workdir / "data"
    train, negative = write_data(source, limit, folder)
    config.data.source, config.data.holdout, config.eval.metric = f"jsonl:{folder}", 0.0, REPORTED[0]
    scored = [split for split in ("valid", "test") if (folder / f"{split}.jsonl").exists()]
    settings: dict[str, Any] = {"epochs": config.train.epochs, "learning_rate": config.optim.learning_rate}
    settings["markers"] = config.task.markers
    if reference is None:
        if examples:
            lengths = training_lengths(train, quality.tokenizer_of(config), config.task.markers)
            shape = quality.choose_rows(lengths, examples, seeds[0])
            config.data.row_length, config.train.batch_size = shape.row_length, shape.rows
        settings |= {"row_length": config.data.row_length, "rows": config.train.batch_size}
        settings |= {"precision": config.train.precision, "select": config.eval.select}

    def run(seed: int) -> dict[str, Any]:
        if reference is None:
            report, facts = quality.jaxfm_run(config, seed, len(train), workdir / f"seed_{seed}")
            found = {split: {name: 100 * report["splits"][split][name] for name in REPORTED} for split in scored}
        else:
            command = [reference, quality.reference_model(config), str(folder), f"--negative={negative}"]
            command += [f"--markers={'none' if config.task.markers == 'none' else 'plain'}"]
            command += quality.reference_settings(config, seed)
            printed, facts = quality.reference_run(command, len(train), workdir / f"seed_{seed}.json")
            found = printed["scores"]
        return {f"{split}_{name}": round(found[split][name], 2) for split in scored for name in REPORTED} | facts

    facts = {
        "program": "jaxfm" if reference is None else pathlib.Path(reference).name,
        "data": pathlib.PurePath(source).name,
        "training_examples": len(train),
        "unit": "percent",
        "settings": settings,
    }
    names = {f"{split} {name}": f"{split}_{name}" for split in scored for name in REPORTED}
    return quality.collect(run, seeds, names, output, facts)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.source or not values.output:
        raise UserError(f"--{'output' if values.source else 'source'} is missing.\n{USAGE}")
    output = pathlib.Path(values.output)
    result = collect(
        values.config,
        values.source,
        command_line.integers("--seeds", values.seeds),
        pathlib.Path(values.workdir or f"runs/quality/{output.stem}"),
        output,
        examples=values.examples,
        limit=values.limit,
        reference=values.reference,
    )
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    recipe = quality.recipe("relations")
    config_flags.DEFINE_config_dict("config", recipe, "The recipe; --config.KEY=VALUE changes it.")
    flags.DEFINE_string("source", None, "Related entities: tsv:DIR, semeval:DIR, jsonl:DIR.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, comma-separated.")
    flags.DEFINE_string("output", None, "The JSON file of results.")
    flags.DEFINE_string("workdir", None, "Keeps the data and each seed's run; empty: runs/quality/NAME-OF-OUTPUT.")
    flags.DEFINE_integer("examples", quality.REFERENCE_BATCH, "Pairs of an average step; 0: rows as --config says.")
    flags.DEFINE_integer("limit", 0, "Training pairs; 0: all.")
    flags.DEFINE_string("reference", None, "Runs this script instead of jaxfm.")
    program.run(main, USAGE)
