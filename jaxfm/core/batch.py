"""What a batch is made of, and what a set of rows must offer to be trained or scored on."""

# N rows, n rows asked for, B batch

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Field:
    """One array of a batch.

    Attributes:
      shape: of one row; a batch has [B, *shape].
      dtype: int32, or f32 for real numbers.
      fill: value of rows that only fill up a batch.
      axes: names of the leading axes of `shape` that may be cut along the mesh ("tokens": along its axis `sequence`);
        axes that are not named stay whole.
    """

    shape: tuple[int, ...]
    dtype: np.dtype = dataclasses.field(default=np.dtype(np.int32))
    fill: float = 0
    axes: tuple[str, ...] = ()


BatchSpec = Mapping[str, Field]


@dataclasses.dataclass(frozen=True)
class Volume:
    """What the rows of a dataset are worth: speed, and what a log says of sizes, is counted in this unit.

    Attributes:
      unit: plural noun: "tokens", "patches", "frames".
      per_row: units of a row, padding included; what the devices compute.
      useful_per_row: units of a row that are not padding, on average over the dataset.
      longest: units of the longest example seen; 0: not known.
      singular: of `unit`.
      examples_per_row: labelled examples of a row on average; 0: rows are not made of examples.
    """

    unit: str
    per_row: int
    useful_per_row: float
    longest: int = 0
    singular: str = "token"
    examples_per_row: float = 0.0

    @property
    def useful_share(self) -> float:
        """The share of the units that are not padding."""
        return self.useful_per_row / max(self.per_row, 1)


class Units(NamedTuple):
    """What a model has computed so far: `computed` tokens (or patches) of rows, `useful` of them no padding."""

    computed: int = 0
    useful: int = 0


class Dataset(Protocol):
    """Rows by index, in memory or on disk; each batch is a pure function of them, a seed and a step."""

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch, by name."""
        ...

    @property
    def volume(self) -> Volume:
        """What a row is worth."""
        ...

    def __len__(self) -> int:
        """The number of rows N."""
        ...

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for: for each field of `spec` an array [n, *shape]."""
        ...

    def fingerprint(self) -> str:
        """Identifies the rows' content: a checkpoint remembers it, and a run goes on with the same content only."""
        ...


def axes_of(spec: BatchSpec) -> dict[str, tuple[str, ...]]:
    """Returns the names of the axes of each field that may be cut along the mesh (`parallel.mesh.shard_batch`)."""
    return {name: field.axes for name, field in spec.items()}
