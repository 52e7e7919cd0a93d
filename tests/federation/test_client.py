"""A client: what it sends, what of it depends on others (nothing), and what SCAFFOLD remembers."""

import dataclasses

import numpy as np

from jaxfm.federation.client import ClientData, client_seed
from tests.federation.conftest import STEPS, Began


def test_an_update_says_nothing_of_the_data(began: Began) -> None:
    work = began.work()
    client = began.clients(work, 2)[1]
    values = work.values_of(began.params)
    update = client.train(values, 0)
    assert (update.client, update.examples, update.steps, update.control) == (1, 32, STEPS, None)
    assert {field.name for field in dataclasses.fields(update)} == {
        *("client", "difference", "examples", "steps", "metrics", "control")
    }
    for path, value in update.difference.items():
        # Arrays of parameters, nothing else: no shape of a batch, no whole number of tokens or labels.
        assert value.dtype == np.float32 and value.shape == values[path].shape
    assert all(type(value) is float for value in update.metrics.values()) and 0 < update.metrics["loss"] < 10


def test_clients_have_seeds_of_their_own(began: Began) -> None:
    assert len({client_seed(seed, number) for seed in (0, 1) for number in range(50)}) == 100
    work = began.work()
    few, many = began.clients(work, 2), began.clients(work, 4)
    for one, other in zip(few, many, strict=False):  # whoever else there is
        for left, right in zip(one.round_batches(1, STEPS), other.round_batches(1, STEPS), strict=True):
            assert all(np.array_equal(left[name], right[name]) for name in left)
    first, second = next(few[0].round_batches(0, 1)), next(few[1].round_batches(0, 1))
    assert not np.array_equal(first["tokens"], second["tokens"])
    later = next(few[0].round_batches(1, 1))
    assert not np.array_equal(first["tokens"], later["tokens"])


def test_fewer_steps_are_the_first_ones(began: Began) -> None:
    work = began.work()
    (client,) = began.clients(work, 1)
    values = work.values_of(began.params)
    slow = client.train(values, 0, steps=1)
    assert slow.steps == 1
    state = work.start(values, client.seed, 0, None)
    (only,) = began.session.steps(state, client.round_batches(0, 1))
    expected = work.values_of(only.state.params)
    for path, value in slow.difference.items():
        np.testing.assert_array_equal(value, expected[path] - values[path])


def test_scores_are_those_of_the_task(began: Began) -> None:
    work = began.work()
    (client,) = began.clients(work, 1)
    scores = client.score(work.values_of(began.params))
    rows = began.task.datasets["valid"]
    expected = began.task.scorer("valid").metrics(work.evaluate(began.params, rows))
    assert scores.examples == 16 and scores.metrics == {name: float(value) for name, value in expected.items()}
    client.data = ClientData(client.data.rows, 31)
    assert client.score(work.values_of(began.params)).metrics == {}


def test_a_new_control_variate_is_the_gradient_on_the_way(began: Began) -> None:
    work = began.work("scaffold")
    (client,) = began.clients(work, 1)
    values = work.values_of(began.params)
    update = client.train(values, 0, steps=1, control={path: np.zeros_like(value) for path, value in values.items()})
    assert update.control is not None
    # Gradient descent moves by -rate (clipped gradient + decay y), where biases and norms have no decay.
    rate, decay = float(began.session.schedule(0)), began.config.optim.weight_decay
    kernel, bias = "encoder/layers/ffn/up/kernel", "encoder/layers/ffn/up/bias"
    of_bias = -update.difference[bias] / rate
    factor = float((of_bias * update.control[bias]).sum() / np.square(update.control[bias]).sum())  # of clipping
    assert 0.01 < factor <= 1.0
    np.testing.assert_allclose(of_bias, factor * update.control[bias], rtol=1e-3, atol=1e-5)
    of_kernel = -update.difference[kernel] / rate - decay * values[kernel]
    np.testing.assert_allclose(of_kernel, factor * update.control[kernel], rtol=1e-3, atol=1e-5)


def test_a_control_variate_counts_where_its_round_does(began: Began) -> None:
    work = began.work("scaffold")
    (client,) = began.clients(work, 1)
    values = work.values_of(began.params)
    zeros = {path: np.zeros_like(value) for path, value in values.items()}
    update = client.train(values, 0, control=zeros)
    assert update.control is not None and update.size == 2 * began.clients(began.work(), 1)[0].train(values, 0).size
    client.settle(accepted=False)
    assert client.control is None
    again = client.train(values, 0, control=zeros)
    client.settle(accepted=True)
    assert client.control is not None and again.control is not None
    assert all(np.array_equal(client.control[path], again.control[path]) for path in values)
    # Where server and client say the same, nothing is corrected.
    same = client.train(values, 0, control=client.control)
    assert all(np.array_equal(same.difference[path], update.difference[path]) for path in values)
    assert same.control is not None and all(not value.any() for value in same.control.values())
