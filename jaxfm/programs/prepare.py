"""Prepares a corpus for pretraining: `python -m jaxfm.prepare --input=text:DIR --output=DIR --tokenizer=dir:DIR`.

The same command again goes on where it stopped. Train on the result with --config.data.source=array_record:DIR.
"""

import os
import pathlib
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.data.corpora import deduplication
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.preparation import Preparation
from jaxfm.data.corpora.preparation import prepare as prepare_documents
from jaxfm.data.corpora.preparation_report import MARKDOWN_FILE, unknown_warning
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.locate import locate
from jaxfm.observe.progress import Progress, StreamProgress
from jaxfm.programs import program

USAGE = (
    "usage: python -m jaxfm.prepare --input=URI --output=DIR --tokenizer=URI [--row_length=128] [--split=train]\n"
    "  [--deduplicate=none|exact|near] [--contamination=FILE,...] [--workers=N] [--shard_megabytes=16]\n"
    "  [--shard_documents=0] [--text_column=NAME] [--holdout=0] [--seed=0] [--nopacked]"
)


def prepare(
    source: str,
    output: str | pathlib.Path,
    tokenizer: str,
    *,
    split: str = "train",
    text_column: str = "",
    holdout: float = 0.0,
    **settings: Any,
) -> dict[str, Any]:
    """Prepares one split of a corpus and shows how far it is; returns the manifest.

    Args:
      source: URI of the text, as for `open_corpus`.
      output: a new directory, or one to go on with.
      tokenizer: URI of the tokenizer: dir:PATH, package:MODULE/SUBDIR or hf:OWNER/NAME.
      split: train, valid or test, or another usual name of them.
      text_column: see `open_corpus`.
      holdout: see `open_corpus`.
      settings: further fields of `Preparation`.

    Raises:
      UserError: as `jaxfm.data.corpora.preparation.prepare`, and for what the URIs name.
    """
    output, split = files.user_path(output, "--output"), require_split(split)
    corpus = open_corpus(source, text_column=text_column, holdout=holdout)
    if split not in corpus.splits:
        raise UserError(f"split: {source} has no split {split!r}. {did_you_mean(split, corpus.splits)}")
    name = f"{source} ({split})"
    if text_column:
        name += f", column {text_column}"
    if holdout:
        name += f", holdout {holdout:g}"
    directory = locate(tokenizer, "tokenizer")
    with StreamProgress("preparing") as progress:
        for note in corpus.notes:
            progress.say(note)
        return prepare_documents(corpus.splits[split], directory, output, Preparation(name, **settings), progress)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("input", "output", "tokenizer"):
        if not values[name].value:
            raise UserError(f"--{name} is missing.\n{USAGE}")
    manifest = prepare(
        values.input,
        values.output,
        values.tokenizer,
        split=values.split,
        text_column=values.text_column,
        holdout=values.holdout,
        row_length=values.row_length,
        deduplicate=values.deduplicate,
        contamination=tuple(values.contamination),
        shard_megabytes=values.shard_megabytes,
        shard_documents=values.shard_documents,
        seed=values.seed,
        packed=values.packed,
        workers=values.workers or len(os.sched_getaffinity(0)),
    )
    dropped = sum(manifest["dropped"].values())
    print(
        f"finished: {manifest['documents'] - dropped:,} documents ({dropped:,} left out) in {manifest['rows']:,} rows "
        f"of {manifest['row_length']} tokens, {manifest['useful_share']:.1%} of them useful; "
        f"report: {values.output}/{MARKDOWN_FILE}"
    )
    if unknown := unknown_warning(manifest):
        Progress(None).say(f"WARNING: {unknown[0]}: {unknown[1]}")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_string("input", None, "The text: text:DIR, jsonl:FILE, tfds:NAME, hf:OWNER/NAME or quickstart.")
    flags.DEFINE_string("output", None, "A directory, new or to go on with.")
    flags.DEFINE_string("tokenizer", None, "dir:DIR, package:MODULE/SUBDIR or hf:OWNER/NAME.")
    flags.DEFINE_string("split", "train", "Which part of the input.")
    flags.DEFINE_string("text_column", "", "The field with the text, where the input has fields; empty: the usual one.")
    flags.DEFINE_float("holdout", 0.0, "This share of train becomes valid where the input has no valid.")
    flags.DEFINE_integer("row_length", 128, "Tokens a row.")
    flags.DEFINE_string("deduplicate", "none", f"Copies to leave out: {', '.join(deduplication.KINDS)}.")
    flags.DEFINE_list("contamination", [], "Evaluation files or URIs; documents that overlap with them are left out.")
    flags.DEFINE_integer("workers", 0, "Processes; 0: one a core.")
    flags.DEFINE_float("shard_megabytes", 16.0, "MB of text a shard.")
    flags.DEFINE_integer("shard_documents", 0, "Most documents a shard; 0: any number.")
    flags.DEFINE_integer("seed", 0, "Of the order in which windows are packed.")
    flags.DEFINE_bool("packed", True, "Several windows fill a row; --nopacked: each has its own.")
    program.run(main, USAGE)
