"""The batch of step s as a pure function of (rows, seed, s). The one file that knows grain, which reads ahead."""

# N rows, B batch over all hosts, T tokens

import bisect
import contextlib
import fractions
import functools
import math
from collections.abc import Callable, Generator, Iterator

import grain
import numpy as np

from jaxfm.core.batch import Batch, Dataset
from jaxfm.data.text import packing
from jaxfm.errors import UserError

_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)

# Size of a batch over all hosts -> which of its rows this host makes, ascending (`parallel.mesh.host_rows`).
HostRows = Callable[[int], np.ndarray]


class BatchSizes:
    """Rows of each step: one size or, while a run warms up, first a fraction of it that doubles at equal intervals.

    Early in training small batches suffice: gradient noise is still low (McCandlish et al. 2018; Warner et al. 2024
    start ModernBERT so). Sizes depend on the step alone, so a batch is still a pure function of it.
    """

    def __init__(self, full: int, *, first: int = 0, warmup_steps: int = 0) -> None:
        """`full` rows after `warmup_steps` steps that start with `first` rows (0: no warm-up)."""
        if bool(first) != bool(warmup_steps):
            raise UserError(
                f"config.train.first_batch_size: is {first} and config.train.batch_warmup_steps is {warmup_steps}; "
                "a batch that grows needs both, one that does not needs neither."
            )
        doublings = (full // first).bit_length() - 1 if first else 0
        if first and (doublings < 1 or first << doublings != full):
            fitting = [str(full >> power) for power in range(1, full.bit_length()) if full % (1 << power) == 0]
            raise UserError(
                f"config.train.first_batch_size: {first} does not double up to the batch size of {full}; "
                f"{', '.join(fitting) or 'nothing'} does."
            )
        # Stage i starts at step starts[i], after rows_before[i] rows, with sizes[i] rows a step.
        self.sizes = tuple(full >> (doublings - stage) for stage in range(doublings + 1))
        self._starts = [stage * warmup_steps // max(doublings, 1) for stage in range(doublings + 1)]
        self._rows_before = [0]
        for stage in range(doublings):
            steps = self._starts[stage + 1] - self._starts[stage]
            self._rows_before.append(self._rows_before[-1] + steps * self.sizes[stage])

    def size(self, step: int) -> int:
        """Rows of the batch of `step`."""
        return self.sizes[bisect.bisect_right(self._starts, step) - 1]

    def rows_before(self, step: int) -> int:
        """Rows of all batches before `step`."""
        stage = bisect.bisect_right(self._starts, step) - 1
        return self._rows_before[stage] + (step - self._starts[stage]) * self.sizes[stage]

    def steps_for(self, rows: fractions.Fraction) -> int:
        """The least number of steps that covers so many rows."""
        stage = bisect.bisect_left(self._rows_before, rows) - 1 if rows > 0 else 0
        return self._starts[stage] + math.ceil((rows - self._rows_before[stage]) / self.sizes[stage])


class TrainBatches:
    """Endless training batches over the rows of a dataset: each epoch is every row once, in an order of its own.

    Step s takes the B rows of the endless stream of epochs that follow those of the steps before, so a batch may
    straddle two epochs and no row is ever dropped or repeated within one. Each host makes its share of the same
    global batch. The order does not use grain's shuffle: it costs the same 2**16 rounds an epoch for 5 rows as for
    50,000, and its epoch 1 of seed 0 is epoch 0 of seed 1.
    """

    def __init__(
        self,
        rows: Dataset,
        *,
        batch_size: int,
        seed: int,
        first_batch_size: int = 0,
        warmup_steps: int = 0,
        host_rows: HostRows = np.arange,
    ) -> None:
        """`batch_size` counts rows over all hosts; see `BatchSizes` for how it may grow.

        Raises UserError if the first size does not double up to the last.
        """
        assert len(rows) > 0, "no rows to train on"
        self._rows = rows
        self._sizes = BatchSizes(batch_size, first=first_batch_size, warmup_steps=warmup_steps)
        self._host_rows = functools.cache(host_rows)
        # A batch is made in a thread; two epochs meet in a batch, and read-ahead may be one further.
        self._order = functools.lru_cache(maxsize=4)(functools.partial(packing.shuffled, len(rows), seed))

    def batch(self, step: int) -> Batch:
        """This host's rows of the batch of `step`: an array [rows, ...] for each field of the dataset."""
        return self._rows.take(self.row_numbers(step)[self._host_rows(self._sizes.size(step))])

    def whole_batch(self, step: int) -> Batch:
        """All rows of the batch of `step`, those of other hosts too: arrays [B, ...]."""
        return self._rows.take(self.row_numbers(step))

    def row_numbers(self, step: int) -> np.ndarray:
        """Returns which rows of the dataset the batch of `step` has, [B] over all hosts."""
        assert step >= 0
        positions = self._sizes.rows_before(step) + np.arange(self._sizes.size(step))
        epochs, within = np.divmod(positions, len(self._rows))
        index = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            index[here] = self._order(int(epoch))[within[here]]
        return index

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes of the run over all hosts, the last one for good."""
        return self._sizes.sizes

    def size(self, step: int) -> int:
        """Rows of the batch of `step` over all hosts."""
        return self._sizes.size(step)

    def rows_before(self, step: int) -> int:
        """Rows over all hosts of the batches before `step`."""
        return self._sizes.rows_before(step)

    def epoch_of(self, step: int) -> float:
        """How many epochs lie before the batch of `step`."""
        return self._sizes.rows_before(step) / len(self._rows)

    def steps_for(self, epochs: float) -> int:
        """The least number of steps that covers `epochs`."""
        # From the decimal as written: 0.1 epochs of 30 rows are 3 rows, not 3.0000000000000004.
        return self._sizes.steps_for(fractions.Fraction(str(epochs)) * len(self._rows))

    def iterate(self, start_step: int, stop_step: int) -> Generator[Batch, None, None]:
        """Yields the batches of start_step .. stop_step - 1, made ahead in threads; closing it stops the threads."""
        assert 0 <= start_step <= stop_step
        steps = grain.MapDataset.range(start_step, stop_step).map(self.batch)
        with contextlib.closing(iter(steps.to_iter_dataset(_READ_AHEAD))) as batches:
            yield from batches


def eval_batches(rows: Dataset, batch_size: int, host_rows: HostRows = np.arange) -> Iterator[Batch]:
    """Yields every row once, in order, in batches of one shape; empty rows fill up the last one.

    Row r of the data is row r % B of global batch r // B, of which this host makes its share, arrays [rows, ...].
    """
    own = host_rows(batch_size)
    spec = rows.spec
    for first in range(0, len(rows), batch_size):
        here = first + own[first + own < len(rows)]
        missing = len(own) - len(here)
        yield {
            name: np.pad(values, ((0, missing), *[(0, 0)] * (values.ndim - 1)), constant_values=spec[name].fill)
            for name, values in rows.take(here).items()
        }
