"""Some rows of a split, evenly spread over it."""

# N rows, n rows asked for

import dataclasses
import hashlib

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Dataset, Volume


def spread_index(rows: int, most: int) -> np.ndarray:
    """Returns the numbers of at most `most` of `rows` rows (0: of all), evenly spread, int64 [N]."""
    count = min(rows, most) if most else rows
    return np.arange(count) * rows // max(count, 1)


@dataclasses.dataclass(frozen=True, eq=False)
class SpreadRows:
    """Rows of another dataset (implements jaxfm.core.batch.Dataset).

    Attributes:
      rows: all rows.
      index: [N] which of them are here.
    """

    rows: Dataset
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        return self.rows.spec

    @property
    def volume(self) -> Volume:
        """Tokens of a row, on average over all rows."""
        return self.rows.volume

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for as a batch."""
        return self.rows.take(self.index[np.asarray(index, np.int64)])

    def fingerprint(self) -> str:
        """The sha256 over what all rows are and which are here."""
        digest = hashlib.sha256(self.rows.fingerprint().encode())
        digest.update(np.ascontiguousarray(self.index, "<i8").data)
        return digest.hexdigest()
