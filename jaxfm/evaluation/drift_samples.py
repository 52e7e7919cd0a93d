"""What is known of the two samples that drift compares: what a run says of records, words that differ."""

# N records, C classes, D numbers of a vector

import dataclasses

import numpy as np

from jaxfm.evaluation.error_estimate import Judged


@dataclasses.dataclass(frozen=True, eq=False)
class Looked:
    """What a run says of the records of one side.

    Attributes:
      vectors: f32 [N, D].
      judged: how sure it is of each unit; None where it gives no probabilities.
      predicted: f64 [N, C] how often each class is predicted of a record, once or of its words; None likewise.
      classes: names of the classes.
      gold: int [N] class of each record; None where it is not known, or a record has not one class.
    """

    vectors: np.ndarray
    judged: Judged | None = None
    predicted: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    gold: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Word:
    """A word, or mark, that is more or less frequent in the new texts.

    Attributes:
      word: in small letters.
      new: occurrences in a thousand words of the new texts.
      reference: the same of the reference.
      share: of the divergence of the two distributions that is due to it.
    """

    word: str
    new: float
    reference: float
    share: float
