"""Classification quality over several seeds, of jaxfm or of the torch reference: the numbers of docs/results.md.

  python -m profiles.classification_quality --source=tsv:DIR --output=profiles/results/sst2.json [--limit=8000]
  python -m profiles.classification_quality --source=tsv:DIR --output=profiles/results/reference_sst2.json \
      --reference=profiles/hf_classification.py [--limit=8000]

Any source of labelled texts will do: --config.task.kind, --config.data.text_column, pair_column, label_column
and holdout say what it holds, as for jaxfm.train, and --metrics what is reported. The sets of docs/results.md (sst2,
trec, ag-news-subset, snli-subset, stsb, cola), known by the last folder of the source, need none of these.
Both programs get the same files: JSON lines, written once into --workdir. With --limit that number of training
examples is taken, always the same ones: those whose text has the smallest hash. Recipe and rows: profiles/quality.py.
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

from jaxfm import files
from jaxfm.data.records.examples import Example, ExampleColumns, read_examples
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.programs import program
from profiles import command_line, quality

USAGE = (
    "usage: python -m profiles.classification_quality --source=tsv:DIR --output=FILE.json [--seeds=0,1] [--limit=N] "
    "[--config.KEY=VALUE]"
)
# What may be reported, in percent; the first two where nothing else is asked for.
METRICS = {
    "single": (
        *("accuracy", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "mcc"),
        *("f1", "precision", "recall"),  # of two classes
    ),
    "multi": ("micro_f1", "macro_f1", "weighted_f1", "micro_precision", "micro_recall", "exact_match"),
    "regression": ("pearson", "spearman"),
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a set teaches.

    Attributes:
      kind: "single", "multi" or "regression".
      columns: which of its fields hold what.
      metrics: reported; empty: the first two of METRICS.
      holdout: share of train that is valid where the source has no such split.
    """

    kind: str = "single"
    columns: ExampleColumns = dataclasses.field(default_factory=ExampleColumns)
    metrics: tuple[str, ...] = ()
    holdout: float = 0.0

    @property
    def reported(self) -> tuple[str, ...]:
        """The metrics that are reported, the first of which chooses a checkpoint."""
        return self.metrics or METRICS[self.kind][:2]


DATA = {
    "sst2": DataSet(),
    "trec": DataSet(columns=ExampleColumns(label="coarse_label")),
    "ag-news-subset": DataSet(),
    "snli-subset": DataSet(),
    "stsb": DataSet(kind="regression"),
    "cola": DataSet(metrics=("mcc", "accuracy")),
}


def data_set(source: str, config: ml_collections.ConfigDict | None = None, metrics: Sequence[str] = ()) -> DataSet:
    """Returns what a source is: a set of DATA by its last folder, with all that `config` and `metrics` say otherwise.

    Raises UserError for a metric that the kind has not.
    """
    found = DATA.get(pathlib.PurePath(source.partition(":")[2]).name)
    if config is not None:
        asked = ExampleColumns(config.data.text_column, config.data.pair_column, config.data.label_column)
        if found is None:
            found = DataSet(config.task.kind, asked, holdout=config.data.holdout)
        elif asked != ExampleColumns():
            found = dataclasses.replace(found, columns=asked)
    found = dataclasses.replace(found or DataSet(), **({"metrics": tuple(metrics)} if metrics else {}))
    for metric in found.metrics:
        if metric not in METRICS[found.kind]:
            known = METRICS[found.kind]
            raise UserError(
                f"--metrics: {metric!r} is none of kind {found.kind!r} ({', '.join(known)}). "
                f"{did_you_mean(metric, known)}"
            )
    return found


def write_data(source: str, limit: int, folder: pathlib.Path, data: DataSet | None = None) -> list[Example]:
    """Writes the splits of the source as JSON lines; returns the training examples.

    Args:
      source: its URI.
      limit: training examples to take; 0: all.
      folder: new, or written by this before.
      data: what the source is; None: as `data_set` says.
    """
    data = data or data_set(source)
    read = read_examples(source, None, columns=data.columns, kind=data.kind, holdout=data.holdout)
    examples = {split: list(found.examples) for split, found in read.items()}
    if limit:
        examples["train"] = quality.in_order_of_hash(examples["train"])[:limit]
    for split, found in examples.items():
        write_examples(found, folder / f"{split}.jsonl")
    return examples["train"]


def write_examples(examples: Sequence[Example], path: pathlib.Path) -> None:
    """Writes examples as JSON lines of text, pair (if present) and label."""
    rows = []
    for example in examples:
        row: dict[str, Any] = {"text": example.text, "label": example.target}
        rows.append(row | ({} if example.pair is None else {"pair": example.pair}))
    files.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_from(config: ml_collections.ConfigDict, folder: pathlib.Path, data: DataSet, *, pairs: bool) -> None:
    """Has jaxfm read what `write_data` wrote."""
    config.data.source = f"jsonl:{folder}"
    config.data.text_column, config.data.label_column = "text", "label"
    config.data.pair_column = "pair" if pairs else ""
    config.data.holdout = 0.0
    config.task.kind = data.kind
    config.eval.metric = data.reported[0]


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
    metrics: Sequence[str] = (),
) -> dict[str, Any]:
    """Runs every seed that is not done, writes `output` after each and returns its content.

    Args:
      config: of `quality.recipe`.
      source: URI of labelled texts.
      seeds: in the order of their runs.
      workdir: keeps the data and each seed's run.
      output: JSON file.
      examples: wanted a step; 0: rows as `config` says.
      limit: training examples to take; 0: all.
      reference: path of the script to run instead of jaxfm.
      metrics: reported; none: those of the set or of its kind.
    """
    data, folder = data_set(source, config, metrics), workdir / "data"
    train = write_data(source, limit, folder, data)
    read_from(config, folder, data, pairs=train[0].pair is not None)
    scored = [split for split in ("valid", "test") if (folder / f"{split}.jsonl").exists()]
    if not scored:
        raise UserError(
            f"--source={source}: has neither valid nor test; --config.data.holdout=0.1 makes a tenth of train valid."
        )
    settings = {"epochs": config.train.epochs, "learning_rate": config.optim.learning_rate}
    if reference is None:
        if examples:
            lengths = training_lengths(train, quality.tokenizer_of(config))
            shape = quality.choose_rows(lengths, examples, seeds[0])
            config.data.row_length, config.train.batch_size = shape.row_length, shape.rows
        settings |= {"row_length": config.data.row_length, "rows": config.train.batch_size}
        settings |= {"precision": config.train.precision}
        settings |= {"select": config.eval.select, "pooling": config.task.pooling}
        settings |= {"lora_rank": config.adapt.lora.rank} if config.adapt.lora.rank else {}

    def run(seed: int) -> dict[str, Any]:
        if reference is None:
            report, facts = quality.jaxfm_run(config, seed, len(train), workdir / f"seed_{seed}")
            found = report["splits"]
            return {f"{s}_{m}": _percent(found[s], m) for s in scored for m in data.reported} | facts
        command = [reference, quality.reference_model(config), str(folder), f"--kind={data.kind}"]
        command += quality.reference_settings(config, seed)
        printed, facts = quality.reference_run(command, len(train), workdir / f"seed_{seed}.json")
        lacking = [m for s in scored for m in data.reported if m not in printed["scores"][s]]
        if lacking:
            raise UserError(f"--metrics: {reference} does not print {lacking[0]!r}.")
        return {f"{s}_{m}": printed["scores"][s][m] for s in scored for m in data.reported} | facts

    facts = {
        "program": "jaxfm" if reference is None else pathlib.Path(reference).name,
        "data": pathlib.PurePath(source).name,
        "training_examples": len(train),
        "unit": "percent",
        "settings": settings,
    }
    names = {f"{split} {metric}": f"{split}_{metric}" for split in scored for metric in data.reported}
    return quality.collect(run, seeds, names, output, facts)


def _percent(scores: dict[str, Any], metric: str) -> float:
    if metric not in scores:
        raise UserError(f"--metrics: {metric!r} is not defined on this data.")
    return round(100 * scores[metric], 2)


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
        metrics=values.metrics,
    )
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    recipe = quality.recipe("classification")
    config_flags.DEFINE_config_dict("config", recipe, "The recipe; --config.KEY=VALUE changes it.")
    flags.DEFINE_string("source", None, f"Labelled texts: tsv:DIR and the like; {', '.join(DATA)} are known.")
    flags.DEFINE_list("metrics", [], "Metrics to report, the first chooses; none: the usual ones of the data.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, comma-separated.")
    flags.DEFINE_string("output", None, "The JSON file of results.")
    flags.DEFINE_string("workdir", None, "Keeps the data and each seed's run; empty: runs/quality/NAME-OF-OUTPUT.")
    flags.DEFINE_integer("examples", quality.REFERENCE_BATCH, "Examples of an average step; 0: rows as --config says.")
    flags.DEFINE_integer("limit", 0, "Training examples; 0: all.")
    flags.DEFINE_string("reference", None, "Runs this script instead of jaxfm.")
    program.run(main, USAGE)
