"""NER quality over several seeds, of jaxfm or of a reference script: the numbers of docs/results.md.

  python -m profiles.ner_quality --source=conll:DIR --seeds=0,1,2,3,4 --output=profiles/results/ner_NAME.json
  python -m profiles.ner_quality --source=conll:DIR --output=profiles/results/reference_NAME.json --reference=hf_ner.py
  python -m profiles.ner_quality --source=conll:DIR --output=... --config.model.init=run:runs/mlm   (a pretraining run)

Any source of tagged words will do. The reference gets it as plain files of a word and a tag a line, written into
--workdir. Recipe and rows are those of profiles/quality.py.
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
from jaxfm.config import DataConfig
from jaxfm.data.records.sources import TaggedSentence, available_splits, read_tagged
from jaxfm.data.records.tagged_builder import Columns
from jaxfm.data.text.tokenization import encode_words, load_tokenizer
from jaxfm.errors import UserError
from jaxfm.programs import program
from profiles import command_line, quality

USAGE = "usage: python -m profiles.ner_quality --source=conll:DIR --output=FILE.json [--seeds=0,1] [--config.KEY=VALUE]"
SPLITS = ("valid", "test")


def training_lengths(source: str, tokenizer: pathlib.Path) -> np.ndarray:
    """Returns the tokens of each training sentence [E], special ones included, cut at the window.

    Args:
      source: its URI.
      tokenizer: directory of its files.
    """
    sentences = read_tagged(source, ["train"], columns=_columns())["train"].sentences
    pieces = encode_words(load_tokenizer(tokenizer), [sentence.words for sentence in sentences])
    return np.asarray([min(2 + sum(map(len, words)), quality.WINDOW) for words in pieces], np.int64)


def _columns() -> Columns:
    data = DataConfig()
    return Columns(data.words_column, data.tags_column, data.document_column)


def data_files(folder: str | pathlib.Path) -> list[str]:
    """Returns the reference's arguments that name the data."""
    return [f"{folder}/{split}.conll" for split in ("train", *SPLITS)]


def write_sentences(sentences: Sequence[TaggedSentence], path: pathlib.Path) -> None:
    """Writes a word, a tab and a tag a line, with an empty line between sentences."""
    blocks = [
        "".join(f"{word}\t{tag}\n" for word, tag in zip(sentence.words, sentence.tags, strict=True))
        for sentence in sentences
    ]
    files.write_text(path, "\n".join(blocks))


def write_data(source: str, folder: pathlib.Path) -> list[str]:
    """Writes train, valid and test as the reference reads them; returns its arguments that name them.

    Raises UserError where a split is not there.
    """
    wanted = ("train", *SPLITS)
    there = available_splits(source, _columns())
    missing = [split for split in wanted if split not in there]
    if missing:
        raise UserError(f"--source={source}: has no {' and no '.join(missing)} split (there: {', '.join(there)}).")
    read = read_tagged(source, wanted, columns=_columns())
    for split, path in zip(wanted, data_files(folder), strict=True):
        write_sentences(read[split].sentences, pathlib.Path(path))
    return data_files(folder)


def collect(
    config: ml_collections.ConfigDict,
    seeds: Sequence[int],
    workdir: pathlib.Path,
    output: pathlib.Path,
    *,
    sentences: int,
    reference: str | None,
) -> dict[str, Any]:
    """Runs every seed that is not done, writes `output` after each and returns its content.

    Args:
      config: of `quality.recipe`, with data.source set.
      seeds: in the order of their runs.
      workdir: keeps each seed's run.
      output: JSON file.
      sentences: wanted a step; 0: rows as `config` says.
      reference: path of the script to run instead of jaxfm.
    """
    data = [] if reference is None else write_data(config.data.source, workdir / "data")
    lengths = training_lengths(config.data.source, quality.tokenizer_of(config))
    settings = {"epochs": config.train.epochs, "learning_rate": config.optim.learning_rate}
    if reference is None:
        if sentences:
            shape = quality.choose_rows(lengths, sentences, seeds[0])
            config.data.row_length, config.train.batch_size = shape.row_length, shape.rows
        settings |= {"row_length": config.data.row_length, "rows": config.train.batch_size}
        settings |= {"precision": config.train.precision}
        settings |= {"select": config.eval.select}

    def run(seed: int) -> dict[str, Any]:
        if reference is None:
            report, facts = quality.jaxfm_run(config, seed, len(lengths), workdir / f"seed_{seed}")
            return {f"{split}_f1": round(100 * report["splits"][split]["f1"], 2) for split in SPLITS} | facts
        command = [reference, quality.reference_model(config), *data]
        command += quality.reference_settings(config, seed)
        printed, facts = quality.reference_run(command, len(lengths), workdir / f"seed_{seed}.json")
        return {f"{split}_f1": printed[f"{split}_f1"] for split in SPLITS} | facts

    facts = {
        "program": "jaxfm" if reference is None else pathlib.Path(reference).name,
        "data": pathlib.PurePath(config.data.source.partition(":")[2]).name,
        "unit": "F1 in percent",
        "settings": settings,
    }
    return quality.collect(run, seeds, {split: f"{split}_f1" for split in SPLITS}, output, facts)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.source or not values.output:
        raise UserError(f"--{'output' if values.source else 'source'} is missing.\n{USAGE}")
    output = pathlib.Path(values.output)
    values.config.data.source = values.source
    result = collect(
        values.config,
        command_line.integers("--seeds", values.seeds),
        pathlib.Path(values.workdir or f"runs/quality/{output.stem}"),
        output,
        sentences=values.sentences,
        reference=values.reference,
    )
    print(json.dumps(result["summary"]))


if __name__ == "__main__":
    config_flags.DEFINE_config_dict("config", quality.recipe("ner"), "The recipe; --config.KEY=VALUE changes it.")
    flags.DEFINE_string("source", None, "Tagged words with train, valid and test, such as conll:DIR.")
    flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds, comma-separated.")
    flags.DEFINE_string("output", None, "The JSON file of results.")
    flags.DEFINE_string("workdir", None, "Keeps each seed's run; empty: runs/quality/NAME-OF-OUTPUT.")
    flags.DEFINE_integer(
        "sentences", quality.REFERENCE_BATCH, "Sentences of an average step; 0: rows as --config says."
    )
    flags.DEFINE_string("reference", None, "Runs this script instead of jaxfm.")
    program.run(main, USAGE)
