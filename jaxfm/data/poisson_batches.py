"""Batches into which every row comes by itself with the same probability, as accounting for privacy assumes."""

# N rows, C rows that a batch has room for

import functools
import math

import numpy as np

from jaxfm.core.batch import Batch, Dataset
from jaxfm.data.pipeline import HostRows, TrainBatches

# Deviations above the expected size that a batch has room for: at eight, what is lost to privacy is beyond measure.
_DEVIATIONS = 8
_STREAM = 0x706F6973


def capacity_of(expected: int, rows: int, multiple: int) -> int:
    """Returns the room of a batch: eight deviations above the expected size, or all rows, and a multiple of that."""
    most = min(math.ceil(expected + _DEVIATIONS * math.sqrt(expected)), rows)
    return -(-most // multiple) * multiple


class PoissonBatches(TrainBatches):
    """Endless batches that are drawn: row n is in the batch of step s with probability B / N, by itself.

    Batches have one shape; rows that only fill up are as `Field.fill` says. A batch of more rows than it has room for
    keeps a random subset. An epoch is N / B steps, after which a row has been taken once on average.
    """

    def __init__(
        self, rows: Dataset, *, batch_size: int, capacity: int, seed: int, host_rows: HostRows = np.arange
    ) -> None:
        """`batch_size`: B, the expected rows of a batch; `capacity`: C, what a batch has room for."""
        assert batch_size <= len(rows), (batch_size, len(rows))
        super().__init__(rows, batch_size=batch_size, seed=seed, host_rows=host_rows)
        self.capacity, self.rate, self._seed = capacity, batch_size / len(rows), seed
        self._own = functools.cache(host_rows)

    def row_numbers(self, step: int) -> np.ndarray:
        """Returns which rows the batch of `step` has, rising; any number up to the capacity."""
        generator = np.random.default_rng((self._seed, step, _STREAM))
        drawn = np.flatnonzero(generator.random(len(self._rows)) < self.rate)
        if len(drawn) > self.capacity:
            drawn = np.sort(generator.choice(drawn, self.capacity, replace=False))
        return drawn

    def batch(self, step: int) -> Batch:
        """This host's part of the batch of `step`: an array [rows, ...] for each field of the dataset."""
        return self._filled(step, self._own(self.capacity))

    def whole_batch(self, step: int) -> Batch:
        """All of the batch of `step`: arrays [C, ...]."""
        return self._filled(step, np.arange(self.capacity))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The one size that batches have."""
        return (self.capacity,)

    def size(self, step: int) -> int:
        """Rows of a batch, those that only fill it up too."""
        del step
        return self.capacity

    def _filled(self, step: int, places: np.ndarray) -> Batch:
        numbers = self.row_numbers(step)
        there = places < len(numbers)
        # Any row where none belongs, overwritten below: the dataset is asked once, and for one row at least.
        found = self._rows.take(numbers[places[there]] if there.any() else np.zeros(1, np.int64))
        batch = {}
        for name, field in self._rows.spec.items():
            batch[name] = np.full((len(places), *field.shape), field.fill, field.dtype)
            if there.any():
                batch[name][there] = found[name]
        return batch
