import threading
import time

import numpy as np
import pytest

from jaxfm.data.pipeline import HostRows, TrainBatches, eval_batches
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.errors import UserError

T = 8
FIELDS = ("tokens", "segment_ids", "positions", "labels")


def some_rows(count: int) -> PackedRows:
    """Rows of one full example each, whose first token tells which row it is."""
    tokens = [np.full(T, 100 + row, np.int32) for row in range(count)]
    return build_rows(tokens, [array + 1000 for array in tokens], T, pad_id=7, seed=None)


def drawn(batches: list[dict[str, np.ndarray]]) -> list[int]:
    return [int(token) - 100 for batch in batches for token in batch["tokens"][:, 0]]


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def share_of(host: int, hosts: int) -> HostRows:
    return lambda size: np.arange(host * size // hosts, (host + 1) * size // hosts)


@pytest.mark.parametrize(("count", "batch_size"), [(12, 4), (13, 4), (5, 16), (1, 4), (64, 64)])
def test_every_row_is_drawn_once_an_epoch(count: int, batch_size: int) -> None:
    batches = TrainBatches(some_rows(count), batch_size=batch_size, seed=3)
    stream = drawn([batches.batch(step) for step in range(batches.steps_for(6))])
    assert len(stream) >= 6 * count
    epochs = [stream[first : first + count] for first in range(0, 6 * count, count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 4:
        assert len({tuple(epoch) for epoch in epochs}) == 6  # each in an order of its own


def test_a_batch_holds_the_packed_fields_of_its_rows() -> None:
    lengths = [3, 5, 2, 8, 6, 1, 1, 4]
    tokens = [np.arange(length, dtype=np.int32) + 10 * n for n, length in enumerate(lengths)]
    rows = build_rows(tokens, [-array - 2 for array in tokens], T, pad_id=7, seed=1)
    batch = TrainBatches(rows, batch_size=2, seed=0).batch(1)
    assert tuple(batch) == FIELDS == tuple(rows.spec)
    for row in range(2):
        (source,) = np.flatnonzero((rows.tokens == batch["tokens"][row]).all(axis=1))
        for name, values in batch.items():
            assert values.shape == (2, T) and values.dtype == np.int32
            np.testing.assert_array_equal(values[row], getattr(rows, name)[source])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batch(hosts: int) -> None:
    rows = some_rows(11)
    alone = TrainBatches(rows, batch_size=8, seed=5)
    shares = [TrainBatches(rows, batch_size=8, seed=5, host_rows=share_of(host, hosts)) for host in range(hosts)]
    for step in range(7):
        parts = [share.batch(step) for share in shares]
        assert_equal(alone.batch(step), {name: np.concatenate([p[name] for p in parts]) for name in FIELDS})


def test_reading_ahead_and_resuming_change_nothing() -> None:
    rows = some_rows(11)
    batches = TrainBatches(rows, batch_size=4, seed=5)
    expected = [batches.batch(step) for step in range(40)]
    for start in (0, 1, 23):
        resumed = TrainBatches(rows, batch_size=4, seed=5)
        found = list(resumed.iterate(start, 40))
        assert len(found) == 40 - start
        for a, b in zip(expected[start:], found, strict=True):
            assert_equal(a, b)
    assert list(batches.iterate(40, 40)) == []


def test_the_seed_sets_the_order() -> None:
    rows = some_rows(50)
    orders = [drawn([TrainBatches(rows, batch_size=50, seed=seed).batch(step)]) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4  # also: epoch 1 of seed 0 is not epoch 0 of seed 1


def test_a_batch_belongs_to_its_reader() -> None:
    rows = some_rows(4)
    batches = TrainBatches(rows, batch_size=4, seed=0)
    before = batches.batch(0)["tokens"].copy()
    batches.batch(0)["tokens"][:] = 0
    np.testing.assert_array_equal(batches.batch(0)["tokens"], before)


def test_epochs_and_steps() -> None:
    batches = TrainBatches(some_rows(30), batch_size=4, seed=0)
    assert [batches.steps_for(epochs) for epochs in (1, 2, 3, 0.5, 0.1)] == [8, 15, 23, 4, 1]
    assert batches.epoch_of(0) == 0 and batches.epoch_of(15) == 2
    assert TrainBatches(some_rows(30), batch_size=1, seed=0).steps_for(0.1) == 3  # 0.1 * 30 > 3 in floats


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


@pytest.mark.parametrize("end", ["exhausted", "closed", "dropped", "never started"])
def test_no_thread_outlives_an_iterator(end: str) -> None:
    for thread in reading_threads():
        thread.join(timeout=10)
    batches = TrainBatches(some_rows(9), batch_size=4, seed=0)
    iterator = batches.iterate(0, 20 if end == "exhausted" else 10**9)
    if end == "exhausted":
        assert len(list(iterator)) == 20
    elif end != "never started":
        next(iterator)
        assert reading_threads()
    if end == "closed":
        iterator.close()
    elif end == "dropped":
        del iterator
    for thread in reading_threads():
        thread.join(timeout=10)
    assert reading_threads() == []


def test_an_error_while_reading_reaches_the_caller() -> None:
    batches = TrainBatches(some_rows(4), batch_size=4, seed=0)
    iterator = batches.iterate(0, 10)
    next(iterator)
    batches._rows = None  # type: ignore[assignment]
    with pytest.raises((TypeError, AttributeError)):  # whichever line the thread has reached
        for _ in iterator:
            time.sleep(0)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_reads_every_row_once_in_order(hosts: int) -> None:
    rows = some_rows(10)
    per_host = [list(eval_batches(rows, 4, share_of(host, hosts))) for host in range(hosts)]
    assert [len(batches) for batches in per_host] == [3] * hosts
    for number, parts in enumerate(zip(*per_host, strict=True)):
        whole = {name: np.concatenate([part[name] for part in parts]) for name in FIELDS}
        assert all(values.shape == (4, T) and values.dtype == np.int32 for values in whole.values())
        real = min(4, 10 - 4 * number)
        for name, values in whole.items():
            np.testing.assert_array_equal(values[:real], getattr(rows, name)[4 * number : 4 * number + real])
            empty = {"tokens": 7, "labels": -1}.get(name, 0)
            assert (values[real:] == empty).all()


def test_evaluation_of_nothing_has_no_batch() -> None:
    assert list(eval_batches(some_rows(0), 4)) == []


def test_a_host_makes_the_rows_it_is_asked_for_wherever_they_lie() -> None:
    rows = some_rows(10)
    own = np.asarray([1, 2, 5])
    whole, part = (TrainBatches(rows, batch_size=6, seed=4, host_rows=share) for share in (np.arange, lambda _: own))
    for step in range(5):
        assert_equal(part.batch(step), {name: values[own] for name, values in whole.batch(step).items()})
    for whole, part in zip(eval_batches(rows, 6), eval_batches(rows, 6, lambda _: own), strict=True):
        assert_equal(part, {name: values[own] for name, values in whole.items()})


def test_a_batch_that_grows_drops_and_repeats_no_row() -> None:
    rows = some_rows(37)
    batches = TrainBatches(rows, batch_size=16, seed=2, first_batch_size=2, warmup_steps=7)
    assert batches.sizes == (2, 4, 8, 16)
    sizes = [len(batches.batch(step)["tokens"]) for step in range(12)]
    assert sizes == [batches.size(step) for step in range(12)] == [2] * 2 + [4] * 2 + [8] * 3 + [16] * 5
    assert [batches.rows_before(step) for step in range(13)] == np.cumsum([0, *sizes]).tolist()
    # The same stream of rows as with one size.
    stream = drawn([batches.batch(step) for step in range(12)])
    whole = drawn([TrainBatches(rows, batch_size=sum(sizes), seed=2).batch(0)])
    assert stream == whole
    for epochs in (0.01, 0.3, 1, 2, 3.2):
        steps = batches.steps_for(epochs)
        assert batches.rows_before(steps) >= epochs * 37 > batches.rows_before(steps - 1)
    parts = [
        TrainBatches(rows, batch_size=16, seed=2, first_batch_size=2, warmup_steps=7, host_rows=share_of(host, 2))
        for host in range(2)
    ]
    for step in (0, 3, 6, 9):
        assert_equal(batches.batch(step), {n: np.concatenate([p.batch(step)[n] for p in parts]) for n in FIELDS})


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((16, 3, 5), "3 does not double up to the batch size of 16; 8, 4, 2, 1 does"),
        ((16, 16, 5), "16 does not double up"),
        ((16, 32, 5), "32 does not double up"),
        ((15, 5, 5), "nothing does"),
        ((16, 4, 0), "needs both"),
        ((16, 0, 5), "needs both"),
    ],
)
def test_sizes_that_do_not_grow_into_the_batch_are_refused(sizes: tuple[int, int, int], words: str) -> None:
    size, first, steps = sizes
    with pytest.raises(UserError, match=words):
        TrainBatches(some_rows(8), batch_size=size, seed=0, first_batch_size=first, warmup_steps=steps)
