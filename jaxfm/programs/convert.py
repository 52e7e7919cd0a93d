"""Writes tagged sentences in another form: `python -m jaxfm.convert conll:DIR --to=brat --output=OUT`.

Any source that NER is trained from becomes files of conll, conllu, tokens, jsonl, brat, doccano or label_studio, which
jaxfm reads again. What a form cannot say is counted and printed; overlapping entities, of which tags of words can keep
the longest alone, are refused unless --overlaps=longest.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.data.records.sources import TaggedSplit, read_tagged
from jaxfm.data.records.tagged_builder import OVERLAPPING, USUAL_COLUMNS, Columns
from jaxfm.data.records.tagged_writing import WRITERS
from jaxfm.data.text.resplit import count_cut, split_again
from jaxfm.data.text.tagging import SCHEMES
from jaxfm.data.text.words import FINE, SPLITTERS
from jaxfm.errors import UserError, did_you_mean
from jaxfm.programs import program

USAGE = (
    f"usage: python -m jaxfm.convert SOURCE --to={'|'.join(WRITERS)} --output=DIR\n"
    f"  [--scheme={'|'.join(SCHEMES)}] [--splitter={'|'.join(SPLITTERS)}] [--overlaps=longest]"
)
COLUMNS = ("words_column", "tags_column", "document_column")
REFUSE, LONGEST = "refuse", "longest"


def convert(
    source: str,
    output: str | pathlib.Path,
    to: str,
    *,
    scheme: str = "BIO",
    splitter: str = FINE,
    overlaps: str = REFUSE,
    columns: Columns = USUAL_COLUMNS,
) -> dict[str, tuple[str, ...]]:
    """Writes every split of a source in another form, whole or not at all.

    Args:
      source: URI of tagged sentences, as for training.
      output: the directory to write.
      to: the form, a key of WRITERS.
      scheme: of tags, for forms that have tags.
      splitter: rule by which a text becomes words, where the source has entities in characters and the form has words.
      overlaps: "longest": of entities that overlap the longest is kept; "refuse": there must be none.
      columns: which columns of the source to read.

    Returns:
      Split -> lines on what was written, and what the form cannot say of it.

    Raises:
      UserError: an unknown form, scheme or rule, a source that cannot be read, an output that is there already,
        overlapping entities.
    """
    for option, value, known in (
        ("to", to, WRITERS),
        ("scheme", scheme, SCHEMES),
        ("splitter", splitter, SPLITTERS),
        ("overlaps", overlaps, (REFUSE, LONGEST)),
    ):
        if value not in known:
            raise UserError(f"--{option}={value}: {did_you_mean(value, known)}")
    writer = WRITERS[to]
    if scheme != "BIO" and not writer.schemes:
        raise UserError(f"--scheme={scheme}: {to} has entities in characters, no tags. Leave out the flag.")
    target = files.output_directory(output, "--output")
    read = read_tagged(source, None, columns=columns)
    if overlaps == REFUSE:
        _refuse_overlaps(read)
    said = {}
    with files.held(files.lock_beside(target), f"--output={target}"), files.atomic_directory(target) as folder:
        for split, found in read.items():
            sentences = found.sentences
            notes = [found.note]
            if writer.words:
                sentences = split_again(sentences, splitter)
                if cut := count_cut(sentences):
                    notes.append(f"{cut:,} entities start or end inside a word and take the whole word")
            elif not any(sentence.marked for sentence in sentences):
                notes.append("the source has words, no text: they are joined by spaces")
            writer.write(sentences, folder, split, scheme)
            said[split] = tuple(notes)
    return said


def _refuse_overlaps(read: Mapping[str, TaggedSplit]) -> None:
    for split, found in read.items():
        for repair in found.repairs:
            if OVERLAPPING in repair:
                raise UserError(
                    f"{split}: {repair}. Tags of words have one entity a word: --overlaps={LONGEST} keeps the longest."
                )


def main(arguments: Sequence[str]) -> None:
    """The program."""
    values: Any = flags.FLAGS
    if len(arguments) != 1 or not values.to or not values.output:
        raise UserError(f"give one source, --to and --output.\n{USAGE}")
    columns = Columns(**program.given_columns(COLUMNS))
    said = convert(
        arguments[0],
        values.output,
        values.to,
        scheme=values.scheme,
        splitter=values.splitter,
        overlaps=values.overlaps,
        columns=columns,
    )
    for notes in said.values():
        print("\n  ".join(notes))
    print(f"written: {values.output}; it is read as {WRITERS[values.to].source}{values.output}")


def run() -> None:
    """Defines the flags and runs the program."""
    forms = ", ".join(f"{name} ({writer.doc})" for name, writer in WRITERS.items())
    flags.DEFINE_string("to", None, f"The form to write: {forms}.")
    flags.DEFINE_string("output", None, "The directory to write, a file or folder for each split.")
    flags.DEFINE_string("scheme", "BIO", f"Of the tags: {', '.join(SCHEMES)}.")
    flags.DEFINE_string("splitter", FINE, "What splits a text into words: fine (each mark a word), coarse.")
    flags.DEFINE_string("overlaps", REFUSE, "Entities that overlap: refuse, or keep the longest.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE, takes_arguments=True)
