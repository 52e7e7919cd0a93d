"""`jaxfm.predict --output=FILE.npy` or FILE.parquet: the vectors of texts, a portion at a time."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.errors import UserError, did_you_mean
from jaxfm.formats import vector_files
from jaxfm.observe.progress import Progress


def form_of(output: pathlib.Path, vectors: str, role: str) -> str:
    """Returns the form of an output of vectors, "" for any other output.

    Args:
      output: its ending decides.
      vectors: `--vectors`.
      role: `--role`.

    Raises:
      UserError: an unknown form; an option of vectors beside another output.
    """
    if output.suffix in vector_files.ENDINGS:
        if vectors and vectors not in vector_files.FORMS:
            raise UserError(f"--vectors={vectors}: {did_you_mean(vectors, vector_files.FORMS)}")
        return vectors or vector_files.FORMS[0]
    endings = " or ".join(vector_files.ENDINGS)
    for flag, value in (("vectors", vectors), ("role", role)):
        if value:
            raise UserError(f"--{flag}={value}: is for an output of vectors: --output=FILE, ending in {endings}.")
    return ""


def write_vectors(
    embed: Callable[[list[Any]], np.ndarray],
    records: Iterable[Mapping[str, Any]],
    output: pathlib.Path,
    dimension: int,
    form: str,
    *,
    at_once: int,
    progress: Progress,
    advance: Callable[[int], None],
) -> int:
    """Writes the vectors of the texts of records, zero for those that are blank; returns their number.

    Args:
      embed: texts, or images, -> f32 [n, D].
      records: with "text" or "image", perhaps with "id".
      output: .npy or .parquet.
      dimension: D.
      form: one of `vector_files.FORMS`.
      at_once: records of a portion.
      progress: where to say what a person should know.
      advance: is told the number of records done.
    """
    blank = 0

    def portions() -> Iterator[vector_files.Portion]:
        nonlocal blank
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, at_once)):
            given = [record["image"] if "image" in record else str(record["text"]) for record in chunk]
            found = embed(given)
            is_blank = np.asarray([isinstance(each, str) and not each.strip() for each in given])
            blank += int(is_blank.sum())
            advance(len(chunk))
            fields = [_fields(record) for record in chunk]
            yield np.where(is_blank[:, None], np.float32(0), found), fields

    count = vector_files.write_vectors(output, portions(), dimension, form)
    if blank:
        progress.say(f"NOTE: {blank:,} of {count:,} texts are blank: their vectors are zero")
    return count


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a record is called: its id, and its text or the name of its image."""
    named = {"text": record["image"].origin} if "image" in record else {}
    return {name: record[name] for name in ("id", "text") if name in record} | named
