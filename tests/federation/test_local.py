"""Local rounds are the ordinary step: one client that takes part in every round trains as a run does."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.federation.client import client_seed
from jaxfm.federation.local import LocalRules, check
from jaxfm.federation.server import Server, ServerRules
from jaxfm.schema import replaced
from jaxfm.training.adaptation import MovingAverage
from tests.federation.conftest import ROUNDS, STEPS, Began


def test_one_client_of_fedavg_trains_as_the_run_does(began: Began) -> None:
    work = began.work()
    (client,) = began.clients(work, 1)
    server = Server(work.values_of(began.params), ServerRules(1, 1))
    first = server.values
    for round in range(ROUNDS):
        server.receive([client.train(server.values, round)])
    state = work.start(first, client_seed(began.config.seed, 0), 0, None)
    *_, last = began.session.steps(state, client.round_batches(0, STEPS * ROUNDS))
    central = work.values_of(last.state.params)
    assert int(last.state.step) == STEPS * ROUNDS
    for path, value in server.values.items():
        # x + (y - x) is rounded where y is not: the only difference.
        np.testing.assert_allclose(value, central[path], rtol=2e-6, atol=2e-7, err_msg=path)
    assert any(np.abs(value - first[path]).max() > 1e-3 for path, value in server.values.items())


def test_a_client_by_itself_trains_as_the_run_does(began: Began) -> None:
    work = began.work()
    (client,) = began.clients(work, 1)
    first = work.values_of(began.params)
    state = work.start(first, client.seed, 0, None)
    *_, last = began.session.steps(state, client.round_batches(0, STEPS * ROUNDS))
    central, alone = work.values_of(last.state.params), client.train_alone(first, ROUNDS)
    assert all(np.array_equal(value, central[path]) for path, value in alone.items())


def test_what_is_frozen_neither_travels_nor_moves(began: Began) -> None:
    work = began.work()
    values = work.values_of(began.params)
    assert not any(path.startswith("encoder/embeddings") for path in values)
    assert values["encoder/layers/ffn/up/kernel"].shape[0] == 1  # of two layers one is trained
    (client,) = began.clients(work, 1)
    update = client.train(values, 0)
    assert update.difference.keys() == values.keys()
    moved = work.params_of({path: value + update.difference[path] for path, value in values.items()})
    before, after = jax.device_get((began.params["encoder"], moved["encoder"]))
    jax.tree.map(np.testing.assert_array_equal, before["embeddings"], after["embeddings"])
    kernels = [each["layers"]["ffn"]["up"]["kernel"] for each in (before, after)]
    assert np.array_equal(kernels[0][0], kernels[1][0]) and not np.array_equal(kernels[0][1], kernels[1][1])


def test_the_base_can_be_used_again_after_a_round(began: Began) -> None:
    work = began.work()
    (client,) = began.clients(work, 1)
    values = work.values_of(work.base)
    one, other = client.train(values, 1), client.train(values, 1)  # steps give their buffers away
    assert all(np.array_equal(one.difference[path], other.difference[path]) for path in values)


def test_a_proximal_term_keeps_a_client_near(began: Began) -> None:
    values = began.work().values_of(began.params)

    def distance(method: str, proximal: float) -> float:
        (client,) = began.clients(began.work(method, proximal), 1)
        return sum(float(np.square(each).sum()) for each in client.train(values, 0).difference.values()) ** 0.5

    assert distance("fedprox", 5.0) < 0.9 * distance("fedavg", 0.0)


def test_what_local_training_does_not_have_is_refused(began: Began) -> None:
    session, config = began.session, began.config
    for key, value in (("adapt.ema", 0.9), ("adapt.average_best", 3), ("train.verify_every_steps", 2)):
        with pytest.raises(UserError, match=f"config.{key}="):
            check(session, replaced(config, {key: value}))
    averaging = dataclasses.replace(session.adaptation, averaging=MovingAverage(0.9))
    with pytest.raises(UserError, match="config.optim.name=sgd"):
        check(dataclasses.replace(session, adaptation=averaging), config)
    for rules, message in (
        (dict(method="fedprxo"), "Did you mean 'fedprox'"),
        (dict(method="fedprox"), "--proximal=0: must be above 0"),
        (dict(proximal=0.1), "--proximal=0.1: must be 0 without"),
        (dict(steps=0, epochs=0.0), "one of them must be above 0"),
    ):
        with pytest.raises(UserError, match=message):
            LocalRules(**rules)  # type: ignore[arg-type]
