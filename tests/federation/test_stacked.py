"""Clients trained in one program send what they send when they are trained one after the other."""

from typing import Any

import numpy as np
import pytest

from jaxfm.federation.stacked import StackedTraining
from jaxfm.federation.update import Values
from tests.federation.conftest import STEPS, Began


@pytest.mark.parametrize(
    "method", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("fedavg", "fedprox")), "scaffold"]
)
def test_one_program_and_turns_give_the_same_numbers(began: Began, method: str) -> None:
    work = began.work(method, 0.5 if method == "fedprox" else 0.0)
    values = work.values_of(began.params)
    # Three clients in a program of two places: one place is empty at last. The second client is slow.
    steps = (STEPS, 1, STEPS)
    control: Values | None = None
    if method == "scaffold":
        rng = np.random.default_rng(0)
        control = {path: rng.standard_normal(value.shape).astype(np.float32) for path, value in values.items()}
    stack, together, alone = StackedTraining(work, 2), began.clients(work, 3), began.clients(work, 3)
    for round in range(2):
        turns: Any = list(zip(together, steps, strict=True))
        stacked = stack.train(turns, values, round, control)
        for update, client, count in zip(stacked, alone, steps, strict=True):
            single = client.train(values, round, steps=count, control=control)
            assert (update.client, update.steps, update.examples) == (single.client, single.steps, single.examples)
            assert update.metrics.keys() == single.metrics.keys()
            assert update.metrics["loss"] == pytest.approx(single.metrics["loss"], rel=1e-5)
            for path, value in single.difference.items():
                np.testing.assert_allclose(update.difference[path], value, rtol=1e-4, atol=2e-6, err_msg=path)
            if single.control is not None:
                assert update.control is not None
                for path, value in single.control.items():
                    np.testing.assert_allclose(update.control[path], value, rtol=1e-4, atol=1e-5, err_msg=path)
        for client in (*together, *alone):
            client.settle(accepted=True)
    assert np.abs(stacked[0].difference["head/kernel"] - stacked[2].difference["head/kernel"]).max() > 1e-4
