"""What a task may say of its labels and of their probabilities, so that wrong ones can be found: `jaxfm.audit`."""

# W words (1 where a whole record has the label), C classes

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxfm.errors import UserError

TEXT, PAIR, LABEL, TOKENS, TAGS, DOCUMENT, IMAGE = "text", "pair", "label", "tokens", "ner_tags", "document", "image"
"""Columns of `LabelledRecord.row`: names that readers find by themselves."""
GROUP, TIME = "group", "time"
"""Further columns of it, where splits are kept apart by groups and times (`data.records.split_keys`)."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LabelledRecord:
    """A record with its label, or its labels.

    Attributes:
      row: what the task reads again as a row of a table, in memory or of JSON lines: text and pair, or tokens and tags,
        or an image (`data.images.stored.StoredImage`), with the label; the document where neighbours belong together.
      origin: where it was read, "dir/train.conll:12".
      classes: int [W] of each word, [1] of a record; bool [1, C] where a record may have any number of classes.
    """

    row: Mapping[str, Any]
    origin: str
    classes: np.ndarray


@runtime_checkable
class HasClassLabels(Protocol):
    """What a task is beside `Task` where records, or their words, have classes with probabilities."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of `class_probabilities`; of words their tags in strict BIO."""
        ...

    def label_problem(self) -> str:
        """Returns why its labels are not classes; "" where they are."""
        ...

    def labelled(self, split: str) -> list[LabelledRecord]:
        """Returns the records of a split as they were read, without copies made for training."""
        ...

    def class_probabilities(self, split: str, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the probabilities float64 [W, C] of each record of a split, from the outputs of its rows.

        Where a record may have any number of classes they are of each class by itself.
        """
        ...


def with_class_labels(task: Any, name: str) -> HasClassLabels:
    """Returns the task as one whose labels are classes; UserError naming the task where they are not."""
    if not isinstance(task, HasClassLabels):
        raise UserError(
            f"config.task.name: {name!r} has no class per record or word, which is what is audited "
            "(core.labels.HasClassLabels); classification, image_classification and ner do."
        )
    if problem := task.label_problem():
        raise UserError(f"config.task: {problem}")
    return task
