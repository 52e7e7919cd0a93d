import numpy as np
import pytest

from jaxfm.core.batch import Field, Volume
from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.poisson_batches import PoissonBatches, capacity_of


def _rows(count: int) -> ArrayDataset:
    spec = {"tokens": Field((3,)), "labels": Field((1,), fill=-1)}
    numbers = np.arange(count, dtype=np.int32)
    return ArrayDataset({"tokens": np.repeat(numbers[:, None], 3, 1) + 1, "labels": numbers[:, None]}, spec, VOLUME)


VOLUME = Volume("tokens", 3, 3.0)


def test_every_row_comes_by_itself_with_the_same_probability() -> None:
    batches = PoissonBatches(_rows(12), batch_size=3, capacity=12, seed=4)
    drawn = np.zeros((4000, 12))
    for step in range(4000):
        drawn[step, batches.row_numbers(step)] = 1
    # Deviations: of a share 0.0068, of a correlation 0.0158; the bounds are five and 4.5 of these.
    np.testing.assert_allclose(drawn.mean(axis=0), 0.25, atol=0.034)
    assert np.abs(np.corrcoef(drawn.T)[np.triu_indices(12, 1)]).max() < 0.071
    # Steps know nothing of each other: a row may come twice in a row of steps.
    assert np.abs(np.mean(drawn[1:] * drawn[:-1]) - 0.25**2) < 0.01
    assert drawn.sum(axis=1).var() == pytest.approx(12 * 0.25 * 0.75, rel=0.1)


def test_a_batch_is_a_function_of_rows_seed_and_step_and_is_filled_up() -> None:
    batches, again = (PoissonBatches(_rows(20), batch_size=5, capacity=16, seed=1) for _ in range(2))
    other = PoissonBatches(_rows(20), batch_size=5, capacity=16, seed=2)
    for step in (0, 7):
        batch, numbers = batches.batch(step), batches.row_numbers(step)
        assert batch["tokens"].shape == (16, 3) and batch["labels"].shape == (16, 1)
        np.testing.assert_array_equal(batch["labels"][: len(numbers), 0], numbers)
        assert (batch["labels"][len(numbers) :] == -1).all() and (batch["tokens"][len(numbers) :] == 0).all()
        np.testing.assert_array_equal(batch["tokens"], again.batch(step)["tokens"])
        np.testing.assert_array_equal(batch["tokens"], batches.whole_batch(step)["tokens"])
    assert any(list(batches.row_numbers(step)) != list(other.row_numbers(step)) for step in range(3))
    assert list(batches.iterate(7, 8))[0]["labels"].tolist() == batches.batch(7)["labels"].tolist()


def test_hosts_make_their_parts_of_one_batch_and_none_at_all_is_a_batch_too() -> None:
    whole = PoissonBatches(_rows(20), batch_size=1, capacity=8, seed=3)
    parts = [
        PoissonBatches(
            _rows(20), batch_size=1, capacity=8, seed=3, host_rows=lambda size, at=at: np.arange(at, size, 2)
        )
        for at in (0, 1)
    ]
    empty = 0
    for step in range(20):
        expected = whole.batch(step)
        empty += (expected["labels"] == -1).all()
        for at, part in enumerate(parts):
            np.testing.assert_array_equal(part.batch(step)["labels"], expected["labels"][at::2])
    assert empty >= 1


def test_room_for_eight_deviations_and_no_more_than_all_rows() -> None:
    assert capacity_of(64, 10_000, 4) == 128 and capacity_of(64, 100, 8) == 104 and capacity_of(1, 100, 1) == 9
    full = PoissonBatches(_rows(50), batch_size=40, capacity=30, seed=0)
    numbers = [full.row_numbers(step) for step in range(200)]
    assert max(map(len, numbers)) == 30 and all((np.diff(each) > 0).all() for each in numbers)
    assert np.bincount(np.concatenate(numbers), minlength=50).min() > 60  # a random subset, not the first ones


def test_sizes_and_epochs_are_those_of_what_is_expected() -> None:
    batches = PoissonBatches(_rows(20), batch_size=5, capacity=16, seed=1)
    assert batches.sizes == (16,) and batches.size(3) == 16 and batches.rate == 0.25
    assert batches.steps_for(2) == 8 and batches.epoch_of(8) == 2.0 and batches.rows_before(3) == 15
