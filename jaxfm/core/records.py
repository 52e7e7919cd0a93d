"""What a task may say of the inputs of a split, so that they can be changed and scored again: `jaxfm.stress`."""

# N rows, C classes

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.core.task import Task
from jaxfm.errors import UserError

TEXTS, WORDS, IMAGE = "texts", "words", "image"
READS = (TEXTS, WORDS, IMAGE)


@dataclasses.dataclass(frozen=True, slots=True)
class TextsRecord:
    """A text, or the two texts of a pair."""

    texts: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class WordsRecord:
    """The words of a sentence with their tags in strict BIO; without known tags all are O."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ImageRecord:
    """The pixels of an image, uint8 [H, W, C], in the size in which the model reads it."""

    pixels: np.ndarray


# A record of sound would be the next: a class here, and lines in the tables of `jaxfm/data/perturbations/`.
Record = TextsRecord | WordsRecord | ImageRecord


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Records as rows, and where each of them lies.

    Attributes:
      rows: what is computed.
      places: int [M, 3] record, row and segment (from 0) of each part of a record, in the order of the records. A long
        record may have several parts.
      detail: what the task needs to read outputs.
    """

    rows: Dataset
    places: np.ndarray
    detail: Any = None


def one_place_each(locations: np.ndarray) -> np.ndarray:
    """Returns `places` of records with one part each; `locations` [E, ...] begins with row and segment."""
    return np.concatenate([np.arange(len(locations))[:, None], locations[:, :2]], axis=1)


@runtime_checkable
class ChangesRecords(Protocol):
    """What a task is beside `Task` where the inputs of a split can be changed; their targets stay what they are.

    Record number n of a split is unit number n of its scorer's `BootstrapData`.
    """

    @property
    def reads(self) -> str:
        """The kind of its records, one of READS."""
        ...

    @property
    def probability(self) -> str:
        """What makes probabilities of `unit_logits`: "softmax" or "sigmoid"; "" where it has no classes."""
        ...

    def records(self, split: str) -> Sequence[Record]:
        """Returns the inputs of a split; of words with their tags."""
        ...

    def with_records(self, split: str, records: Sequence[Record], index: Sequence[int]) -> Task:
        """Returns the task over this split with other inputs in place of those with these numbers, and no others.

        Tags of words are targets: a word that is put in has one too.
        """
        ...

    def encode_records(self, records: Sequence[Record]) -> EncodedRecords:
        """Returns rows of records without targets."""
        ...

    def unit_logits(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the logits of each record that `encode_records` was given: [1, C], or [words, C]."""
        ...

    def classes(self, split: str) -> np.ndarray | None:
        """Returns the class int [records] of each record; None where a record has not one class."""
        ...

    def other_records(self, source: str, split: str) -> Sequence[Record]:
        """Reads the inputs of a split of another source, whatever its labels. UserError as any reader's."""
        ...


def reads_records(task: Any, name: str) -> ChangesRecords:
    """Returns the task as one whose inputs can be changed; UserError naming the task where they cannot."""
    if isinstance(task, ChangesRecords):
        return task
    raise UserError(
        f"--workdir: is a run of the task {name!r}, which does not say how the inputs of its records are changed with "
        "their targets kept (core.records.ChangesRecords); ner, classification and image_classification do."
    )
