"""The batch of step s as a pure function of (rows, seed, s). The one file that knows grain, which reads ahead."""

# N rows, B batch over all hosts, T tokens

import contextlib
import fractions
import functools
import math
from collections.abc import Generator, Iterator
from typing import Protocol

import grain
import numpy as np

from jaxfm.data import packing
from jaxfm.errors import UserError

_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

Batch = dict[str, np.ndarray]


class Rows(Protocol):
    """Packed rows by index, in memory (`packing.PackedRows`) or on disk (`shards.ShardedRows`)."""

    def __len__(self) -> int:
        """The number of rows N."""
        ...

    @property
    def row_length(self) -> int:
        """Tokens a row, T."""
        ...

    @property
    def pad_id(self) -> int:
        """The padding token."""
        ...

    @property
    def useful_share(self) -> float:
        """The share of tokens that are not padding."""
        ...

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for, int32 [n, T] a field."""
        ...

    def fingerprint(self) -> str:
        """Identifies the rows' content."""
        ...


class TrainBatches:
    """Endless training batches over packed rows: each epoch is every row once, in an order of its own.

    Step s takes positions s*B .. (s+1)*B of the endless stream of epochs, so a batch may straddle two epochs and no row
    is ever dropped or repeated within one. Each host gets its contiguous share of the same global batch. The order does
    not use grain's shuffle: it costs the same 2**16 rounds an epoch for 5 rows as for 50,000, and its epoch 1 of seed 0
    is epoch 0 of seed 1.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """`batch_size` counts rows over all hosts. Raises UserError if the hosts cannot share it evenly."""
        assert len(rows) > 0, "no rows to train on"
        self._rows = rows
        self._batch_size = batch_size
        self._share = _host_share(batch_size, process_index, process_count)
        # A batch is made in a thread; two epochs meet in a batch, and read-ahead may be one further.
        self._order = functools.lru_cache(maxsize=4)(functools.partial(packing.shuffled, len(rows), seed))

    def batch(self, step: int) -> Batch:
        """This host's part of the batch of `step`: int32 arrays [B / hosts, T]."""
        assert step >= 0
        positions = step * self._batch_size + np.arange(self._share.start, self._share.stop)
        epochs, within = np.divmod(positions, len(self._rows))
        index = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = self._order(int(epoch))[within[here]]
        return self._rows.take(index)

    def epoch_of(self, step: int) -> float:
        """How many epochs lie before the batch of `step`."""
        return step * self._batch_size / len(self._rows)

    def steps_for(self, epochs: float) -> int:
        """The least number of steps that covers `epochs`."""
        # From the decimal as written: 0.1 epochs of 30 rows are 3 rows, not 3.0000000000000004.
        return math.ceil(fractions.Fraction(str(epochs)) * len(self._rows) / self._batch_size)

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """Yields the batches of start_step .. stop_step - 1, made ahead in threads; closing it stops the threads."""
        assert 0 <= start_step <= stop_step
        steps = grain.MapDataset.range(start_step, stop_step).map(self.batch)
        with contextlib.closing(iter(steps.to_iter_dataset(_READ_AHEAD))) as batches:
            yield from batches


def eval_batches(rows: Rows, batch_size: int, process_index: int = 0, process_count: int = 1) -> Iterator[Batch]:
    """Yields every row once, in order, in batches of one shape, int32 [B / hosts, T]; empty rows fill up the last one.

    Row r of the data is row r % B of global batch r // B. Raises UserError if the hosts cannot share a batch evenly.
    """
    share = _host_share(batch_size, process_index, process_count)
    empty = {"tokens": rows.pad_id, "labels": -1}
    for first in range(0, len(rows), batch_size):
        here = np.arange(first + share.start, min(first + share.stop, len(rows)))
        missing = len(share) - len(here)
        yield {
            name: np.pad(values, ((0, missing), (0, 0)), constant_values=empty.get(name, 0))
            for name, values in rows.take(here).items()
        }


def _host_share(batch_size: int, process_index: int, process_count: int) -> range:
    """The rows of a global batch that this host makes."""
    assert 0 <= process_index < process_count
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size = {batch_size}: must be a positive multiple of the number of processes, {process_count}"
        )
    each = batch_size // process_count
    return range(process_index * each, (process_index + 1) * each)
