"""Learns a tokenizer: `python -m jaxfm.tokenizer --input=text:DIR --vocab_size=8000 --output=DIR [--kind=bpe]`.

The directory is one that `AutoTokenizer` opens, and a pretraining config as dir:DIR.
"""

import pathlib

from absl import flags

from jaxfm import files
from jaxfm.data.corpora import tokenizer_training
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.documents import Texts
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError
from jaxfm.observe.progress import StreamProgress
from jaxfm.programs import program

USAGE = (
    "usage: python -m jaxfm.tokenizer --input=URI --vocab_size=N --output=DIR [--kind=wordpiece|bpe] [--lowercase] "
    "[--split=train] [--text_column=NAME]"
)


def learn_tokenizer(
    source: str,
    output: str | pathlib.Path,
    *,
    vocab_size: int,
    kind: str = "wordpiece",
    lowercase: bool = False,
    split: str = "train",
    text_column: str = "",
) -> int:
    """Learns a tokenizer from one split of a corpus and shows how far it is; returns the number of its pieces.

    Args:
      source: URI of the text, as for `open_corpus`.
      output: a directory that does not exist or is empty.
      vocab_size: the most pieces it may have, special tokens included.
      kind: wordpiece or bpe (byte-level).
      lowercase: without case, and for wordpiece without accents.
      split: train, valid or test.
      text_column: see `open_corpus`.

    Raises:
      UserError: as `open_corpus` and `train_tokenizer`, and for a split that is not there. Nothing is written then.
    """
    output = files.user_path(output, "--output")
    tokenizer_training.check_request(kind, output)
    corpus = open_corpus(source, text_column=text_column)
    name = require_split(split)
    if name not in corpus.splits:
        raise UserError(f"{source} has no split {name!r}; there is: {', '.join(corpus.splits)}.")
    alone = files.held(files.lock_beside(output), f"--output={output}")
    with alone, StreamProgress("learning a tokenizer") as progress:
        tokenizer_training.check_request(kind, output)  # another process may have been here
        for note in corpus.notes:
            progress.say(note)
        tokenizer_training.train_tokenizer(
            Texts(corpus.splits[name]),
            kind=kind,
            vocab_size=vocab_size,
            lowercase=lowercase,
            output=output,
            progress=progress,
        )
    return tokenizer_training.count_pieces(output)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("input", "vocab_size", "output"):
        if values[name].value in (None, ""):
            raise UserError(f"--{name} is missing.\n{USAGE}")
    size = learn_tokenizer(
        values.input,
        values.output,
        vocab_size=values.vocab_size,
        kind=values.kind,
        lowercase=values.lowercase,
        split=values.split,
        text_column=values.text_column,
    )
    fewer = "" if size == values.vocab_size else "; the text is too small for more"
    print(f"written: {values.output} ({size:,} pieces{fewer})")


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_string("input", None, "The text: text:DIR, jsonl:FILE, tfds:NAME, hf:OWNER/NAME or quickstart.")
    flags.DEFINE_integer("vocab_size", None, "The most pieces, special tokens included.")
    flags.DEFINE_string("output", None, "A directory that does not exist or is empty.")
    flags.DEFINE_string("kind", "wordpiece", f"What kind of tokenizer: {', '.join(tokenizer_training.KINDS)}.")
    flags.DEFINE_bool("lowercase", False, "Without case.")
    flags.DEFINE_string("split", "train", "Which part of the input.")
    flags.DEFINE_string("text_column", "", "The field with the text, where the input has fields; empty: the usual one.")
    program.run(main, USAGE)
