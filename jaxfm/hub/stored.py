"""Parameters that are read from a checkpoint's tensors when they are asked for, in jaxfm's layout."""

import dataclasses
from typing import Any

import numpy as np

from jaxfm.core.initial import HostArray, StoredArray
from jaxfm.families.tensors import Tensor
from jaxfm.hub.tensor_files import StoredTensor


class _Rows:
    """What arrays have in common whose rows of the first axis are made when they are asked for; all are f32."""

    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop` - 1 of the first axis."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, whatever it is in the file."""
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> Any:
        """Returns a part as numpy does; only rows that a leading slice or number asks for are read."""
        first, *others = index if isinstance(index, tuple) else (index,)
        if isinstance(first, int | np.integer):
            return self[(slice(range(len(self))[first], range(len(self))[first] + 1), *others)][0]
        if not isinstance(first, slice) or first.step not in (None, 1):
            return np.asarray(self)[index]
        start, stop, _ = first.indices(len(self))
        return self.rows(start, max(start, stop))[(slice(None), *others)]

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> np.ndarray:
        assert copy is not False, "the numbers are in a file"
        return self.rows(0, len(self)).astype(dtype or np.float32, copy=False)


@dataclasses.dataclass(frozen=True)
class StoredParam(_Rows):
    """A parameter whose layers, or whose whole, are tensors of a checkpoint.

    Attributes:
      tensors: one a layer where `layout` is layered, else one.
      layout: how the parameter lies in them.
      shape: of the parameter.
    """

    tensors: tuple[StoredTensor, ...]
    layout: Tensor
    shape: tuple[int, ...]

    @property
    def rows_apart(self) -> bool:
        """Whether reading the first axis in blocks reads each number of the file once."""
        return self.layout.layered or self._as_stored

    @property
    def _as_stored(self) -> bool:
        layout = self.layout
        plain = not layout.layered and not layout.inputs and not layout.conv and layout.parts == 1
        return plain and self.tensors[0].shape == self.shape

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop` - 1 of the first axis."""
        if self.layout.layered:
            values = np.empty((stop - start, *self.shape[1:]), np.float32)
            for row, tensor in enumerate(self.tensors[start:stop]):
                values[row] = self._one(tensor, self.shape[1:])
            return values
        if self._as_stored:
            return self.tensors[0].rows_f32(start, stop)
        return self._one(self.tensors[0], self.shape)[start:stop]

    def _one(self, tensor: StoredTensor, shape: tuple[int, ...]) -> np.ndarray:
        layout, count = self.layout, tensor.shape[0] // self.layout.parts
        own = (0, tensor.shape[0]) if layout.by_head else (layout.part * count, (layout.part + 1) * count)
        return layout.take(tensor.rows_f32(*own), shape)


@dataclasses.dataclass(frozen=True)
class WithRows(_Rows):
    """An array, `added` rows after its own, and rows of zeros up to `total`."""

    stored: HostArray
    added: np.ndarray
    total: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return (self.total, *self.stored.shape[1:])

    @property
    def rows_apart(self) -> bool:
        """Whether reading the first axis in blocks reads each number of the file once."""
        return not isinstance(self.stored, StoredArray) or self.stored.rows_apart

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns rows `start` to `stop` - 1 of the first axis."""
        own = len(self.stored)
        if stop <= own:
            return np.asarray(self.stored[start:stop], np.float32)
        values = np.zeros((stop - start, *self.stored.shape[1:]), np.float32)
        for first, rows in ((0, self.stored), (own, self.added)):
            low, high = max(start, first), min(stop, first + len(rows))
            if low < high:
                values[low - start : high - start] = rows[low - first : high - first]
        return values
