"""Classification quality over several seeds, of jaxfm or of the torch reference: the numbers of docs/results.md.

  python -m profiles.classification_quality --source=tsv:DIR --output=profiles/results/sst2.json [--limit=8000]
  python -m profiles.classification_quality --source=tsv:DIR --output=profiles/results/reference_sst2.json \
      --reference=profiles/hf_classification.py [--limit=8000]

The last folder of the source says which data it is (sst2, trec, ag-news-subset, snli-subset, stsb). Both programs get
the same files: JSON lines, written once into --workdir. With --limit only so many training examples are taken, always
the same ones: those whose text has the smallest hash. Recipe and rows are those of profiles/quality.py.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import flags
from ml_collections import config_flags

from jaxfm import files, program
from jaxfm.data.documents import uniform_hash
from jaxfm.data.examples import Example, ExampleColumns, available_example_splits, read_examples
from jaxfm.data.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from profiles import quality

USAGE = (
    "usage: python -m profiles.classification_quality --source=tsv:DIR --output=FILE.json [--seeds=0,1] [--limit=N] "
    "[--config.KEY=VALUE]"
)
METRICS = {
    "single": ("accuracy", "macro_f1"),
    "multi": ("micro_f1", "macro_f1"),
    "regression": ("pearson", "spearman"),
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a set of the table teaches, and which of its fields hold what."""

    kind: str = "single"
    columns: ExampleColumns = dataclasses.field(default_factory=ExampleColumns)


DATA = {
    "sst2": DataSet(),
    "trec": DataSet(columns=ExampleColumns(label="coarse_label")),
    "ag-news-subset": DataSet(),
    "snli-subset": DataSet(),
    "stsb": DataSet(kind="regression"),
}


def data_set(source: str) -> DataSet:
    """Returns the set that a source names by its last folder."""
    name = pathlib.PurePath(source.partition(":")[2]).name
    if name not in DATA:
        raise UserError(f"--source={source}: {name!r} is none of the sets. {did_you_mean(name, DATA)}")
    return DATA[name]


def write_data(source: str, limit: int, folder: pathlib.Path) -> list[Example]:
    """Writes the splits that there are as JSON lines; returns the training examples.

    Args:
      source: of a set of DATA.
      limit: training examples to take; 0: all.
      folder: new, or written by this before.
    """
    data = data_set(source)
    splits = available_example_splits(source, data.columns, kind=data.kind)
    read = read_examples(source, splits, columns=data.columns, kind=data.kind)
    examples = {split: list(read[split].examples) for split in splits}
    if limit:
        chosen = sorted(examples["train"], key=lambda example: uniform_hash(example.text + "\n" + (example.pair or "")))
        examples["train"] = chosen[:limit]
    for split, found in examples.items():
        write_examples(found, folder / f"{split}.jsonl")
    return examples["train"]


def write_examples(examples: Sequence[Example], path: pathlib.Path) -> None:
    """Writes examples as JSON lines of text, pair (where there is one) and label."""
    rows = []
    for example in examples:
        row: dict[str, Any] = {"text": example.text, "label": example.target}
        rows.append(row | ({} if example.pair is None else {"pair": example.pair}))
    files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_from(config: ml_collections.ConfigDict, folder: pathlib.Path, kind: str, *, pairs: bool) -> None:
    """Has jaxfm read what `write_data` wrote."""
    config.data.source = f"jsonl:{folder}"
    config.data.text_column, config.data.label_column = "text", "label"
    config.data.pair_column = "pair" if pairs else ""
    config.data.holdout = 0.0
    config.classification.kind = kind
    config.eval.metric = METRICS[kind][0]


def training_lengths(examples: Sequence[Example], tokenizer: pathlib.Path) -> np.ndarray:
    """Returns the tokens of each example [E], special ones included, cut at the window."""
    texts = [example.text for example in examples]
    pairs = [example.pair or "" for example in examples] if examples[0].pair is not None else None
    encoded = load_tokenizer(tokenizer)(texts, pairs, truncation=True, max_length=quality.WINDOW)
    return np.asarray([len(ids) for ids in encoded["input_ids"]], np.int64)  # pyright: ignore[reportArgumentType]


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
      source: of a set of DATA.
      seeds: in the order of their runs.
      workdir: keeps the data and each seed's run.
      output: JSON file.
      examples: wanted a step; 0: rows as `config` says.
      limit: training examples to take; 0: all.
      reference: path of the script to run instead of jaxfm.
    """
    kind, folder = data_set(source).kind, workdir / "data"
    train = write_data(source, limit, folder)
    read_from(config, folder, kind, pairs=train[0].pair is not None)
    scored = [split for split in ("valid", "test") if (folder / f"{split}.jsonl").exists()]
    settings = {"epochs": config.train.epochs, "learning_rate": config.optim.learning_rate}
    if reference is None:
        if examples:
            lengths = training_lengths(train, quality.tokenizer_of(config))
            shape = quality.choose_rows(lengths, examples, seeds[0])
            config.data.row_length, config.train.batch_size = shape.row_length, shape.rows
        settings |= {"row_length": config.data.row_length, "rows": config.train.batch_size}
        settings |= {"precision": config.train.precision}
        settings |= {"select": config.eval.select, "pooling": config.classification.pooling}
        settings |= {"lora_rank": config.adapt.lora.rank} if config.adapt.lora.rank else {}

    def run(seed: int) -> dict[str, Any]:
        if reference is None:
            report, facts = quality.jaxfm_run(config, seed, len(train), workdir / f"seed_{seed}")
            found = report["splits"]
            return {f"{s}_{m}": round(100 * found[s][m], 2) for s in scored for m in METRICS[kind]} | facts
        command = [reference, quality.reference_model(config), str(folder), f"--kind={kind}"]
        command += quality.reference_settings(config, seed)
        printed, facts = quality.reference_run(command, len(train), workdir / f"seed_{seed}.json")
        return {f"{s}_{m}": printed["scores"][s][m] for s in scored for m in METRICS[kind]} | facts

    facts = {
        "program": "jaxfm" if reference is None else pathlib.Path(reference).name,
        "data": pathlib.PurePath(source).name,
        "training_examples": len(train),
        "unit": "percent",
        "settings": settings,
    }
    names = {f"{split} {metric}": f"{split}_{metric}" for split in scored for metric in METRICS[kind]}
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
        [int(seed) for seed in values.seeds],
        pathlib.Path(values.workdir or f"runs/quality/{output.stem}"),
        output,
        examples=values.examples,
        limit=values.limit,
        reference=values.reference,
    )
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    recipe = quality.recipe("classification")
    config_flags.DEFINE_config_dict("config", recipe, "The recipe; --config.KEY=VALUE changes it.")
    flags.DEFINE_string("source", None, f"A folder named {', '.join(DATA)}, as tsv:DIR.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, comma-separated.")
    flags.DEFINE_string("output", None, "The JSON file of results.")
    flags.DEFINE_string("workdir", None, "Keeps the data and each seed's run; empty: runs/quality/NAME-OF-OUTPUT.")
    flags.DEFINE_integer("examples", quality.REFERENCE_BATCH, "Examples of an average step; 0: rows as --config says.")
    flags.DEFINE_integer("limit", 0, "Training examples; 0: all.")
    flags.DEFINE_string("reference", None, "Runs this script instead of jaxfm.")
    program.run(main, USAGE)
