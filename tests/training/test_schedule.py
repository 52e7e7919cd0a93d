"""How many updates a run has, and when it is evaluated."""

from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.batch import Field, Volume
from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.pipeline import TrainBatches
from jaxfm.schema import replaced
from jaxfm.training.schedule import count_evaluations, count_updates, is_evaluation


def batches(rows: int, batch_size: int) -> TrainBatches:
    spec = {"x": Field((1,), np.dtype(np.float32))}
    data = ArrayDataset({"x": np.zeros((rows, 1), np.float32)}, spec, Volume("tokens", 1, 1))
    return TrainBatches(data, batch_size=batch_size, seed=0)


def config(**values: Any) -> Config:
    return replaced(Config(), {f"{key.replace('__', '.')}": value for key, value in values.items()})


def test_few_examples_get_the_least_number_of_updates_and_the_log_says_so() -> None:
    total, (note,) = count_updates(config(train__epochs=4.0, train__min_steps=200), batches(11, 4))
    assert total == 200
    assert note == (
        "updates: 4 epochs of so few examples would be 11 updates; the run makes 200 (72.7 epochs), as "
        "train.min_steps says"
    )


def test_many_examples_get_their_epochs_and_steps_that_are_set_stay() -> None:
    assert count_updates(config(train__epochs=3.0, train__min_steps=200), batches(1000, 4)) == (750, ())
    assert count_updates(config(train__steps=150, train__min_steps=200), batches(1000, 4)) == (150, ())


def test_few_updates_are_warned_of() -> None:
    for values in ({"train__steps": 5}, {"train__epochs": 1.0}, {"train__epochs": 1.0, "train__min_steps": 7}):
        total, notes = count_updates(config(**values), batches(20, 4))
        assert (
            total in (5, 7)
            and notes[-1].startswith(f"WARNING: {total} updates in all")
            and "min_steps=200" in notes[-1]
        )


@pytest.mark.parametrize(
    ("rows", "batch", "values", "points"),
    [
        (8, 4, {"train__steps": 200}, list(range(10, 201, 10))),  # 100 epochs: 20 evaluations
        (40, 4, {"train__steps": 35}, [10, 20, 30, 35]),  # epochs, and the end
        (40, 4, {"train__steps": 9, "eval__every_steps": 4}, [4, 8, 9]),
        (40, 4, {"train__steps": 200}, list(range(10, 201, 10))),  # 20 epochs
        (40, 4, {"train__steps": 201}, [*range(11, 201, 11), 201]),  # 20.1 epochs
        (3, 4, {"train__steps": 5}, [1, 2, 3, 4, 5]),
    ],
)
def test_evaluations(rows: int, batch: int, values: dict[str, Any], points: list[int]) -> None:
    chosen, data = config(**values), batches(rows, batch)
    total = count_updates(chosen, data)[0]
    assert [step for step in range(1, total + 1) if is_evaluation(step, chosen, data, total)] == points
    assert count_evaluations(chosen, data, total) == len(points)
    assert len(points) <= 21
