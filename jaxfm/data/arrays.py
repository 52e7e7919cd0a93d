"""A dataset of arrays in memory, of any modality."""

# N rows, n rows asked for

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Volume


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Rows held in memory as one array a field (implements jaxfm.core.batch.Dataset).

    Attributes:
      arrays: for each field of `spec` an array [N, ...].
      spec: the fields.
      volume: what a row is worth.
    """

    arrays: Mapping[str, np.ndarray]
    spec: BatchSpec
    volume: Volume

    def __post_init__(self) -> None:
        lengths = {len(array) for array in self.arrays.values()}
        assert set(self.arrays) == set(self.spec) and len(lengths) == 1, "one array of N rows for each field"

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for."""
        return {name: np.asarray(array[index], self.spec[name].dtype) for name, array in self.arrays.items()}

    def fingerprint(self) -> str:
        """The sha256 over the names, types, shapes and bytes of all arrays."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
